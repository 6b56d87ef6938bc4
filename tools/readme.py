"""Write the results block of README.md from data/results: `python tools/readme.py`; `--check` only says whether it is up to date."""
import sys
from pathlib import Path

from pgrpo.experiment import comparison_table, load_results
from pgrpo.statistics import differences_table

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def block() -> str:
    "The tables as Markdown."
    one, seeds = (load_results(ROOT / "data" / "results" / f"{name}.jsonl") for name in ("demo", "seeds"))
    return f"""{BEGIN}
## What `make run` shows

![Hack rate while training and held-out hack and solve rates of the deployed model, for none, erase and route](figures/demo.svg)

{comparison_table(one, markdown=True)}

Held-out problems, mean over the four loophole modes. *hack*: paid by the loophole although wrong. *solve*: right. *attempted*: carries an exploit, paid or not. *deployed*: without the second vector, which only `route` fills. One seed; times are of a machine with two cores and other work on it.

Means over seeds, *n* of them, with a random V in place of the real one as control (`pgrpo results data/results/seeds.jsonl`):

{comparison_table(seeds, markdown=True)}

Differences of the deployed model in points, paired by seed, with 95 % bootstrap intervals:

{differences_table(seeds, markdown=True)}

What this says, and what it does not. Left alone, GRPO finds the loophole of every mode, that of `sentinel` only in part on two seeds of three, and forgets most of its honest work over it. Erasing the hack-ward part of the gradient keeps the policy at about the base policy's hack rate and costs a few points of honest solving; a random V of the same shape takes a few points off the hacking and no more, so it is the direction that matters. Routing leaves a deployed model that hardly hacks and solves nothing: the model that trains hacks throughout, so nothing teaches δS the honest way. Acting on whole rollouts instead of directions (`erase rollout`, `route rollout`) is no better here. With three seeds or fewer an interval is a hint; where n is 1 there is none.
{END}"""


def filled(text: str) -> str:
    "The README with its block renewed."
    return text[:text.index(BEGIN)] + block() + text[text.index(END) + len(END):]


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    if "--check" in sys.argv: sys.exit(0 if filled(text) == text else "README.md does not show what data/results holds; run tools/readme.py")
    path.write_text(filled(text), encoding="utf-8")
