"What the pages point at is there, and what they say without saying what it is stands in the glossary."
import json
import re
from pathlib import Path

import pytest
import readme

from pgrpo.experiment.arms import ARM_SETTINGS
from pgrpo.experiment.findings import QUESTIONS
from pgrpo.grader import KINDS, Grade
from pgrpo.problems import CORE_MODES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "nbs").rglob("*.ipynb"))]
GLOSSARY = ROOT / "nbs" / "00_start" / "6_glossary.ipynb"


def prose(page):
    "What a page says in Markdown."
    if page.suffix == ".md": return page.read_text(encoding="utf-8")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:|mailto:", target): continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if not anchor: continue
        headings = {line.lstrip("# ").replace(" ", "-") for line in prose(file).splitlines() if line.startswith("#")}
        assert anchor in headings, target


def terms():
    "The words that the glossary has a line for, each by itself."
    first = [line.split(" | ")[0].strip("| ") for line in prose(GLOSSARY).splitlines() if line.startswith("| ")]
    return {word.strip("`*") for cell in first for word in re.split(r", ", cell)}


def test_the_glossary_explains_every_word_of_an_arm():
    plain = {"at", "no", "reverse", "refresh", "k", "pairs", "summed", "gate", "update"}  # settings
    words = {word for arm in ARM_SETTINGS for word in arm.split() if not word.isdigit()} - {"NLL", *CORE_MODES}
    known = " ".join(terms()).split()
    assert words - plain <= set(known), words - plain - set(known)
    assert plain <= set(re.findall(r"\w+", prose(GLOSSARY)))


def test_the_glossary_explains_what_a_row_and_a_grade_hold():
    text = prose(GLOSSARY)
    row = ["cin", "cin_null", "cout", "cout_update", "fired", "flagged", "norm_delta_s", "norm_delta_s_hack", "loss",
           "grad_norm", "reward", "hack_s", "solve_s", "attempted_s", "accidental_s", "step"]
    grade = set(Grade.__dataclass_fields__) - {"passed", "format_ok", "detail"}
    for word in [*row, *grade, *KINDS, *CORE_MODES]: assert re.search(rf"(?<!\w){word}(?!\w)", text), word


def test_the_pages_name_every_room_and_every_floor():
    rooms = {p.name for p in (ROOT / "nbs").iterdir() if p.is_dir() and p.name[0].isdigit()}
    assert set(readme.ROOMS) == rooms
    drawn = {name.rstrip("/") for name in readme.FLOORS.split()}
    package = {p.stem for p in (ROOT / "pgrpo").iterdir() if not p.name.startswith("_")}
    assert package <= drawn, package - drawn


def test_every_question_that_the_readme_answers_is_on_a_results_page():
    shown = "".join(p.read_text() for p in (ROOT / "nbs" / "13_results").glob("*.ipynb"))
    assert set(readme.SHOWN) <= set(QUESTIONS)
    for name in QUESTIONS: assert f'show_finding(\\"{name}\\"' in shown, name


def test_the_blocks_of_a_page_are_renewed_and_nothing_else():
    page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb"
    assert readme.filled(page, x="new") == page.replace("old", "new")
