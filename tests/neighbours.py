"""What one submission does to those after it in the same worker, and to what lies outside.

It needs the package alone, and the corpus: so a test can run it as another user, with a copy of both.
"""
import json
import os
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from textwrap import dedent, indent

from attacks import PAIRS, TRYING

from pgrpo.sandbox import Sandbox, link
from pgrpo.sandbox.isolation import LAYERS, Limits
from pgrpo.sandbox.protocol import Task, read_reply

NAMESPACES = ("pid", "mount", "network", "ipc")
WITHOUT_NAMESPACES = tuple(name for name in LAYERS if name not in NAMESPACES)
LIMITS = Limits(cpu=2.0, wall=30.0)  # CPU time decides, so that a busy machine changes nothing
BOOT = link._BOOT

HONEST = [
    ("return x + 1", 2),
    ("print('y' * 9000)\nreturn ['some text'] * 2000", ["some text"] * 2000),  # more than a page, and than two
    ("import decimal, json\nreturn [str(decimal.Decimal(x)), json.loads('[1]')]", ["1", [1]]),
    ("import os\nopen('f', 'w').write('z')\nreturn os.listdir('.')", ["f"]),
    ("import sys\nprint('to nobody', file=sys.stderr)\nreturn sys.stdin.read()", ""),
]


def task(body: str, before: str = "") -> Task:
    "A submission whose method has this body."
    code = f"{before}\nclass Solution:\n    def f(self, x):\n{indent(dedent(body).strip(chr(10)), ' ' * 8)}"
    request = {"setup": "", "code": code, "method": "f", "mode": "gt_only", "calls": ["[1]"]}
    return Task(json.dumps(request).encode(), LIMITS)


def stamps(paths: list[str]) -> dict:
    "What of these files anybody could have changed: all but when they were last read. A folder changes with its files."
    of = lambda s: (s.st_mode, s.st_uid, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
    return {path: of(os.lstat(path)) for path in paths if os.path.lexists(path)}


def outside(folder: Path) -> list[str]:
    "The standard library with its folders, and a folder with a file. Devices belong to the whole machine."
    paths = []
    for top in (sysconfig.get_path("stdlib"), folder):
        for inside, folders, files in os.walk(top):
            folders[:] = [name for name in folders if "-packages" not in name and name not in ("__pycache__", "test")]
            paths += [inside, *(f"{inside}/{name}" for name in files)]
    return paths


def cut(abi: int | None):
    "From now on workers take the kernel's Landlock for this version of it; None: for what it is."
    text = f"""
from pgrpo.sandbox import filesystem

whole = filesystem.call
filesystem.call = lambda *a: {abi} if a == (444, None, 0, 1) else whole(*a)
serve("""
    link._BOOT = BOOT if abi is None else BOOT.replace("\nserve(", text)


def troubles(
    layers=tuple(LAYERS), abi: int | None = None, pairs=None, behind: int = 100,  # honest submissions after each pair
) -> list[str]:
    "What went wrong with one worker: attempts that worked, messages that arrived, honest work that was disturbed."
    found, folder = [], Path(os.environ["TMPDIR"]) / "outside"
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("mine")
    victim = subprocess.Popen(["/bin/sleep", "600"])
    fill_in = {"<<VICTIM>>": victim.pid, "<<PID>>": os.getpid(), "<<FILE>>": folder / "file", "<<FOLDER>>": folder}
    cut(abi)
    try:
        with Sandbox(1, layers) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pool.run([task("return x")])
            worker, paths = pool._workers[0], outside(folder)
            before = stamps(paths)
            scratch = worker.hello["scratch"]
            for pair in PAIRS if pairs is None else pairs:
                leave = pair.leave
                for name, value in fill_in.items():
                    leave = leave.replace(name, str(value))
                honest = [HONEST[i % len(HONEST)] for i in range(behind)]
                bodies = [leave, pair.find or "return []", *(body for body, _ in honest)]
                runs = pool.run([task(body, TRYING if i < 2 else "") for i, body in enumerate(bodies)])
                said = []
                for run in runs:
                    try:
                        said.append(read_reply(run).record(0).get("value", read_reply(run).record(0)))
                    except RuntimeError as e:
                        said.append(str(e))
                if pair.refused and said[0] != []:
                    found.append(f"{pair.name}: worked: {said[0]}")
                if said[1] != []:
                    found.append(f"{pair.name}: found: {said[1]}")
                wrong = [got for got, (_, wanted) in zip(said[2:], honest) if got != wanted]
                if wrong:
                    found.append(f"{pair.name}: {len(wrong)} of {behind} honest ones are wrong: {str(wrong[0])[:100]}")
                if pool._workers != [worker]:
                    found.append(f"{pair.name}: the worker was replaced")
                    worker, = pool._workers
                if scratch and os.listdir(scratch):
                    found.append(f"{pair.name}: left {os.listdir(scratch)}")
                if victim.poll() is not None:
                    found.append(f"{pair.name}: killed a process")
                    victim = subprocess.Popen(["/bin/sleep", "600"])
                    fill_in["<<VICTIM>>"] = victim.pid
                after = stamps(paths)
                if after != before:
                    changed = [p for p in {*before, *after} if before.get(p) != after.get(p)]
                    found.append(f"{pair.name}: changed {sorted(changed)[:3]}")
                    before = after
        if scratch and os.path.exists(scratch):
            found.append(f"left {scratch}")
    finally:
        cut(None)
        victim.kill()
        victim.wait()
    return found


if __name__ == "__main__":
    layers = {"all": tuple(LAYERS), "without namespaces": WITHOUT_NAMESPACES, "none": ()}[sys.argv[1]]
    safe = [pair for pair in PAIRS if layers or "writes" not in pair.leave and "<<FOLDER>>" not in pair.leave]
    print(json.dumps(troubles(layers, json.loads(sys.argv[2]), safe, int(sys.argv[3]))))
