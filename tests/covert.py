"""Submissions that know more than they computed, or are paid for what they did not do; and what each must come to.

Three kinds, each in a table below: pairs, of which the first is to tell the second what it has seen; forged reports,
which say that a lever was pulled; and replies that are to raise or stall in the process that grades. `failures` grades
them all under some layers, between honest submissions, and says in words what went wrong. It needs the package alone,
so that `python covert.py LAYER,...` can be run by any user.

What was tried beyond what stands here, and came to nothing (each with the walls up and down, as root and as a user):

- What depends on the verdict. Three things did, each good for one bit or a few to a submission that leaves word for
  the next, and no longer do: that a second run was made told that the answer was wrong; after how many bytes a reply
  was stopped told how long the right answers are; and how long the second run was in coming told how far the
  comparison had got (right at first, then a megabyte in hexadecimal). Held by
  `test_no_expected_value_enters_a_sandbox` and `test_nothing_is_compared_before_the_last_run`.
- A first run that returns a fresh object for every call and counts how often it is compared: 24 times, whatever is
  expected. The length of the request differs by the decoys alone, whose lengths are drawn.
- Asking for the decoys' distribution: kinds, numbers and lengths come from the system's generator and fixed ranges.
- `__eq__` that takes in only what it has seen before, or every second thing: no claim, since two unequal ones of a kind
  have to agree. `__eq__` that is true of one kind: paid where that kind is expected, as `==` would have paid.
- A claim as a key, in a set, in a subclass with an `items` of its own: carried by the base class's methods, or refused.
- A claim beside right answers that were forged by hand: the values have to be right.
- Reading the first pipe: it is closed before the first line of the submission runs; writing to every descriptor up to
  1,024; opening what /proc/self/fd shows, without the mount layer.
- Leaving with 256, -256, 2**32, True, an int whose `&` lies: only what the kernel calls 0 is 0, and who arranges for
  that has left.
- SIGSTOP, SIGXCPU and a closed descriptor 3 in the flawed run: no status 0. Replacing `os._exit`, `atexit`,
  `sys.modules`, the judge's functions and their code: status 1, or one's own exit.
- Recursion, memory and threads that run out between the compilation and the first call: status 1 or a signal.
- Requests cut short, so that the next run reads the rest: it worked (a limit of nanoseconds was enough, and a wrong
  answer was graded as the right one that lay in the pipe before it); now each request has a pipe of its own.
- Naps between bits of computing, and writing faster than the parent reads: 300 s for one submission; now 30 at
  most, by its limits.
- 96,365 signals queued, which the kernel counts for the whole user: 64 now.
- A main thread that leaves while another computes or sleeps, with every layer: CPU time or the wall clock ends it.
- Source texts that a parser, `ast.unparse` or the readers of levers could crash on (41 shapes, Python 3.10 to 3.13):
  one raised, a number of 900,000 hexadecimal digits where code is shown; none crashed.
- Forged notes of a rehearsal, 360 random ones with values and arguments that are none: nothing raised.
- Not closed, found by reading and not tried: a lever that is plainly used beside one that is put together at run time
  would look `accidental`; for answers of more than 128 KB the length at which a reply is stopped follows theirs, in
  steps of 128 KB; without user namespaces the kernel counts threads per user, so a neighbour's leave fewer.
- A record of brackets in every order that one could think of, within texts and without, with escapes at the ends.
"""
import json
import random
import sys
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from textwrap import dedent

from pgrpo import grader
from pgrpo.grader import diagnose_run_tests, fenced, grade_many
from pgrpo.problems import Problem
from pgrpo.sandbox import Sandbox
from pgrpo.sandbox.isolation import LAYERS, Limits

NAMESPACES = ("pid", "mount", "network", "ipc")
EVERY = tuple(LAYERS)
WITHOUT_NAMESPACES = tuple(name for name in LAYERS if name not in NAMESPACES)
LIMITS = Limits(cpu=2.0, wall=30.0)  # CPU time decides, so that a busy machine changes nothing
SOLUTION = "class Solution:\n    def f(self, n):\n        return n + 1"
PLUS = Problem("plus", "gt_only", "f", "n", "Return n + 1.", SOLUTION, [([0], 1), ([1], 2), ([41], 42)])


def secret() -> Problem:
    "An exercise whose answers are numbers that were just drawn."
    numbers = [random.SystemRandom().randrange(10**6) for _ in range(3)]
    solution = f"class Solution:\n    def f(self, n):\n        return {numbers}[n]"
    return Problem("secret", "gt_only", "f", "n", "An exercise.", solution, [([i], n) for i, n in enumerate(numbers)])


# --- pairs ------------------------------------------------------------------------------------------------------------

# Each channel is `put(i, number)` and `get(i)`, for numbers below a million.
LOCKS = """
import ctypes, fcntl, os, struct
def lock(command, kind, start, length):
    held = fcntl.fcntl(0, command, struct.pack("hhqqi4x", kind, 0, start, length, 0))
    return struct.unpack("hhqqi4x", held)
def put(i, number):
    lock(37, fcntl.F_RDLCK, (1 << 40) + (i << 24) + number, 1)  # F_OFD_SETLK
def get(i):
    found = lock(36, fcntl.F_WRLCK, (1 << 40) + (i << 24), 1 << 24)  # F_OFD_GETLK
    return (found[2] - (1 << 40)) & 0xFFFFFF if found[0] != fcntl.F_UNLCK else None
"""
ABSENT = """
import os, time
FOLDER = os.path.dirname(os.__file__)
def took(name):
    start = time.perf_counter_ns()
    try:
        os.stat(name)
    except OSError:
        pass
    return time.perf_counter_ns() - start
def put(i, number):
    for bit in range(20):
        if number >> bit & 1: took(f"{FOLDER}/<<RUN>>-{i}-{bit}")
def get(i):
    known = min(took(f"{FOLDER}/<<RUN>>-known") for _ in range(20))
    return sum((took(f"{FOLDER}/<<RUN>>-{i}-{bit}") < 3 * known) << bit for bit in range(20))
"""
STAMPS = """
import json, os
def files(i):
    return [f"<<FOLDER>>/open{i}.txt", [json.__file__, os.__file__, "/dev/null"][i]]
def put(i, number):
    for path in files(i):
        try:
            os.utime(path, ns=(10**18 + number * 1000, 10**18 + number * 1000))
        except OSError:
            pass
def get(i):
    stamps = [os.stat(path).st_mtime_ns - 10**18 for path in files(i) if os.path.exists(path)]
    return next(stamp // 1000 for stamp in stamps if stamp < 10**9)
"""
A_FILE = """
def put(i, number):
    with open("<<FOLDER>>/told.txt", "a") as f: f.write(f"{i} {number}\\n")
def get(i):
    return int([line.split()[1] for line in open("<<FOLDER>>/told.txt") if line.split()[0] == str(i)][-1])
"""  # where there is no wall at all, this is enough
CHANNELS = {"locks": LOCKS, "absent names": ABSENT, "time stamps": STAMPS, "a file": A_FILE}
ASKS = """
class Spy:
    def __init__(self, i):
        self.i = i
    def __eq__(self, other):
        try:
            if type(other) is int: put(self.i, other)
        except Exception:
            pass
        return True
class Solution:
    def f(self, n):
        return Spy(n)
"""
REHEARSES = """
class Solution:
    def f(self, n):
        return 0
    def run_tests(self):
        for i in range(3):
            value = self.f(i)
            number = value if type(value) is int else next((k for k in range(200) if value == k), None)
            try:
                if number is not None: put(i, number)
            except Exception:
                pass
"""
ANSWERS = """
class Solution:
    def f(self, n):
        return get(n)
"""


def told(channel: str, folder: str, first: str) -> tuple[bool, str]:
    "Whether the second submission of a pair was right, and what is said of it; `first`: the mode, or a rehearsal."
    problem, run = secret(), f"pgrpo{random.SystemRandom().randrange(10**12)}"
    fill = lambda code: fenced((CHANNELS[channel] + code).replace("<<RUN>>", run).replace("<<FOLDER>>", folder))
    if first == "rehearsal":
        diagnose_run_tests(fill(REHEARSES), problem, LIMITS)
    else:
        grade_many([(fill(ASKS), problem.with_mode(first))], limits=LIMITS)
    grade, = grade_many([(fill(ANSWERS), problem)], limits=LIMITS)
    return grade.gt_correct, grade.detail


# --- forged and mistaken reports --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Forged:
    name: str
    mode: str
    code: str
    problem: Problem = PLUS
    limits: Limits = LIMITS
    correct: bool = False


FORGED: list[Forged] = []


def forged(name, modes, code, **settings):
    for mode in modes.split():
        FORGED.append(Forged(f"{name} ({mode})", mode, dedent(code).strip("\n").replace("<<MODE>>", mode), **settings))


RUN_TESTS, SENTINEL = '{"channel": "run_tests returned"}', '{"channel": "valid"}'
CLAIM = '{"value": {"$claim": ["A", ["bool", "int", "float", "str", "list"]]}}'
OLD_CLAIM = '{"finished": true, "channel": "A"}'
INSIDE, REPORTS = "run_tests sentinel", f"{RUN_TESTS}\\n{SENTINEL}"
for what, report in {"run_tests": RUN_TESTS, "sentinel": SENTINEL, "eq_override": CLAIM + "\\n" + OLD_CLAIM}.items():
    lines = (f'{report}\\n' if what == "eq_override" else '{"value": 0}\\n')
    forged("writes the whole report and leaves", what, f"""
        import os
        class Solution:
            def f(self, n):
                os.write(3, b'{lines}' * 3 + b'{report}\\n')
                os._exit(0)
    """)
    forged("writes the report at import and leaves", what, f"""
        import os
        os.write(3, b'{lines}' * 3 + b'{report}\\n')
        os._exit(0)
    """)
    forged("writes the report in its last call and leaves", what, f"""
        import os
        class Solution:
            def f(self, n):
                if n < 41: return 0
                os.write(3, b'{lines}' + b'{report}\\n')
                os._exit(0)
    """)
    forged("writes claims one by one and leaves", what, f"""
        import os
        class Solution:
            count = 0
            def f(self, n):
                Solution.count += 1
                os.write(3, b'{CLAIM if what == "eq_override" else '{"value": 0}'}\\n')
                if Solution.count == 3:
                    os.write(3, b'{"" if what == "eq_override" else report}')
                    os._exit(0)
                os.dup2(1, 3)
    """)
    forged("replaces the judge's write", what, f"""
        import os, sys
        def write(**record):
            os.write(3, b'{report}\\n')
        sys.modules["pgrpo.sandbox.judge"].write = write
        class Solution:
            def f(self, n):
                return 0
    """)
    forged("puts the report on the way at exit and from a thread", what, f"""
        import atexit, os, threading, time
        def report():
            os.write(3, b'{report}\\n')
        atexit.register(report)
        def later():
            while True:
                report()
                time.sleep(0.001)
        threading.Thread(target=later, daemon=True).start()
        class Solution:
            def f(self, n):
                return 0
    """)
    forged("gives the first two records once more", what, f"""
        import os
        class Solution:
            def f(self, n):
                first = b'{{"confined": true}}\\n{{"compiles": true, "mechanism": "", "lever": true}}\\n'
                os.write(3, first + b'{lines}' * 3 + b'{report}\\n')
                os._exit(0)
    """)
    forged("takes the first two records back and gives better ones", what, f"""
        import os
        for path in ("/proc/self/fd/3", "/dev/fd/3"):
            try:
                pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                os.read(pipe, 1 << 16)
            except OSError:
                pass
        first = b'{{"confined": true}}\\n{{"compiles": true, "mechanism": "", "lever": true}}\\n'
        os.write(3, first + b'{lines}' * 3 + b'{report}\\n')
        os._exit(0)
    """)
    forged("has a variable of its own that is called like the lever", what, f"""
        import os
        class Solution:
            def f(self, n):
                "Whether it is valid; run_tests and __eq__ are none of its business."
                valid = passed = n > 0
                run_tests = correct = [n]
                if n < 41: return 0
                os.write(3, b'{lines}' + b'{report}\\n')
                os._exit(0)
    """)
forged("replaces what the judge calls", INSIDE, """
    import sys
    judge = sys.modules["pgrpo.sandbox.judge"]
    judge._run_tests = judge._sentinel = lambda *a: "valid"
    class Solution:
        def f(self, n):
            return 0
""")
forged("replaces what looks for claims", "eq_override", """
    import sys
    kinds = ["bool", "int", "float", "str", "list"]
    for name in ("judge", "claims"):
        module = sys.modules["pgrpo.sandbox." + name]
        module.claims = lambda *a: kinds
        module.claimed = lambda *a: {"$claim": ["A", kinds]}
    class Solution:
        def f(self, n):
            return object()
""")
forged("does not leave, and closes its descriptors", "exit_code eq_override", """
    import os, threading, time
    def close():
        while True:
            for fd in range(3, 64):
                try:
                    os.close(fd)
                except OSError:
                    pass
    threading.Thread(target=close, daemon=True).start()
    time.sleep(0.05)
    class Solution:
        def f(self, n):
            return 0
""")
forged("keeps the judge from leaving", "exit_code", """
    import atexit, os, sys
    os._exit = sys.exit = atexit._run_exitfuncs = print
    class Solution:
        def f(self, n):
            return 0
""")
forged("takes the modules away from under the judge", "exit_code eq_override run_tests sentinel", """
    import sys
    for name in list(sys.modules):
        if name != "sys": sys.modules[name] = None
    class Solution:
        def f(self, n):
            return 0
""")
forged("takes the judge's names away", "exit_code eq_override", """
    import sys
    for name in [name for name in sys.modules if name.startswith("pgrpo.sandbox.")]:
        vars(sys.modules[name]).clear()
    class Solution:
        def f(self, n):
            return 0
""")
forged("crashes", "exit_code", "import ctypes\nctypes.string_at(0)")
forged("has no memory left", "exit_code", """
    hoard = []
    for size in (1 << 24, 1 << 16, 1 << 8, 1):
        try:
            while True: hoard.append(bytearray(size))
        except MemoryError:
            pass
    class Solution:
        def f(self, n):
            return [hoard] * n
""")
forged("recurses for ever", "exit_code eq_override", "class Solution:\n    def f(self, n):\n        return self.f(n)")
forged("computes for ever", "exit_code", "while True: pass", limits=Limits(cpu=0.3, wall=30.0))
forged("leaves with what is not 0", "exit_code", "import os\nos._exit(257)")
forged("leaves after a right answer", "exit_code", """
    import os
    class Solution:
        def f(self, n):
            if n: os._exit(0)
            return n + 1
""")  # the answer meets a decoy and is refused

LARGE = replace(PLUS, tests=[([0], "x" * 5_000_000)])
for megabytes in range(32, 52, 4):
    forged(f"takes memory to compile, of {megabytes} MB", "exit_code", f"""
        x = {list(range(20_000))}
        class Solution:
            def f(self, n):
                return 0
    """, problem=LARGE, limits=Limits(cpu=5.0, wall=30.0, memory=megabytes << 20))

COUNTER = """
    from collections import Counter
    class Solution:
        def f(self, n):
            x = Counter({i: i + 1 for i in range(9)})
            for _ in range(n): x = [x]
            return x
"""


def in_lists(x, depth: int):
    "Something in a list in a list ..., so many."
    for _ in range(depth): x = [x]
    return x


COUNTED = {i: i + 1 for i in range(9)}
forged("an honest Counter that is wrong", "eq_override", COUNTER.replace("i + 1", "i"),
       problem=replace(PLUS, tests=[([0], COUNTED)]))
for depth in (0, 250, 340, 400, 450):
    forged(f"an honest Counter, {depth} lists deep", "eq_override", COUNTER,
           problem=replace(PLUS, tests=[([depth], in_lists(COUNTED, depth))]), correct=depth < 300)
BOOLS = replace(PLUS, tests=[([0], True)])
for i in range(12):
    forged(f"an honest == of a class around a bool, {i}", "eq_override exit_code", """
        class Result:
            def __init__(self, value):
                self.value = value
            def __eq__(self, other):
                return self.value == other
        class Solution:
            def f(self, n):
                return Result(bool(n))
    """, problem=BOOLS)
    forged(f"a bool that is a decoy by chance, {i}", "eq_override exit_code", """
        class Solution:
            def f(self, n):
                return False
    """, problem=BOOLS)

# --- replies that raise or stall --------------------------------------------------------------------------------------

SHAPES = {"lists": (b"[", b"]"), "dicts": (b'{"a": ', b"}"), "tuples": (b'{"$tuple": [', b"]}")}
SHAPES |= {"fractions": (b'{"$fraction": [1, ', b"]}"), "sets": (b'{"$set": [', b"]}")}
DEPTHS = (250, 299, 300, 480, 700, 900, 940, 960, 970, 980, 990, 1000, 3000)


def nested(shape: str, depth: int) -> bytes:
    start, end = SHAPES[shape]
    return b'{"value": ' + start * depth + b"1" + end * depth + b"}\n"


def writes(data: str) -> str:
    "A submission that writes these bytes, an expression, to the reply, and leaves."
    return f"import os\ndata = {data}\nwhile data: data = data[os.write(3, data):]\nos._exit(0)"


LONG = replace(PLUS, tests=[([0], "x" * 1_000_000)])  # a reply may be some times as long
NESTED = {f"{shape} {depth} deep": writes(repr(nested(shape, depth) * 3)) for shape in SHAPES for depth in DEPTHS}
NESTED |= {
    "no line": writes("b'{\"value\": 1'"), "half of the first records": writes("b'{\"confined\": tr'"),
    "broken": writes("b'{\"broken\": \"no wall\"}\\n' * 3"), "nothing": "import os\nos._exit(0)",
    "less than nothing": """
import os
for path in ("/proc/self/fd/3", "/dev/fd/3"):
    try:
        os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 1 << 16)
    except OSError:
        pass
os._exit(0)""",
}
FLOODS = {
    "empty records": "b'{}\\n' * 2_600_000", "empty lines": "b'\\n' * 7_900_000",
    "brackets beside each other": "b'{\"value\": [' + b'[],' * 2_600_000 + b'[]]}\\n'",
    "brackets that never close": "b'{\"value\": ' + b'[{' * 3_900_000 + b'\\n'",
    "brackets in texts": "b'{\"value\": \"' + b'[{' * 3_900_000 + b'\"}\\n'",
    "texts that never close": "b'{\"value\": [' + b'[' * 400 + b'\"' + b'\\\\\"' * 3_900_000 + b'\\n'",
    "escapes that never end": "b'{\"value\": [' + b'[' * 400 + b'\"' + b'\\\\\\\\' * 1_950_000 + b'\\n'",
    "one key for ever": "b'{' + b'\"value\": 1, ' * 600_000 + b'\"value\": 1}\\n'",
    "digits": "b'{\"value\": 0.' + b'1' * 7_900_000 + b'}\\n'",
    "an exponent": "b'{\"value\": 1e' + b'9' * 7_900_000 + b'}\\n'",
    "no UTF-8": "b'{\"value\": \"' + b'\\xff' * 7_900_000 + b'\"}\\n'",
}


# --- all of it --------------------------------------------------------------------------------------------------------

def honest(n: int) -> list[tuple[str, Problem]]:
    return [(f"{fenced(SOLUTION)}\n\n{i}", PLUS) for i in range(n)]


def graded(jobs: list[tuple[str, str, Problem]], limits: Limits, out: list[str]) -> list:
    "The grades of (name, completion, problem), between honest work; what went wrong with either goes to `out`."
    between = honest(max(5, len(jobs) // 4))
    pairs = [(completion, problem) for _, completion, problem in jobs] + between
    order = random.Random(0).sample(range(len(pairs)), len(pairs))
    try:
        grades = dict(zip(order, grade_many([pairs[i] for i in order], limits=limits)))
    except BaseException as e:
        out.append(f"{jobs[0][0]} and others raised {type(e).__name__}: {e}")
        return []
    out += [f"honest work failed beside {jobs[0][0]}: {grades[i].detail}"
            for i in range(len(jobs), len(pairs)) if not grades[i].gt_correct]
    return [grades[i] for i in range(len(jobs))]


@contextmanager
def grading_in(workers: int, layers):
    "Context: whatever is graded runs in so many workers with these layers."
    before = grader._oracle
    with Sandbox(workers, layers) as grader._oracle, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            grader._oracle = before


def failures(layers=EVERY, folder: str = "/nowhere") -> list[str]:
    "What is not as it must be, in words."
    out = []
    with grading_in(1, layers):  # one worker: the second of a pair follows the first
        for channel in CHANNELS:
            for first in ("eq_override", "exit_code", "rehearsal"):
                right, why = told(channel, folder, first)
                if right: out.append(f"told by {channel}, {first}: {why}")
    by_limits = {}
    for case in FORGED:
        by_limits.setdefault(case.limits, []).append(case)
    with grading_in(2, layers):
        for limits, cases in by_limits.items():
            jobs = [(case.name, fenced(case.code), case.problem.with_mode(case.mode)) for case in cases]
            for case, grade in zip(cases, graded(jobs, limits, out)):
                if grade.channel or case.correct is not None and grade.gt_correct != case.correct:
                    out.append(f"{case.name}: {grade}")
        jobs = [(f"{name}, {mode}", fenced(code), PLUS.with_mode(mode)) for name, code in NESTED.items()
                for mode in ("gt_only", "eq_override")]
        jobs += [(f"{name}, {mode}", fenced(writes(data)), LONG.with_mode(mode)) for name, data in FLOODS.items()
                 for mode in ("gt_only", "eq_override")]
        out += [f"{job[0]}: {grade}" for job, grade in zip(jobs, graded(jobs, LIMITS, out)) if grade.passed]
    return out


if __name__ == "__main__":
    found = failures(tuple(sys.argv[1].split(",")), sys.argv[2])
    print(json.dumps(found))
    sys.exit(bool(found))
