"""Nothing that one submission does is met by another, or by anything outside: with every layer, and with fewer."""
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from neighbours import WITHOUT_NAMESPACES, task
from test_sandbox import other_python
from world import let_in

import pgrpo
from pgrpo.sandbox import Sandbox
from pgrpo.sandbox.filesystem import remove

linux = pytest.mark.skipif(sys.platform != "linux", reason="pipes, locks and leases of Linux")
FEWER = 100 if os.environ.get("PGRPO_ATTACKS") else 20  # `make attacks` sets it
SITUATIONS = [  # layers, version of Landlock, honest submissions behind each pair
    ("all", None, 100), ("without namespaces", None, FEWER),
    ("without namespaces", 2, FEWER), ("without namespaces", 5, FEWER),
]


def own_library(python: str, home: Path, user: int):
    "A copy of an interpreter's standard library that belongs to a user, who could do with it whatever is not refused."
    ask = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    library = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    leave = shutil.ignore_patterns("test", "tests", "idlelib", "*-packages", "__pycache__", "config-*", "lib2to3")
    shutil.copytree(library, home / "lib" / library.name, ignore=leave)
    for path in (home, *home.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    "A function that runs `troubles` as this user, and if that is root also as one to whom the library belongs."
    folder, user, root = tmp_path_factory.mktemp("elsewhere"), 12345, os.geteuid() == 0
    python, where = sys.executable, {"PYTHONPATH": f"{Path(pgrpo.__file__).parents[1]}:{Path(__file__).parent}"}
    script = Path(__file__).with_name("neighbours.py")
    if root:
        python, _ = other_python(folder)
        own_library(python, folder / "home", user)
        for name in ("attacks.py", "neighbours.py"):
            shutil.copy(script.with_name(name), folder)
        where, script = {"PYTHONPATH": str(folder)}, folder / "neighbours.py"

    def run(who, layers, abi=None, behind=10) -> list[str]:
        let_in(folder)
        if who == "owner" and not root:
            pytest.skip("only root can become another user")
        own = folder / f"tmp-{who}"
        own.mkdir(exist_ok=True)
        env, settings = where | {"TMPDIR": str(own), "PYTHONDONTWRITEBYTECODE": "1"}, {}
        if who == "owner":
            os.chown(own, user, user)
            env["PYTHONHOME"] = str(folder / "home")
            settings = dict(user=user, group=user, extra_groups=[])
        command = [python, str(script), layers, json.dumps(abi), str(behind)]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=env, **settings)
        assert done.returncode == 0 and list(own.iterdir()) == [own / "outside"], done
        return json.loads(done.stdout)
    return run


@linux
@pytest.mark.parametrize("who", ["this user", "owner"])
@pytest.mark.parametrize("layers, abi, behind", SITUATIONS)
def test_nothing_is_shared(who, layers, abi, behind, elsewhere):
    assert elsewhere(who, layers, abi, behind) == []


ARMED = [
    "packets instead of a stream", "a pipe of one page", "pipes of a megabyte", "locks", "leases",
    "a signal to somebody", "the same by other calls", "notifications", "descriptors of other processes",
]


@linux
def test_attempts_are_armed(elsewhere):
    "Without any layer these attempts work: so it is the layers that stop them."
    said = elsewhere("owner", "none")
    assert [name for name in ARMED if not any(text.startswith(f"{name}: ") for text in said)] == [], said


@linux
def test_folders_in_folders_are_removed(tmp_path):
    "Deeper than a path is long or a function can call itself, without permissions, and with links that lead outside."
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    folder = tmp_path / "nested"
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for i in range(5000):
        os.mkdir("d", dir_fd=here)
        os.symlink(kept, f"link{i % 7}", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.mkdir("closed", 0, dir_fd=here)
    os.close(here)
    remove(str(folder))
    assert not folder.exists() and (kept / "file").read_text() == "x"


@linux
def test_a_worker_that_is_killed_leaves_no_folders(tmp_path, monkeypatch):
    "It may have been busy, and its parent clears away what it cannot."
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    let_in(tmp_path)
    deep = "import os, time\nfor _ in range(3000): os.mkdir('d'), os.chdir('d')\nos.write(3, b'.\\n')\ntime.sleep(60)"
    with Sandbox(1, WITHOUT_NAMESPACES) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is missing is said once in a process
        pool.run([task("return x")])
        worker, = pool._workers
        worker.give(0, task(deep))
        while b".\n" not in worker.kept[worker.reply]:
            worker.read(worker.reply)
        worker.process.kill()
    assert list(tmp_path.iterdir()) == []
