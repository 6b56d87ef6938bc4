"""Run notebooks top to bottom, keep outputs that do not change from run to run, and export the package.

    python tools/run_notebooks.py [NAME ...]     names or parts of names; all notebooks without one
"""
import hashlib
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


def notebooks() -> list[Path]:
    "All notebooks, in the order of reading."
    return sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def tidy_ids(cells: list[dict]):
    "Name cells after their content."
    ids = set()
    for cell in cells:
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        name = hashlib.sha1(source.encode()).hexdigest()[:8]
        while name in ids: name = hashlib.sha1(name.encode()).hexdigest()[:8]
        ids.add(name)
        cell["id"] = name


def tidy(notebook):
    """Merge split streams, drop what a reader stumbles over, name cells after their content.

    Dropped are progress bars, kernel chatter, and widgets whose kernel is gone and that have a picture.
    """
    tidy_ids(notebook.cells)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type != "code": continue
        cell.execution_count = None
        outputs = []
        for out in cell.outputs:
            if out.output_type == "stream" and out.name == "stderr": continue
            if out.output_type == "stream" and outputs and outputs[-1].output_type == "stream":
                outputs[-1].text += out.text
                continue
            if "execution_count" in out: out.execution_count = None
            if "image/png" in out.get("data", {}): out.data.pop("application/vnd.jupyter.widget-view+json", None)
            outputs.append(out)
        cell.outputs = outputs
    notebook.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    return notebook


def run(path: Path):
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    nbformat.write(tidy(notebook), path)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = sys.argv[1:]
    for path in notebooks():
        name = str(path.relative_to(ROOT / "nbs"))
        if wanted and not any(part in name for part in wanted): continue
        print(name, flush=True)
        run(path)
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"])
