"What is installed is what the repo says."
import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted((ROOT / "pgrpo").rglob("*.py"))
    if p.stem != "_modidx" and p.read_text()[:2] == "# "
}
MODULES = sorted(FILES)  # written by a notebook each
settings = ConfigParser(delimiters=["="], interpolation=None)
settings.read(ROOT / "settings.ini")
EXTRAS = {
    "pgrpo.grpo.callback": {"datasets"}, "pgrpo.bench.updates": {"trl", "peft", "datasets"},
    "pgrpo.train.sinks": {"wandb"}, "pgrpo.grpo.engines": {"vllm"}, "pgrpo.experiment.cluster": {"ray"},
}  # imported only where they are asked for
NAMES = {"pillow": "pil"}  # where the package is not called as it is imported
REQUIRED = {
    NAMES.get(r.split(">")[0].lower(), r.split(">")[0].lower()) for r in settings["DEFAULT"]["requirements"].split()
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import): yield from (a.name.split(".")[0] for a in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0: yield node.module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_plain_install_has_what_a_module_imports(module):
    optional = EXTRAS.get(module, set())
    if module == "pgrpo.figures.plots": optional = {"IPython"}
    if module.startswith("pgrpo.widgets"):
        optional = {"IPython", "ipywidgets", "anywidget", "traitlets", "pygments"}  # the extra "notebook"
    foreign = set(imports(FILES[module])) - set(sys.stdlib_module_names) - {"pgrpo"} - optional
    assert {f.lower() for f in foreign} <= REQUIRED


@pytest.mark.parametrize(
    "module",
    [
        "problems", "files.jsonl", "sandbox", "grader", "problems.generator", "sandbox.worker", "sandbox.isolation",
        "strategies", "config", "flags", "cli",
    ],
)
def test_the_environment_needs_no_torch(module):
    code = f"import sys, pgrpo.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_requirement_is_used():
    used = {name.lower() for module in MODULES for name in imports(FILES[module])}
    assert REQUIRED - used == set()


HOUSE = """
cli
widgets      experiment    bench
train
grpo         pool
policy
grader       flags
sandbox      vhack         config
problems     adapter       strategies
figures
files        projection    encode
"""  # rooms, the top floor first; each imports what stands below it
FLOORS = {room: floor for floor, line in enumerate(reversed(HOUSE.split("\n"))) for room in line.split()}


def inner_imports(module):
    "Modules of the package that a module imports anywhere in its file: absolute, relative and indented alike."
    file = FILES[module]
    here = module.split(".") if file.stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import): named = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[:len(here) - node.level + 1] if node.level else []
            base = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            named = [f"{base}.{a.name}" for a in node.names]
        else: continue
        for name in named:
            while name and name not in FILES: name = name.rpartition(".")[0]
            if name and name != module: yield name


def room(module): return module.split(".")[1]


def order_of_reading():
    "Module to the place of its notebook."
    order = {}
    for number, notebook in enumerate(sorted((ROOT / "nbs").rglob("*.ipynb"))):
        found = re.search(r"#\| default_exp ([\w.]+)", notebook.read_text())
        if found: order["pgrpo." + found[1].removesuffix(".__init__")] = number
    return order


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for other in inner_imports(module):
        assert room(other) == room(module) or FLOORS[room(other)] < FLOORS[room(module)], (
            f"{module} imports {other}, which does not stand below it"
        )


def test_no_circle():
    "Modules can be taken away one after the other, each when nothing that is left imports it."
    left = {m: set(inner_imports(m)) for m in MODULES}
    while left:
        free = [m for m, needs in left.items() if not needs & set(left)]
        assert free, f"these import each other: {sorted(left)}"
        for m in free: del left[m]


def test_reading_order_is_the_import_order():
    order, appendix = order_of_reading(), ("pgrpo.figures", "pgrpo.files")
    assert set(order) == set(MODULES)
    for module in MODULES:
        for other in inner_imports(module):
            if not other.startswith(appendix):
                assert order[other] < order[module], f"{module} imports {other}, whose notebook comes later"


def test_readme_shows_the_stored_results():
    import readme
    assert list(readme.stale()) == []


LONGER = {"pgrpo.problems.generator"}  # tables of the world's parts


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_one_idea_that_says_what_it_is(module):
    text = FILES[module].read_text()
    assert len(text.splitlines()) <= 300 or module in LONGER
    tree = ast.parse(text)
    said = [n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__doc__"]
    assert said, f"{module} does not say what it is; set __doc__ in its first exported cell"
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)): continue
        if isinstance(node, ast.FunctionDef): assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"
        said = ast.get_docstring(node)
        if said and not node.name.startswith("_"):
            assert said.rstrip()[-1] in ".:?!", f"{node.name}: a docstring is a sentence: {said!r}"
