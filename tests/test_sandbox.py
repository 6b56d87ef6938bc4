"""The sandbox as machinery: deaths, forks, floods, missing layers, other users, and thousands of runs."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from neighbours import WITHOUT_NAMESPACES
from world import descendants, let_in

import pgrpo
from pgrpo import sandbox
from pgrpo.files import jsonl, machine
from pgrpo.grader import fenced, grade, probes
from pgrpo.grader.probes import check_sandbox, format_layers
from pgrpo.problems import Problem, load_problems, save_problems
from pgrpo.sandbox import Sandbox, link
from pgrpo.sandbox.isolation import LAYERS, Limits
from pgrpo.sandbox.protocol import Run, Task, read_reply

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
QUICK = Limits(cpu=0.4, wall=30.0)  # CPU time decides, so that a busy machine changes nothing


def task(body, calls=("[1]",), limits=QUICK, before="", **settings):
    code = before + "\nclass Solution:\n    def f(self, x):\n        " + body.replace("\n", "\n        ")
    return Task(
        json.dumps({"setup": "", "code": code, "method": "f", "mode": "gt_only", "calls": list(calls)}).encode(),
        limits, **settings,
    )


def values(run: Run):
    return [record.get("value", record.get("error")) for record in read_reply(run).records]


def gone(pids, patience=10.0) -> bool:
    end = time.monotonic() + patience
    alive = lambda pid: (
        os.path.exists(f"/proc/{pid}") and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    )
    while time.monotonic() < end:
        try:
            if not any(map(alive, pids)):
                return True
        except OSError:
            pass
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def pool():
    with Sandbox(2) as pool:
        yield pool


def test_unknown_layer_is_named():
    with pytest.raises(ValueError, match="unknown layer chroot; the layers are limits, pid"):
        Sandbox(1, ["chroot"])


def test_order_is_kept_and_errors_stay_with_their_task(pool):
    tasks = [task(f"return {i}" if i % 7 else "import os; os._exit(3)") for i in range(60)]
    runs = pool.run(tasks)
    assert [values(r) for r in runs] == [[i] if i % 7 else [] for i in range(60)]
    assert all((r.ended, r.status) == ("ended", 0 if i % 7 else 3) for i, r in enumerate(runs))


def test_large_requests_and_replies(pool):
    text = "x" * 3_000_000
    ample = Limits(cpu=20, wall=60)  # three million letters take a slow machine a while
    run, = pool.run([task("return [len(x), x]", [json.dumps([text])], ample, reply_limit=4_000_000)])
    assert values(run) == [[3_000_000, text]]
    run, = pool.run([task("return x * 2", [json.dumps([text])], ample, reply_limit=4_000_000)])
    assert run.ended == "stopped" and len(run.reply) == 4_000_001


def test_output_is_kept_up_to_a_limit(pool):
    run, = pool.run([task("for _ in range(1000): print('y' * 1000)\nreturn x")])
    assert len(run.stdout) == 1 << 16 and values(run) == [1]


def test_limits_can_be_chosen(pool):
    def under(body, limits):
        return pool.run([task(body, limits=some) for some in limits])

    memory = [Limits(cpu=20, wall=30, memory=m << 20) for m in (100, 400)]
    assert [values(r) for r in under("return len(bytearray(200 << 20))", memory)] == [["MemoryError"], [200 << 20]]
    busy = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\nreturn x"
    runs = under(busy, [Limits(cpu=c, wall=30) for c in (0.2, 2.0)])
    assert [r.ended for r in runs] == ["cpu", "ended"] and 0.2 <= runs[0].cpu < 1.5
    big = "open('big', 'wb').write(bytes(2 << 20))\nreturn x"
    runs = under(big, [Limits(wall=30, scratch=s << 20) for s in (1, 4)])
    assert "File too large" in values(runs[0])[0] or "No space" in values(runs[0])[0]
    assert values(runs[1]) == [1]


BURNER = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


@linux
def test_waiting_for_a_busy_machine_is_not_sleeping(pool):
    "Thirty other processes want the same core; the wall clock would have run down several times."
    pool.run([task("return x")])
    core = {min(os.sched_getaffinity(0))}
    busy = [subprocess.Popen([sys.executable, "-c", BURNER]) for _ in range(30)]
    try:
        workers = [q for w in pool._workers for q in (w.process.pid, *descendants(w.process.pid))]
        for pid in workers + [p.pid for p in busy]:
            os.sched_setaffinity(pid, core)
        body = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\nreturn x"
        run, = pool.run([task(body, limits=Limits(cpu=3, wall=0.5))])
        assert (run.ended, values(run)) == ("ended", [1]) and run.wall > 0.5, run
    finally:
        for process in busy:
            process.kill()
            process.wait()
        pool.close()
    sleeps, = pool.run([task("import time; time.sleep(100)", limits=Limits(wall=0.5))])
    assert sleeps.ended == "wall" and sleeps.wall < 5


NAPS = """
import os, time
def naps():
    while True:
        end = time.process_time() + 0.008
        while time.process_time() < end: pass
        time.sleep(0.1)
"""


@linux
@pytest.mark.parametrize("layers", [tuple(LAYERS), WITHOUT_NAMESPACES, ()], ids=["all", "no namespaces", "none"])
def test_a_worker_knows_whether_its_submission_waits_for_its_turn(layers, monkeypatch):
    "So a little computing between naps is sleeping. By its CPU time it could go on for a hundred times as long."
    told = ("\nfrom pgrpo.sandbox import worker\nwhole = worker.time_in_queue\n"
            "worker.time_in_queue = lambda *a: {}\nserve(")
    for what, how in (("(0.0, whole(*a) is None)", "wall"), ("(0.0, True)", "cpu")):
        boot = link._BOOT.replace("\nserve(", told.format(what))
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing is said once in a process
            patch.setattr(link, "_BOOT", boot)
            with Sandbox(1, layers) as pool:
                run, = pool.run([task("naps()", before=NAPS, limits=Limits(cpu=0.1, wall=0.5))])
        assert run.ended == how, run


QUEUES = """
import ctypes, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, range(34, 60))
call, number = ctypes.CDLL(None).syscall, {"x86_64": 234, "aarch64": 131}[os.uname().machine]
return sum(call(number, os.getpid(), os.getpid(), 40) == 0 for _ in range(1000))
"""


@linux
def test_signals_that_wait_are_few():
    "The kernel counts them for all processes of a user together."
    with Sandbox(1) as pool:
        assert values(pool.run([task(QUEUES.strip())])[0]) == [64]


def test_workers_follow_the_quota(monkeypatch, tmp_path):
    "Two of eight cores by cgroup v2, seven by v1, one by a group above; a variable overrules; a process is asked late."
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("PGRPO_CORES", raising=False)
    group = tmp_path / "job" / "step"
    group.mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(f"1 0 0:1 / {tmp_path} rw shared:1 - cgroup2 none rw\n")
    (tmp_path / "self/cgroup").write_text("0::/job/step\n")
    whole = machine.quota
    monkeypatch.setattr(machine, "quota", lambda: whole(tmp_path))
    assert machine.cores() == 8
    (group / "cpu.max").write_text("200000 100000\n")
    assert machine.cores() == 2
    (group.parent / "cpu.max").write_text("50000 100000\n")
    assert machine.cores() == 1
    (tmp_path / "self/mountinfo").write_text(f"1 0 0:1 /docker/1 {group} rw - cgroup none rw,cpuacct,cpu\n")
    (tmp_path / "self/cgroup").write_text("3:cpu,cpuacct:/docker/1\n2:memory:/docker/1\n0::/\n")
    for name in ("cpu.max", "../cpu.max"):
        (group / name).unlink()
    (group / "cpu.cfs_period_us").write_text("100000\n")
    for micro, cores in (("700000", 7), ("-1", 8)):
        (group / "cpu.cfs_quota_us").write_text(micro + "\n")
        assert machine.cores() == cores
    monkeypatch.setenv("PGRPO_CORES", "3")
    assert machine.cores() == 3
    with Sandbox() as pool:
        assert [values(r) for r in pool.run([task("return x")])] == [[1]] and len(pool._workers) == 3
    for wrong in ("two", "0", "-1", "1.5"):
        monkeypatch.setenv("PGRPO_CORES", wrong)
        with pytest.raises(ValueError, match=f"PGRPO_CORES is '{wrong}'; it takes a whole number"):
            machine.cores()


INHERITED = """
import os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGCHLD])
os.umask(0o777)
from test_sandbox import Sandbox, task, values
alarm = "import signal\\ndef ring(*_):\\n    raise TimeoutError('it rings')\\nsignal.signal(signal.SIGALRM, ring)"
alarm += "\\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\\nwhile True: pass"
for layers in ({layers}):
    with Sandbox(2, layers) as pool:
        tasks = [task("return x"), task("import os; os._exit(3)")]
        tasks += [task("while True: pass"), task(alarm), task({last!r})]
        for run in pool.run(tasks * 2):
            print(values(run), run.ended, run.status)
"""


@pytest.mark.parametrize("layers", ["LAYERS", '[n for n in LAYERS if n not in ("mount", "pid", "network", "ipc")]'])
def test_what_a_shell_or_a_scheduler_leaves_behind(layers):
    "Ignored and blocked signals and the strictest umask of whoever started the process that grades."
    root, tests = str(Path(pgrpo.__file__).parents[1]), str(Path(__file__).parent)
    last = "import csv" if layers == "LAYERS" else "open('x', 'w').close()"
    script = INHERITED.format(root=root, tests=tests, layers=f"list({layers}),", last=last)
    script = script.replace("import Sandbox,", "import LAYERS, Sandbox,")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=100)
    once = ["[1] ended 0", "[] ended 3", "[] cpu -9", "['TimeoutError: it rings'] ended 0", "[None] ended 0"]
    assert done.stdout.splitlines() == once * 2, done


def test_a_worker_that_dies_is_replaced(pool):
    pool.run([task("return x")])
    for worker in pool._workers:
        worker.process.kill()
    assert [values(r) for r in pool.run([task("return x")] * 3)] == [[1]] * 3


@linux
def test_a_worker_that_dies_at_work_is_replaced():
    with Sandbox(1) as pool:
        pool.run([task("return x")])
        first = pool._workers[0].process
        pid = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.5; kill -9 {first.pid}"])
        started = time.monotonic()
        run, = pool.run([task("import time; time.sleep(1.5); return x", limits=Limits(wall=30))])
        assert values(run) == [1] and pool._workers[0].process is not first and time.monotonic() - started >= 1.5
        pid.wait()


@pytest.mark.parametrize("size", [10, 300_000])
def test_what_is_left_of_a_request_is_never_read_by_the_next(size, monkeypatch):
    "Of one run the child reads nothing, as if it had been ended before; it holds the answer that the next one lacks."
    whole = link.pack_header
    with Sandbox(1) as pool:
        pool.run([task("return 1")])
        worker, = pool._workers
        monkeypatch.setattr(link, "pack_header", lambda t: whole(replace(t, request=b"")))
        assert pool.run([task(f"return 42  # {'x' * size}")])[0].status == 1
        monkeypatch.undo()
        assert [values(run) for run in pool.run([task(f"return 17  # {'x' * size}"), task("return 3")])] == [[17], [3]]
        assert pool._workers == [worker]


def test_a_task_that_loses_two_workers_is_given_up(monkeypatch):
    give = link.Worker.give
    def die(self, number, task):
        if b"lose me" in task.request:
            self.process.kill()
            self.process.wait()
        give(self, number, task)
    monkeypatch.setattr(link.Worker, "give", lambda self, number, task: die(self, number, task))
    with Sandbox(1) as pool, pytest.warns(UserWarning, match="lost with its submission"):
        runs = pool.run([task("return 1"), task("return 'lose me'"), task("return 3")])
    assert [r.ended for r in runs] == ["ended", "lost", "ended"]


def test_an_interrupt_leaves_a_usable_pool(pool):
    def interrupt(*_):
        raise KeyboardInterrupt
    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.run([task("import time; time.sleep(5)", limits=Limits(wall=30))])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert values(pool.run([task("return x")])[0]) == [1]


def test_a_fork_gets_workers_of_its_own(pool):
    pool.run([task("return x")])
    mine = [w.process.pid for w in pool._workers]
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ok = values(pool.run([task("return x + 1")])[0]) == [2]
            ok &= not set(mine) & {w.process.pid for w in pool._workers}
            pool.close()
            code = 0 if ok else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert values(pool.run([task("return x")])[0]) == [1] and mine == [w.process.pid for w in pool._workers]


WITHOUT_IMPORTS = """d = defaultdict(list)
heappush(d[0], x)
assert bisect.bisect_left([1], 1) == bisect_left([1], 1) == 0 and pow(3, 4, 5) == 1 and gcd(4, 6) == math.gcd(4, 6)
assert isinstance(Counter('a'), collections.Counter) and reduce(operator.add, accumulate([1, 2])) == 4
assert copy.copy([1]) == deepcopy([1]) and max(1, 2, key=cmp_to_key(lambda a, b: b - a)) == 1 and sys.maxsize < inf
assert ascii_lowercase == string.ascii_lowercase and re.sub('a', 'b', 'a') == 'b' and datetime.date.min
a: List[Optional[Tuple[int]]] = [cache, lru_cache(None), itertools.chain, functools.partial]
return x"""
DEEP = """def down(i):
    return i and 1 + down(i - 1)
cached = cache(down)
def down_cached(i):
    return i and 1 + again(i - 1)
again = cache(down_cached)
return [down(100_000), again(100_000)]"""
FOR_EVER = "def f(x): return f(x)\nif x < 3: return f(x)\nreturn x"
LONG = "return len(str(10**9999)) + int('9' * 9999) % 10 + " + "9" * 9999 + " % 10"
MANY_THREADS = """import threading
from concurrent.futures import ThreadPoolExecutor
barrier = threading.Barrier(24)
with ThreadPoolExecutor(24) as threads:
    return sum(threads.map(lambda i: barrier.wait() and len(bytearray(1 << 20)) and 0, range(24)))"""
TEMPORARY = """import os, tempfile
with open(os.path.join(os.environ['TMPDIR'], 'x'), 'w') as f: f.write('x')
with tempfile.NamedTemporaryFile() as f, open(os.path.expanduser('~/y'), 'w') as g: pass
return sorted(os.listdir('.'))"""


@pytest.mark.parametrize("without", [(), ("mount",), ("mount", "pid", "network", "ipc")], ids=" ".join)
def test_the_room_that_authors_assume(without, tmp_path, monkeypatch):
    "Names, depth, digits, threads and temporary files as on LeetCode, whatever layers there are."
    monkeypatch.setattr(link.tempfile, "tempdir", str(tmp_path))
    with Sandbox(1, [name for name in LAYERS if name not in without]) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if pool.run([task("return x")]) and pool._workers[0].hello["unreadable"]:
            pytest.skip("this Python lies where another user cannot read it, and that has been said")
        ample = Limits(cpu=10, wall=30)
        bodies = (WITHOUT_IMPORTS, DEEP, LONG, MANY_THREADS, TEMPORARY)
        runs = pool.run([task(body, limits=ample) for body in bodies])
        assert [values(r)[0] for r in runs] == [1, [100_000, 100_000], 10_000 + 9 + 9, 0, ["x", "y"]]
        calls = ["[1]", "[2]", "[3]"]
        (first, second, third), = [values(r) for r in pool.run([task(FOR_EVER, calls, ample)])]
        assert first == second and first.startswith("RecursionError") and third == 3
    assert list(tmp_path.iterdir()) == []


IS_OPEN = """
import os
def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
"""


def test_descriptors_above_the_usual():
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
    try:
        with Sandbox(1) as pool:
            run, = pool.run([task("return sorted(fd for fd in range(300) if is_open(fd))", before=IS_OPEN)])
            assert values(run) == [[0, 1, 2, 3]]
    finally:
        for fd in held:
            os.close(fd)


@linux
def test_workers_end_with_their_parent(tmp_path):
    script = f"""
import sys, time
sys.path[:0] = [{str(Path(pgrpo.__file__).parents[1])!r}, {str(Path(__file__).parent)!r}]
from test_sandbox import Sandbox, task, Limits
pool = Sandbox(2)
pool.run([task("return x")])
print("ready", flush=True)
pool.run([task("import time; time.sleep(100)", limits=Limits(wall=100))] * 2)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    below = descendants(process.pid)
    assert len(below) >= 4
    process.kill()
    process.wait()
    assert gone(below)


COMBINATIONS = [
    (), *[(name,) for name in LAYERS], ("pid", "seccomp"), ("mount", "seccomp"), ("mount", "pid", "network", "ipc"),
    ("seccomp", "landlock"), ("mount", "pid", "network", "ipc", "seccomp"), tuple(LAYERS),
]


DAEMON = """import os, time
if os.fork() == 0:
    os.setsid()
    os.fork()
    open('x', 'w').close()
    while True: time.sleep(1)
time.sleep(0.05)
return x"""
MESS = """import os
for _ in range(300):
    os.mkdir('d')
    os.chdir('d')
open('x', 'w').close()
return x"""


@linux
@pytest.mark.parametrize("without", COMBINATIONS, ids=lambda names: "without " + (" ".join(names) or "nothing"))
def test_the_rest_holds_without_some_layers(without):
    "Fewer layers still mean: right values, ended loops, no survivors, no leftovers."
    look = "import os\nreturn os.listdir('.')"
    with Sandbox(1, [name for name in LAYERS if name not in without]) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = pool.run([task(body) for body in ("return x", "while True: pass", DAEMON, MESS, look, "return x")])
        assert [values(runs[i]) for i in (0, 3, 4, 5)] == [[1], [1], [[]], [1]]
        assert runs[1].ended == "cpu"
        worker = pool._workers[0]
        assert len(descendants(worker.process.pid)) <= 1
        scratch = worker.hello["scratch"]
        assert scratch is None or os.listdir(scratch) == []
    assert scratch is None or not os.path.exists(scratch)
    assert gone([worker.process.pid])


@linux
def test_every_layer_stops_what_it_is_for():
    tried = check_sandbox()
    assert {t.layer for t in tried} >= set(LAYERS)
    for t in tried:
        assert t.alone is not False and (t.together or not t.in_force), t
        assert t.armed is not False or t.layer == "privileges", t
    assert len(format_layers(tried).split("\n")) >= len(tried) + 2


def test_missing_layers_are_told_once_and_clearly(monkeypatch):
    monkeypatch.setattr(sandbox, "_told", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            why = {"pid": "unshare: no", "mount": "unshare: no", "landlock": "444: none", "ipc": "switched off"}
            sandbox._tell(why)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "pid, mount (unshare: no); landlock (444: none)" in text and "ipc" not in text and "your files" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(sandbox, "_told", set())
        sandbox._tell({})


CROWD = """
import subprocess, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {root!r})
import json
from pgrpo.sandbox import Sandbox
from pgrpo.sandbox.protocol import Task, read_reply
crowd = [subprocess.Popen(["sleep", "60"]) for _ in range(60)]
body = "import threading\\n        t = threading.Thread(target=print)\\n        t.start(); t.join()\\n        return 7"
code = "class Solution:\\n    def f(self):\\n        " + body
request = dict(setup="", code=code, method="f", mode="gt_only", calls=["[]"])
for layers in (["limits", "privileges", "landlock", "seccomp"], ["limits", "privileges", "pid", "mount", "seccomp"]):
    with Sandbox(1, layers) as pool:
        run, = pool.run([Task(json.dumps(request).encode())])
        print(read_reply(run).records)
for process in crowd: process.kill()
"""


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_threads_of_a_user_with_many_processes(tmp_path):
    python, _ = other_python(tmp_path)
    done = subprocess.run(
        [python, "-c", CROWD.format(root=str(tmp_path))], user=12345, group=12345, extra_groups=[], capture_output=True,
        text=True, cwd="/", env={"PATH": os.environ["PATH"]},
    )
    assert done.stdout.split("\n") == ["({'value': 7},)", "({'value': 7},)", ""], done


def test_integers_of_any_length(tmp_path):
    "In a problem's tests, sources and file, in a file's bare decimals, and in an answer that is right or wrong."
    long, digits = 7 ** 9999, "9" * 9999
    solution = f"class Solution:\n    def f(self, n):\n        return n * {digits}"
    with jsonl.any_digits():
        tests = [([1], int(digits)), ([long], long * int(digits))]
        problem = Problem("long", "gt_only", "f", "n", "Any.", solution, tests)
        bare = json.dumps(long)
    assert (made := grade(fenced(solution), problem)).gt_correct, made
    assert "returned" in grade(fenced(solution + " + 1"), problem).detail
    save_problems([problem], tmp_path / "long.jsonl")
    assert load_problems(tmp_path / "long.jsonl") == [problem]
    (tmp_path / "bare.jsonl").write_text('{"n": %s}\n' % bare)
    assert jsonl.read_rows(tmp_path / "bare.jsonl") == [{"n": long}]
    with pytest.raises(ValueError, match=r"tests\[0\]: \[\d+"):
        Problem("long", "gt_only", "f", "n", "Any.", solution, [[long]])


def test_a_library_that_submissions_cannot_read_is_told(monkeypatch):
    monkeypatch.setattr(sandbox, "_told", set())
    with pytest.warns(UserWarning, match=r"cannot read the whole standard library here \(why\).*chmod -R a\+rX /"):
        sandbox._tell({"ipc": "switched off"}, "why")


def test_modules_that_submissions_cannot_import_are_named():
    "And those that are not there for anybody are not."
    def of(**failed):
        records = {"confined": True}, {"compiles": True}, {"value": failed}
        return Run("".join(json.dumps(record) + "\n" for record in records).encode(), ended="ended")
    absent = dict(winreg="ModuleNotFoundError: No module named 'winreg'")
    said = probes._unimportable(of(**absent), of(**absent, ssl="ImportError: libssl.so.3", csv="PermissionError: no"))
    assert said == "csv, ssl: PermissionError: no"
    assert probes._unimportable(of(**absent), of(**absent)) == ""
    assert probes._unimportable(of(csv="PermissionError: no"), of(csv="PermissionError: no")).startswith("csv")
    assert "did not come to an end" in probes._unimportable(of(), Run(ended="cpu"))


RECURSIONS = {
    "def f(self, n):\n        return self.f(n)": "RecursionError",
    "def f(self, n):\n        return sorted([n], key=self.f)": "RecursionError|signal 11 .*recursed without end",
}


@pytest.mark.parametrize("method", RECURSIONS, ids=["Python", "C"])
def test_recursion_without_end_is_told_in_words(method):
    solution = "class Solution:\n    def f(self, n):\n        return n"
    problem = Problem("p", "gt_only", "f", "n", "Any.", solution, [([1], 1)])
    assert re.search(RECURSIONS[method], grade(fenced(f"class Solution:\n    {method}"), problem).detail)


CHECK = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {root!r})
from pgrpo.grader import _oracle, hack_matrix
from pgrpo.grader.probes import check_sandbox
from pgrpo.problems import Problem
solution = "class Solution:\\n    def f(self, n):\\n        return n + 1"
p = Problem("p", "gt_only", "f", "n", "Any.", solution, [([1], 2)])
print(hack_matrix([p]).diagonal, not [t for t in check_sandbox() if t.alone is False], *sorted(_oracle.missing()))
"""


def other_python(tmp_path):
    "An interpreter and a copy of the package that any user may run."
    let_in(tmp_path)
    shutil.copytree(Path(pgrpo.__file__).parent, tmp_path / "pgrpo", ignore=shutil.ignore_patterns("__pycache__"))
    new_enough = "import sys; sys.exit(sys.version_info < (3, 10))"
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run([python, "-c", new_enough], user=12345, group=12345, extra_groups=[])
        except (OSError, subprocess.SubprocessError):
            continue
        if done.returncode == 0:
            return python, CHECK.format(root=str(tmp_path))
    pytest.skip("no Python that another user may run")


@linux
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can become an ordinary user; the other tests have run as one",
)
def test_as_an_ordinary_user(tmp_path):
    python, script = other_python(tmp_path)
    done = subprocess.run(
        [python, "-c", script], user=12345, group=12345, extra_groups=[], capture_output=True, text=True, cwd="/",
        env={},
    )
    assert done.stdout.split()[:2] == ["True", "True"], done


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to build the situation")
@pytest.mark.skipif(
    not (shutil.which("unshare") and shutil.which("setpriv")), reason="needs unshare and setpriv to build the situation"
)
def test_where_namespaces_are_forbidden(tmp_path):
    python, script = other_python(tmp_path)
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
    shell = f'{forbid} && exec setpriv --bounding-set -all --inh-caps -all "$0" -c "$1"'
    command = ["unshare", "-Ur", "sh", "-c", shell, python, script]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    if "unshare:" in done.stderr:
        pytest.skip("this system does not let the situation be built")
    assert done.returncode == 0, done
    diagonal, walls, *missing = done.stdout.split()
    assert (diagonal, walls) == ("True", "True") and {"mount", "pid", "network", "ipc"} <= set(missing), done


@linux
def test_thousands_of_runs_leave_nothing(pool):
    "Descriptors, processes and memory are the same after many runs as after a few."
    def state():
        pids = [os.getpid(), *(p for w in pool._workers for p in (w.process.pid, *descendants(w.process.pid)))]
        fds = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
        memory = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4 for pid in pids[1:]]  # KiB, of the workers
        return len(pids), fds, memory

    bodies = (
        "return x", "print('y' * 9999); return [x] * 999", "open('f', 'w').write('z' * 9999); return x", "1/0",
        "import os; os._exit(1)",
    )
    tasks = [task(body) for body in bodies]
    pool.run(tasks * 20)
    before = state()
    pool.run(tasks * 200)
    after = state()
    assert after[:2] == before[:2]
    assert all(b - a < 512 for a, b in zip(before[2], after[2])), (before, after)


def test_a_worker_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(link, "_BOOT", "import sys\nsys.exit('no such luck')")
    fds = len(os.listdir("/dev/fd"))
    with Sandbox(2) as pool:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="worker of the sandbox did not start: no such luck"):
                pool.run([task("return x")])
    assert len(os.listdir("/dev/fd")) == fds


def test_a_process_that_cannot_be_confined_is_an_error():
    with pytest.raises(RuntimeError, match="could not confine a submission: OSError: no wall"):
        read_reply(Run(b'{"broken": "OSError: no wall"}\n', ended="ended"))
    assert read_reply(Run(b"", ended="lost")).compiles is False


@linux
@pytest.mark.parametrize("layers", [("privileges",), ("privileges", "pid", "network", "ipc")], ids=" ".join)
def test_no_capability_is_left(layers):
    """No capability in any set that counts, no root, no new privileges.

    Read from /proc, which is there without the mount layer.
    """
    with Sandbox(1, layers) as pool:
        run, = pool.run([task("return open('/proc/self/status').read()")])
        status = dict(line.split(":\t") for line in values(run)[0].strip().split("\n") if ":\t" in line)
    assert {int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"
    ids = status["Uid"].split("\t") + status["Groups"].split() + status["Gid"].split("\t")
    assert os.geteuid() != 0 or "0" not in ids
