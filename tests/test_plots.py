"What needs a process of its own: figures outside IPython."
import subprocess
import sys


def test_show_prints_one_sentence_outside_ipython():
    code = "import sys; from pgrpo.figures.plots import curves, show; show(curves({'none': [1, 2, 3]}, title='t', yaxis='cin')); assert 'IPython' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Figure: t; horizontally step; vertically cin; showing none\n"


def test_a_page_is_the_same_in_another_process(tmp_path):
    code = "import sys; from pgrpo.figures.plots import curves, save_figure; save_figure(curves({'none': [1, 2, 3], 'erase': [[1, 1, 2], [2, 2, 2]]}), sys.argv[1])"
    for name in ("a", "b"): subprocess.run([sys.executable, "-c", code, str(tmp_path / name / "figure")], check=True)
    for suffix in (".html", ".svg", ".png"):
        assert (tmp_path / "a" / f"figure{suffix}").read_bytes() == (tmp_path / "b" / f"figure{suffix}").read_bytes()
