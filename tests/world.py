"""What the attacks are after, and the traces they would leave."""
import os
import random
import secrets
import socket
import threading
import uuid
from pathlib import Path

from attacks import ATTACKS, PLUS, Attack

from pgrpo.grader import fenced, grade_many
from pgrpo.problems import Problem, data_dir, handwritten
from pgrpo.sandbox.isolation import Limits

BUSY = Limits(cpu=0.4, wall=30.0)  # CPU time decides, so that a busy machine changes nothing
ASLEEP = Limits(cpu=0.4, wall=1.5)
SOLUTION = "class Solution:\n    def f(self, n):\n        return n + 1"


def problem(name: str, tests) -> Problem:
    "An exercise with these tests, without a loophole."
    return Problem(name, "gt_only", "f", "n", "An exercise.", SOLUTION, tests)


def descendants(pid: int) -> set[int]:
    "The processes below one, from /proc."
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass
    found, todo = set(), [pid]
    while todo:
        parent = todo.pop()
        below = [child for child, p in parents.items() if p == parent and child not in found]
        found.update(below)
        todo += below
    return found


def let_in(folder: Path):
    "Let every user on the way to a folder, so that only the sandbox is in it."
    for parent in (folder, *folder.parents):
        try:
            parent.chmod(parent.stat().st_mode | 0o055)
        except OSError:
            pass


class World:
    "Secrets in every place where a submission may look, and listeners for those that come through."

    def __init__(self, folder: Path):
        self.words = [f"secret-{secrets.token_hex(16)}-{i}" for i in range(3)]
        text = " ".join(self.words)
        self.folder = folder
        let_in(folder)
        (folder / "secret.txt").write_text(text)
        (folder / "secret_module.py").write_text(f"words = {self.words}")
        os.environ["PGRPO_SECRET"] = self.words[0]
        self.shm = Path("/dev/shm") / f"pgrpo-test-{uuid.uuid4().hex}"
        if self.shm.parent.is_dir():
            self.shm.write_text(text)
            self.shm.chmod(0o644)
        self.escaped = f"pgrpo-escaped-{uuid.uuid4().hex}"
        self.sleep = f"9{secrets.randbelow(10**8):08}.5"
        self.visitors = []
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.setblocking(False)
        self.abstract = uuid.uuid4().hex
        self.unix = socket.socket(socket.AF_UNIX)
        if os.uname().sysname == "Linux":
            self.unix.bind("\0" + self.abstract)
            self.unix.listen()
        for server in (self.tcp, self.unix):
            threading.Thread(target=self._serve, args=(server, text.encode()), daemon=True).start()
        home = Path.home()
        self.fill_in = {
            "<<FILE>>": str(folder / "secret.txt"), "<<FOLDER>>": str(folder), "<<DATA>>": str(data_dir()),
            "<<HOME>>": str(home), "<<PID>>": str(os.getpid()), "<<PORT>>": str(self.tcp.getsockname()[1]),
            "<<UDP>>": str(self.udp.getsockname()[1]), "<<ABSTRACT>>": self.abstract, "<<SHM>>": self.shm.name,
            "<<ESCAPED>>": self.escaped, "<<SLEEP>>": self.sleep,
        }
        self.values = {
            "<<DATA TEXT>>": (data_dir() / "problems.jsonl").read_text(), "<<HOME LIST>>": sorted(os.listdir(home)),
            "<<PASSWD>>": Path("/etc/passwd").read_text(),
        }
        self.secret = problem("secret", [([i], word) for i, word in enumerate(self.words)])
        self.plus = problem("plus", [([0], 1), ([1], 2), ([41], 42)])

    def _serve(self, server, text):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            self.visitors.append(server.getsockname())
            with connection:
                connection.sendall(text)

    def submission(self, attack: Attack) -> tuple[str, Problem]:
        code = attack.code
        for name, value in self.fill_in.items():
            code = code.replace(name, value)
        value = lambda expected: self.values.get(expected, expected) if isinstance(expected, str) else expected
        tests = [(args, value(expected)) for args, expected in attack.tests]
        asked = self.plus if attack.problem == PLUS else self.secret
        return f"```python\n{code}\n```", problem(attack.name, tests) if tests else asked

    def traces(self) -> list[str]:
        "What came through: visits, files outside, processes that should be gone."
        found = [f"connected to {name}" for name in self.visitors]
        try:
            found.append(f"sent {self.udp.recv(100)}")
        except BlockingIOError:
            pass
        folders = [self.folder, *map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/", "/root", "/home", "/etc", "/usr/lib"))]
        if os.access(self.folder, os.R_OK):
            found += [f"wrote {path}" for folder in folders for path in folder.glob(f"{self.escaped}*")]
        for name in filter(str.isdigit, os.listdir("/proc") if Path("/proc/self").exists() else []):
            try:
                if self.sleep in Path(f"/proc/{name}/cmdline").read_text(errors="replace"):
                    found.append(f"process {name} is still there")
            except OSError:
                pass
        return found

    def close(self):
        for server in (self.tcp, self.udp, self.unix):
            server.close()
        self.shm.unlink(missing_ok=True)
        os.environ.pop("PGRPO_SECRET", None)


def honest() -> list[tuple[str, Problem]]:
    "The canonical solutions of the hand-written problems, as completions of them."
    return [(fenced(p.solution), p) for p in handwritten()]


def corpus(world: World, seed: int = 0, attacks=tuple(ATTACKS)):
    "Grade the attacks, mixed at random with honest work: (attack, grade) of the ones, grades of the others."
    rng = random.Random(seed)
    jobs = [(a, *world.submission(a)) for a in attacks]
    # the number makes each a text of its own
    jobs += [(None, f"{completion}\n\n{i}", p) for i in range(max(1, len(attacks) // 32)) for completion, p in honest()]
    rng.shuffle(jobs)
    pairs = []
    for asleep in (False, True):
        some = [(a, completion, p) for a, completion, p in jobs if (a is not None and a.sleeps) == asleep]
        grades = grade_many([(completion, p) for _, completion, p in some], limits=ASLEEP if asleep else BUSY)
        pairs += [(a, g) for (a, _, _), g in zip(some, grades)]
    return [(a, g) for a, g in pairs if a is not None], [g for a, g in pairs if a is None]
