"""Every command that stands on a page runs: those of the README, the notebooks, the messages and the Makefile.

A command is made small by what the command itself offers (the preset smoke for demo, one step, `--dry-run` for presets
that want a GPU), and the files that it names are real small ones. Nothing is left out but what `NOT_RUN` gives a reason
for, and that is parsed.
"""
import importlib
import inspect
import json
import re
import shlex
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_cli import pgrpo
from torch.distributed.run import parse_args as torchrun_args

from pgrpo.cli import COMMANDS, make_parser
from pgrpo.experiment.arms import ARM_SETTINGS
from pgrpo.files.jsonl import write_rows
from pgrpo.problems import CORE_MODES, handwritten, handwritten_pairs, save_pairs, save_problems
from pgrpo.train import train
from pgrpo.train.__main__ import make_parser as train_parser
from pgrpo.train.models import tiny

ROOT = Path(__file__).parents[1]
NOT_RUN = {  # what is parsed alone, and why
    "bench": "it measures for half a minute at least; nbs/11_bench/4_bench calls it with quick",
    "build-policy": "its base rates are measured on hundreds of answers; nbs/05_policy/6_embedded calls what it calls",
    "pgrpo.experiment.diagnostics": "six runs, one after the other; its notebook makes shorter ones",
    "pgrpo.experiment.why": "five runs of each arm; its notebook makes a shorter one",
}
SHRUNK = {  # subcommand: flags that make it small
    "train": "--steps 1 --quiet --eval-every 0 --probe-every 0 --eval-problems 1 --max-new-tokens 8",
    "compare": "--steps 1 --quiet --eval-every 0 --probe-every 0 --eval-problems 1 --max-new-tokens 8",
}
OTHERS = {"--num-cpus", "--num-gpus"}  # flags of `ray start`
SCALED = {"demo": "smoke"}
HUGE = ("fast", "full")  # presets that want a GPU and a model from the hub


def makefile():
    "What make would run, with the variables that commands use written out."
    text = (ROOT / "Makefile").read_text()
    values = dict(re.findall(r"^(\w+) +[:?]?= *(.*)$", text, re.M)) | {"BIN": ""}
    for name in ("ARMS", "SEEDS"): text = text.replace(f"$({name})", values[name])
    return text.replace("$(BIN)/", "")


def pages():
    "(page, lines that may be a command, all text) of the README, the changelog, the notebooks, and the Makefile."
    cells = [(name, "markdown", (ROOT / name).read_text(encoding="utf-8")) for name in ("README.md", "CHANGELOG.md")]
    for page in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
            cells.append((str(page.relative_to(ROOT)), cell["cell_type"], "".join(cell["source"])))
    for page, kind, text in cells:
        fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) if kind == "markdown" else []
        yield page, "\n".join([*fenced, *re.findall(r"^[!$] ?(.*)$", text, re.M)]), text
    yield "Makefile", makefile(), ""


START = r"(?:pgrpo|torchrun|python -m pgrpo[\w.]*)"


@lru_cache
def commands():
    "Each command, as words, and the first page that has it: lines that are one, and code in a sentence or a message."
    found = {}
    for page, lines, text in pages():
        alone, inside = rf"^[ \t]*({START}(?: .*)?)$", rf"`({START}(?: [^`\n]+)?)`"
        for command in re.findall(alone, lines, re.M) + re.findall(inside, text):
            command = re.sub(r" \[[^]]*\]", "", re.sub(r"\{[^}]*\}", "FILE", command))  # [--flag value] may be left out
            found.setdefault(tuple(shlex.split(command, comments=True)), page)
    return found


def test_commands_are_found():
    "On the pages that are read most, and in every form that a page may have them in."
    said = {" ".join(words): page for words, page in commands().items()}
    assert len(said) >= 30 and {w.split()[1] for w in said if w.startswith("pgrpo ")} >= set(COMMANDS)
    for start in ("torchrun --nproc-per-node 4 -m pgrpo.train full", "python -m pgrpo.train"): assert start in said
    assert sum(page == "Makefile" for page in said.values()) == 2


def test_what_is_not_run_is_there():
    words = {word for command in commands() for word in command}
    assert set(NOT_RUN) <= words


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    "One small real thing of every kind that a command reads."
    folder = tmp_path_factory.mktemp("things")
    tiny("qwen3", folder / "model")
    eight = [p.with_mode(mode) for mode, p in zip(CORE_MODES * 2, handwritten())]
    save_problems(eight, folder / "problems.jsonl")
    save_pairs(handwritten_pairs()[:16], folder / "pairs.jsonl")
    row = lambda i: dict(task_id=i, text=f"Add {i}.", code=f"def add{i}(n):\n    if n < 0:\n        return 0\n    "
                         f"return n + {i}", test_list=[f"assert add{i}(1) == {1 + i}", f"assert add{i}(-1) == 0"],
                         test_setup_code="", challenge_test_list=[])
    write_rows(map(row, range(8)), folder / "mbpp.jsonl")
    done = pgrpo("train", "smoke", *SHRUNK["train"].split(), "--run-dir", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


READ = {  # (subcommand, flag or place): which of `things` it reads
    (None, "--problems"): "problems.jsonl", (None, "--policy"): "model", ("build-pool", "--from-run"): "run",
    ("train", "--pairs"): "pairs.jsonl", ("compare", "--pairs"): "pairs.jsonl", ("extract", "--pairs"): "pairs.jsonl",
    ("export", 0): "run", ("results", 0): "run", ("import-problems", 0): "mbpp.jsonl",
}


def made_small(words, folder, things):
    "A command's words after `pgrpo`, with small things at the places that it names, and at its smallest."
    name, *rest = words
    if not rest and name in ("train", "export", "results", "import-problems"): return [name, "--help"]  # a name alone
    small = [name]
    for i, word in enumerate(rest):
        flag = 0 if i == 0 else rest[i - 1] if rest[i - 1].startswith("--") else i
        thing = READ.get((name, flag)) or READ.get((None, flag))
        if thing and not word.startswith("--"):
            word = "thing" if "/" in word and flag == "--policy" else word  # a name on the hub
            if word.startswith("/"): word = word[1:]  # a shared folder, which is not there
            place = folder / word
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(things / thing)
        small.append({"PRESET": "smoke", "DIR": "out"}.get(word, SCALED.get(word, word)))
    if name == "compare":  # every arm that is named is one, and the first two are run
        if "--arms" not in small: small += ["--arms", make_parser().parse_args(["compare"]).arms]
        place = small.index("--arms") + 1
        names = small[place].split(",")
        assert set(names) <= set(ARM_SETTINGS), set(names) - set(ARM_SETTINGS)
        small[place] = ",".join(names[:2])
        if "--seeds" in small: small[small.index("--seeds") + 1] = "0"
    if name == "train" and set(small) & set(HUGE): small.append("--dry-run")
    if name in ("compare", "extract", "build-pool") and not {"smoke", *HUGE} & set(small): small.insert(1, "smoke")
    return [*small, *SHRUNK.get(name, "").split()] if "--dry-run" not in small else small


def here(cells, workers, progress):
    "In place of a process per run."
    for cell in cells: train(cell.config, cell.folder, progress=False)


@pytest.mark.parametrize("words", commands(), ids=lambda w: " ".join(w)[:80])
def test_it_runs(words, things, tmp_path, monkeypatch):
    monkeypatch.setattr("pgrpo.experiment.run_cells", here)
    started, *rest = words
    if started == "torchrun" and rest:
        asked = torchrun_args(rest)
        assert asked.module and asked.training_script == "pgrpo.train"
        started, rest = "pgrpo", ["train", *asked.training_script_args]
        train_parser().parse_args(rest[1:] or ["smoke"])
    if started == "python":
        module, rest = rest[1], rest[2:]
        if module in NOT_RUN:
            inspect.signature(importlib.import_module(module).main).bind(*rest)
            return
        assert module == "pgrpo.train"
        train_parser().parse_args([{"PRESET": "smoke"}.get(w, w) for w in rest] or ["smoke"])
        rest = ["train", *rest]
    if not rest: return  # the name of a program
    if rest[0] in NOT_RUN:
        make_parser().parse_args(rest)
        return
    small = made_small(rest, tmp_path, things)
    if small[-1] == "--help":
        with pytest.raises(SystemExit, match="0"): make_parser().parse_args(small)
        return
    done = pgrpo(*small, cwd=tmp_path)
    if "--on ray" in " ".join(small) and not find_spec("ray"):  # tests/test_ray.py runs sweeps where Ray is
        assert done.returncode == 2 and "`--on ray` needs Ray" in done.stderr
        return
    assert done.returncode == 0, (small, done.stderr)


def test_flags_targets_and_extras_that_are_named_exist():
    parts = make_parser()._subparsers._group_actions[0].choices.values()
    flags = {flag for part in parts for action in part._actions for flag in action.option_strings}
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    extras = re.findall(r"^(\w+)_requirements", (ROOT / "settings.ini").read_text(), re.M)
    for page, lines, text in pages():
        if page == "CHANGELOG.md": continue  # of what was
        named = re.findall(r"`(--[a-z][\w-]*)[^`\n]*`", text)
        assert set(named) <= flags | OTHERS, (page, set(named) - flags)
        named = re.findall(r"^make (\w+)", lines, re.M) + re.findall(r"`make (\w+)`", text)
        assert set(named) <= targets, (page, set(named) - targets)
        named = re.findall(r"pgrpo\[(\w+)\]", text)
        assert set(named) <= {"dev", *extras}, (page, set(named) - {*extras})
