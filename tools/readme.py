"""Write what is computed into README.md and nbs/index.ipynb: the findings from data/results, the rooms from nbs/.

    python tools/readme.py [--check]     --check only says whether both are up to date
"""
import json
import sys
from pathlib import Path

from run_notebooks import tidy_ids

from pgrpo.experiment.findings import finding
from pgrpo.files.text import table

ROOT = Path(__file__).parents[1]

SHOWN = (  # questions that the README answers, of those in `pgrpo.experiment.findings`
    "balance", "emerges", "direction", "controls", "cost", "below", "reaches", "simpler", "discount",
    "routing", "worlds",
)

FLOORS = """
cli
widgets/      experiment/    bench/
train/
grpo/         pool
policy/
grader/       flags
sandbox/      vhack/         config
problems/     adapter/       strategies/
figures/
files/        projection     encode
""".strip()  # the top floor first; a name that the package does not have is left out

ROOMS = {  # folder of notebooks: what it holds
    "00_start": "tutorials, guides for GPUs and clusters, and the glossary",
    "01_adapter": "one vector per Linear; every rollout's gradient out of one backward; at zero the base model exactly",
    "02_problems": "problems, the sentence that discloses the loophole, labelled pairs, what an exploit looks like",
    "03_sandbox": "warm workers behind several walls, which run hostile code",
    "04_grader": "reward and labels; why its oracle cannot be forged",
    "05_policy": "a small world with a known ceiling, and the 0.9 M parameter policy that lives in it",
    "06_vhack": "the hack direction and its controls; what projecting a gradient does and what not; scores",
    "06a_strategies": "every means against hacking as one object in one registry: what it needs, what it does",
    "07_grpo": "one update: generate, grade, advantage, backward, project, step; the same in TRL",
    "08_train": "settings, the loop and its files, exact resumption, several GPUs, plans, exports",
    "09_experiment": "arms side by side, paired by seed; every verdict a function of the runs",
    "10_widgets": "the stepper, token colours, the inspector, the explorer and the live view, built and tried",
    "11_bench": "speed and memory as ratios against named alternatives",
    "12_cli": "the command",
    "13_results": "what the runs say, question by question",
    "90_figures": "how figures look, and how they are drawn without a browser",
    "91_files": "files that are whole, locks, tables in text, the machine, child processes, lines redrawn in place",
}


def findings() -> str:
    "A question and its answer per line."
    return "\n".join(f"{i}. {finding(name)!r}" for i, name in enumerate(SHOWN, 1))


def floors() -> str:
    "The rooms of the package as they stand on one another."
    there = {p.stem + "/" * p.is_dir() for p in (ROOT / "pgrpo").iterdir()}
    lines = ["".join(name.ljust(15) for name in line.split() if name in there).rstrip() for line in FLOORS.splitlines()]
    return "```\n" + "\n".join(lines) + "\n```"


def rooms(base: str) -> str:
    "A row per folder of notebooks, in the order of reading; `base`: where nbs/ lies from the page."
    body = []
    for folder in sorted(p for p in (ROOT / "nbs").iterdir() if p.is_dir() and p.name[0].isdigit()):
        number, name = folder.name.split("_", 1)
        notebooks = sorted(folder.glob("*.ipynb"))
        links = [f"[{p.stem.replace('_', ' ')}]({base}{folder.name}/{p.name})" for p in notebooks]
        body.append([f"{number} {name}", ROOMS[folder.name], ", ".join(links)])
    return table(["room", "what it holds", "its notebooks"], body, markdown=True, left=3)


def filled(text: str, **blocks: str) -> str:
    "A page with its blocks renewed: what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."
    for name, block in blocks.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        text = text[: text.index(begin) + len(begin)] + f"\n{block}\n" + text[text.index(end) :]
    return text


def readme(text: str) -> str:
    return filled(text, findings=findings(), floors=floors(), rooms=rooms("nbs/"))


def index(text: str) -> str:
    "The notebook with the rooms renewed in the cell that holds them."
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if "<!-- rooms: begin -->" not in source: continue
        cell["source"] = filled(source, floors=floors(), rooms=rooms("")).splitlines(keepends=True)
    tidy_ids(notebook["cells"])
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


PAGES = {"README.md": readme, "nbs/index.ipynb": index}


def stale() -> dict[str, str]:
    "Pages that do not show what data/results and nbs hold, as they would be."
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    renewed = {name: renew(texts[name]) for name, renew in PAGES.items()}
    return {name: text for name, text in renewed.items() if text != texts[name]}


if __name__ == "__main__":
    for name, text in stale().items():
        if "--check" in sys.argv:
            sys.exit(f"{name} does not show what data/results and nbs hold; run tools/readme.py")
        (ROOT / name).write_text(text, encoding="utf-8")
