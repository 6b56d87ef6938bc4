"What is installed is what the repo says."
import ast
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(p.stem for p in (ROOT / "pgrpo").glob("*.py") if p.stem not in ("__init__", "_modidx"))
settings = ConfigParser(delimiters=["="], interpolation=None)
settings.read(ROOT / "settings.ini")
WIDGETS = {"frame", "phases", "stepper", "tokens", "figure", "inspector", "explorer", "live", "widgets"}  # they need the extra "notebook"
EXTRAS = {"callback": {"datasets"}, "workloads": {"trl", "peft", "datasets"}, "sinks": {"wandb"}, "engines": {"vllm"}}  # imported only where they are asked for
NAMES = {"pillow": "pil"}  # where the package is not called as it is imported
REQUIRED = {NAMES.get(r.split(">")[0].lower(), r.split(">")[0].lower()) for r in settings["DEFAULT"]["requirements"].split()}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import): yield from (a.name.split(".")[0] for a in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0: yield node.module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_plain_install_has_what_a_module_imports(module):
    optional = {"IPython"} if module == "plots" else {"IPython", "ipywidgets", "anywidget", "traitlets", "pygments"} if module in WIDGETS else EXTRAS.get(module, set())
    foreign = set(imports(ROOT / "pgrpo" / f"{module}.py")) - set(sys.stdlib_module_names) - {"pgrpo"} - optional
    assert {f.lower() for f in foreign} <= REQUIRED


@pytest.mark.parametrize("module", ["problems", "jsonl", "sandbox", "grader", "generator", "worker", "isolation"])
def test_the_environment_needs_no_torch(module):
    code = f"import sys, pgrpo.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_requirement_is_used():
    used = {name.lower() for module in MODULES for name in imports(ROOT / "pgrpo" / f"{module}.py")}
    assert REQUIRED - used == set()


def test_reading_order_is_the_import_order():
    order = {}
    for number, notebook in enumerate(sorted((ROOT / "nbs").glob("*.ipynb"))):
        text = notebook.read_text()
        if "#| default_exp " in text: order[text.split("#| default_exp ")[1].split("\\n")[0].split('"')[0].strip()] = number
    late = {"plots": -1, "drawing": -2, "canvas": -3}
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / "pgrpo" / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
                assert late.get(node.module, order[node.module]) < order[module] or module in late, f"{module} imports {node.module}, whose notebook comes later"


def test_readme_shows_the_stored_results():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "readme.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
