"Figures: what needs a process of its own, and what they promise to other rooms."
import subprocess
import sys
from pathlib import Path

from pgrpo.experiment import load_results
from pgrpo.figures.palette import color, looks
from pgrpo.grader import KINDS

ROOT = Path(__file__).parents[1]


def python(code: str, *arguments: str) -> str:
    "What a fresh interpreter prints."
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_show_prints_one_sentence_outside_ipython():
    said = python("""
import sys
from pgrpo.figures.plots import curves, show

show(curves({"none": [1, 2, 3]}, title="t", yaxis="cin"))
assert "IPython" not in sys.modules
""")
    assert said == "Figure: t; horizontally step; vertically cin; showing none\n"


def test_a_page_is_the_same_in_another_process(tmp_path):
    code = """
import sys
from pgrpo.figures.plots import curves, save_figure

save_figure(curves({"none": [1, 2, 3], "erase": [[1, 1, 2], [2, 2, 2]]}), sys.argv[1])
"""
    for name in ("a", "b"): python(code, str(tmp_path / name / "figure"))
    for suffix in (".html", ".svg", ".png"):
        assert (tmp_path / "a" / f"figure{suffix}").read_bytes() == (tmp_path / "b" / f"figure{suffix}").read_bytes()


def test_plotly_is_left_alone_and_our_figures_carry_our_template():
    python("""
import plotly.graph_objects as go
import plotly.io as pio

before = pio.templates.default, go.Figure()

import pgrpo.experiment
import pgrpo.widgets
from pgrpo.bench import load_bench, scaling_figure
from pgrpo.experiment import comparison_figure, load_results
from pgrpo.experiment.charts import seeds_figure
from pgrpo.figures.plots import curves, styled
from pgrpo.widgets.figure import Plot, Plots

assert (pio.templates.default, go.Figure()) == before
assert pio.templates.default == "plotly"

runs, ours = load_results("data/results/demo.jsonl"), pio.templates["pgrpo"]
made = [comparison_figure(runs), seeds_figure(runs, ["base", "none"]), curves({"none": [1, 2]}),
        scaling_figure(load_bench("data/results/bench.json"))]
assert all(fig.layout.template == ours for fig in made)

bare = go.Figure(go.Bar(y=[1, 2]))
assert styled(bare).layout.template == ours != bare.layout.template
plots = Plots()
plots.show([bare])
for spec in (Plot(bare).figure, plots.figures[0]):
    assert spec["layout"]["template"]["layout"]["font"]["color"] == ours.layout.font.color
""")


def test_the_palette_needs_neither_plotly_nor_torch():
    python("import sys, pgrpo.figures.palette; assert not {'plotly', 'torch', 'numpy'} & set(sys.modules)")


def test_no_arm_that_was_ever_run_looks_like_a_kind_of_rollout():
    kinds = {color(kind) for kind in KINDS}
    assert len(kinds) == len(KINDS)
    arms = {run["arm"] for name in ("main", "old_world") for run in load_results(ROOT / f"data/results/{name}.jsonl")}
    assert len(arms) > 50
    for arm in arms: assert color(arm) not in kinds, arm
    assert looks(["erase random"])["erase random"] == looks(["route random"])["route random"]
