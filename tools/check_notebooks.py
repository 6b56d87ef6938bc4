"""Check that the exported modules are what the notebooks say, and that nothing of one machine or one run is kept: no path, no time."""
import filecmp
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRIVATE = re.compile(r"(/home/|/root/|/Users/|/work/|/tmp/|[A-Z]:\\\\Users)\w*")


def stale() -> list[str]:
    "Modules that differ from a fresh export, made in a copy of the notebooks."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".*"))
        shutil.copy(ROOT / "settings.ini", copy)
        (copy / "pgrpo").mkdir()
        export = "from nbdev.export import nb_export; import sys; [nb_export(n, 'pgrpo') for n in sys.argv[1:]]"
        subprocess.run([sys.executable, "-c", export, *sorted(f"nbs/{p.name}" for p in (copy / "nbs").glob("*.ipynb"))], cwd=copy, check=True)
        made = {p.name for p in (copy / "pgrpo").glob("*.py")}
        kept = {p.name for p in (ROOT / "pgrpo").glob("*.py")} - {"__init__.py", "_modidx.py"}
        return sorted(made ^ kept) + [name for name in sorted(made & kept) if not filecmp.cmp(copy / "pgrpo" / name, ROOT / "pgrpo" / name, shallow=False)]


def private_outputs() -> list[str]:
    "Outputs with a path that exists on one machine alone, and what one run left behind."
    found = []
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        if any(cell["metadata"] or cell.get("execution_count") for cell in cells): found.append(f"{path.name}: it was saved with the numbers or times of a run; git checkout it, or write it with tools/run_notebooks.py {path.stem}")
        for cell in cells:
            for out in cell.get("outputs", []):
                data = out.get("data", {})
                text = json.dumps([out.get("text", ""), out.get("ename", ""), *(v for k, v in data.items() if k.startswith("text/"))])
                for hit in PRIVATE.findall(text): found.append(f"{path.name}: {hit}... in the output of {''.join(cell['source']).strip().splitlines()[0][:60]!r}")
                if out.get("output_type") == "error": found.append(f"{path.name}: an error in the output of {''.join(cell['source'])[:60]!r}")
    return found


if __name__ == "__main__":
    bad = [f"pgrpo/{name} is not what its notebook exports; run nbdev_export" for name in stale()] + private_outputs()
    print("\n".join(bad) or "notebooks and modules agree, and nothing of one machine or run is kept")
    sys.exit(bool(bad))
