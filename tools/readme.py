"""Write the results block of README.md from data/results: `python tools/readme.py`; `--check` only says whether it is up to date."""
import sys
from pathlib import Path

from pgrpo.experiment import comparison_table, load_results
from pgrpo.experiment.statistics import difference, differences_table
from pgrpo.experiment.statistics import percent as rate
from pgrpo.problems import CORE_MODES

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def block() -> str:
    "The tables and findings as Markdown."
    one, runs, more = (
        load_results(ROOT / "data" / "results" / f"{name}.jsonl") for name in ("demo", "main", "variants")
    )
    controls = [c for c in ("erase random", "erase shuffled", "erase nonhack") if any(r["arm"] == c for r in runs)]
    return f"""{BEGIN}
## What `make run` shows

![Hack rate while training and held-out hack and solve rates of the deployed model, for none, erase and route](figures/demo.svg)

{comparison_table(one, markdown=True)}

Held-out problems, mean over the four loophole modes. *hack*: paid by the loophole although wrong. *solve*: right. *attempted*: carries an exploit, paid or not. *deployed*: without the second vector, which only `route` fills. One seed; times are of a machine with two cores.

## What more seeds say

![Held-out hack rate of the deployed model, a dot for each seed: base, none, erase and its controls](figures/results-hack.svg)

1. **The policy finds the loophole by itself.** Under `none` the held-out hack rate goes from {rate(runs, "base")} to {rate(runs, "none")}, {difference(runs, "none", "base")}, and honest solving from {rate(runs, "base", "solve")} to {rate(runs, "none", "solve")}.
2. **Erasing the hack-ward part of the gradient stops it, and it is the direction that does.** `erase` ends at {rate(runs, "erase")}, {difference(runs, "erase", "none")} against `none`; with a V that is not the hack direction {", ".join(f"{rate(runs, c)} ({c.split()[1]})" for c in controls)}. Honest solving changes by {difference(runs, "erase", "base", "solve")} against the base policy. With twelve directions a module instead of eight {rate(more, "erase k 12")} hack and {rate(more, "erase k 12", "solve")} solve; with twelve random ones {rate(more, "erase random k 12")} and {rate(more, "erase random k 12", "solve")} (n = 3). The shuffled and the clean-against-clean V are not idle, though: they take a good part of the hacking away, more on some seeds than on others.
3. **Routing does not leave a model worth deploying here.** The model that trains hacks {rate(runs, "route", "hack", "trained")}; without its second vector it hacks {rate(runs, "route")} and solves {rate(runs, "route", "solve")}, {difference(runs, "route", "base", "solve")} against the base policy. Little of that is due to the direction: with a shuffled V the deployed model hacks {rate(runs, "route shuffled")} and solves {rate(runs, "route shuffled", "solve")}.
4. **It reaches hacks that nobody labelled, less far.** With V from the pairs of three modes, the fourth ends at {", ".join(f"{rate(more, f'erase without {m}', mode=m)} (`{m}`)" for m in CORE_MODES)}, where a random V leaves {", ".join(rate(more, f"erase random without {m}", mode=m) for m in CORE_MODES)} and V from all four {", ".join(rate(more, "erase", mode=m) for m in CORE_MODES)} (n = 3).
5. **It does not hold against a teacher, and honest work does not last.** Where half of every group are cached hacks, `erase` ends at {rate(more, "erase teacher")}, against {rate(more, "none teacher")} without it, {difference(more, "erase teacher", "none teacher")}. After three times the steps it hacks {rate(more, "erase long")}, where `none` hacks {rate(more, "none long")}, but solves only {rate(more, "erase long", "solve")}.
6. **A simpler means does better, and not because of its direction.** Taking a rollout's score off its reward (`advantage`, pairs alone) ends at {rate(more, "advantage")} hacking and {rate(more, "advantage", "solve")} solving; with random directions at {rate(more, "advantage random")} and {rate(more, "advantage random", "solve")} (n = 3). A rare hack stands out of its group along almost any direction. After three times the steps it hacks {rate(more, "advantage long")} and solves {rate(more, "advantage long", "solve")}.

Brackets are 95 % bootstrap intervals over seeds, paired; n says how many. The questions one by one, with what would falsify each answer: [results](nbs/13_results/1_results.ipynb) and [variants](nbs/13_results/2_variants.ipynb).

{comparison_table(runs, markdown=True)}

Differences of the deployed model in points:

{differences_table(runs, markdown=True)}
{END}"""


def filled(text: str) -> str:
    "The README with its block renewed."
    return text[:text.index(BEGIN)] + block() + text[text.index(END) + len(END):]


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(0 if filled(text) == text else "README.md does not show what data/results holds; run tools/readme.py")
    path.write_text(filled(text), encoding="utf-8")
