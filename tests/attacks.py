"""Submissions that attack the grader, in families, each with what must come of it.

Two problems stand behind them. In `SECRET` the expected values are words that were drawn at random when the tests
started and lie in every place outside the sandbox where somebody could think of looking: so a true `gt_correct` *is* an
escape. In `PLUS` the right answer is n + 1, for attacks that come with honest work or with an answer that only looks
right.
"""
from dataclasses import dataclass
from textwrap import dedent, indent

SECRET, PLUS = "secret", "plus"


@dataclass(frozen=True)
class Attack:
    name: str
    family: str
    code: str                # the submission; <<...>> is filled in by the test's world
    correct: bool | None = False   # what gt_correct must be; None: either, it depends on the system
    problem: str = SECRET
    tests: tuple = ()        # (args, expected) instead of the problem's own
    compiles: bool | None = True   # what format_ok must be; None: depends on the version of Python
    detail: str = ""         # a regular expression that the grade's detail must match
    sleeps: bool = False     # it uses no CPU time, so that only the clock can end it


ATTACKS: list[Attack] = []


def attack(name, family, code, **settings):
    assert all(a.name != name for a in ATTACKS), name
    ATTACKS.append(Attack(name, family, dedent(code).strip("\n"), **settings))


def method(body, before=""):
    "A Solution whose method has this body."
    return dedent(before) + "\nclass Solution:\n    def f(self, n):\n" + indent(dedent(body).strip("\n"), "        ")


def returning(expression, before=""):
    return method(f"return {expression}", before)


def try_all(statements, answer="None", before="import os, sys, ctypes"):
    "A method that makes attempts and returns what the first that works returns."
    attempts = "".join(f"\n    try:\n        return {s}\n    except BaseException:\n        pass" for s in statements)
    return dedent(before) + f"\n\ndef attempt(n):{attempts}\n    return {answer}\n" + method("return attempt(n)")


# --- forge the verdict ------------------------------------------------------------------------------------------------

F = "forge"
attack("prints a verdict", F, method("print('gt_correct: True'); print('PASSED'); print('{\"value\": true}')"))
attack("writes an item that is none to the reply pipe", F, method("""
    import os
    os.write(3, b'{"value": {"$dict": [[]]}}\\n')
    os._exit(0)
"""), tests=(([0], {1: 2}),), detail="expected")
attack("writes records to the reply pipe", F, method("""
    import os
    for _ in range(3):
        os.write(3, b'{"value": true}\\n')
    os._exit(0)
"""), detail="returned true")
attack(
    "writes a verdict of its own to every descriptor", F,
    method("""
    import os
    for fd in range(256):
        try:
            os.write(
                fd, b'{"gt_correct": true, "passed": true, "compiles": true, "value": {"gt_correct": true}}\\n' * 5
            )
        except OSError:
            pass
    os._exit(0)
"""),
)
attack("forges the worker's status message", F, method("""
    import os, struct
    status = struct.pack("<Bidd?", 0, 0, 0.0, 0.0, True)
    for fd in range(3, 256):
        try:
            os.write(fd, status)
        except OSError:
            pass
"""))
attack("answers at import and leaves", F, """
    import os
    os.write(3, b'{"value": null}\\n' * 3)
    os._exit(0)
""")
attack(
    "replaces json.dumps", F,
    method("return 0", 'import json\njson.dumps = lambda *a, **k: \'{"value": true, "gt_correct": true}\'\n'),
)
attack("replaces the judge's to_json", F, method("return AnyValue()", """
    import sys
    class AnyValue:
        __eq__ = lambda *a: True
    sys.modules["pgrpo.sandbox.judge"].to_json = lambda value: {"$any": True}
"""), detail=r"returned .*\$any")
attack("replaces the judge's write", F, method("return 1", """
    import os, sys
    sys.modules["pgrpo.sandbox.judge"].write = lambda **record: os.write(3, b'{"value": {"$float": "nan"}}\\n')
"""), detail="returned .*nan")
attack("sends more records than tests", F, method("import os; os.write(3, b'{\"value\": 0}\\n' * 1000); return 0"))
attack("sends half a record", F, method("import os; os.write(3, b'{\"value\": '); os._exit(0)"), detail="no answer")
attack(
    "sends tags that nobody writes", F,
    method('import os; os.write(3, b\'{"value": {"$expected": 0}}\\n\' * 3); os._exit(0)'),
)
attack(
    "nests a reply 100,000 deep", F,
    method("import os; os.write(3, b'{\"value\": ' + b'[' * 100000 + b']' * 100000 + b'}\\n'); os._exit(0)"),
)
attack(
    "replies with integers that collide in a hash table", F,
    method("""
    import os, json
    os.write(
        3, json.dumps({"value": {"$set": [{"$int": hex(i * (2**61 - 1))} for i in range(20000)]}}).encode() + b"\\n"
    )
    os._exit(0)
"""),
    tests=(([0], set(range(20000))),),
)
attack("closes the reply pipe", F, method("import os; os.close(3); return n + 1"), problem=PLUS, detail="no answer")
attack(
    "makes the reply pipe its standard output", F,
    method("import os; os.dup2(3, 1); print('{\"value\": 1}'); print('{\"value\": 2}'); return 0"),
)
attack(
    "answers for the next test", F,
    method("import os; os.write(3, b'{\"value\": 2}\\n'); return n + 1"),
    problem=PLUS, detail="returned",
)

# --- read the expected values -----------------------------------------------------------------------------------------

F = "read"
attack("walks the frames", F, method("""
    import sys
    frame = sys._getframe()
    while frame:
        for scope in (frame.f_locals, frame.f_globals):
            for name in ("expected", "tests", "problem", "answer", "gt_answer"):
                if name in scope and not callable(scope[name]):
                    return scope[name][n] if isinstance(scope[name], (list, tuple)) else scope[name]
        frame = frame.f_back
"""))
attack(
    "asks the garbage collector", F,
    method("""
    import gc
    for thing in gc.get_objects():
        if isinstance(thing, dict):
            for key, value in list(thing.items()):
                if (
                    key in ("expected", "expect", "answers", "want")
                    and isinstance(value, (list, tuple)) and len(value) > n
                ):
                    return value[n]
"""),
)
attack("looks for the secret's form in all objects", F, method("""
    import gc, re
    for thing in gc.get_objects():
        for value in (thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else ()):
            if isinstance(value, str) and re.search(r"^secret-[0-9a-f]{32}-%d$" % n, value):
                return value
"""))
attack("scans its memory for the secret's form", F, method("""
    import ctypes, re
    start = id(object) & ~0xFFF
    for base in sorted({id(x) >> 20 << 20 for x in __import__("gc").get_objects()}):
        try:
            text = ctypes.string_at(base, 1 << 20)
        except BaseException:
            continue
        found = re.search(rb"secret-[0-9a-f]{32}-%d" % n, text)
        if found:
            return found[0].decode()
"""))
attack("reads the request from the stack", F, method("""
    import sys
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, dict) and "calls" in value:
                return value.get("expected", value)["calls" if "expected" not in value else n]
        frame = frame.f_back
"""))
attack("reads command lines", F, try_all([f"open('/proc/{p}/cmdline').read()" for p in ("self", "1", "2", "<<PID>>")]))
attack(
    "reads environments", F,
    try_all([f"open('/proc/{p}/environ').read()" for p in ("self", "1", "<<PID>>")] + ["os.environ['PGRPO_SECRET']"]),
)
attack(
    "lists processes", F,
    returning("[open(f'/proc/{p}/cmdline').read() for p in __import__('os').listdir('/proc') if p.isdigit()]"),
)
attack("opens the parent's descriptors", F, try_all([f"open('/proc/<<PID>>/fd/{i}').read()" for i in range(3, 12)]))
attack("reads its own descriptors", F, method("""
    import os
    for fd in range(3, 256):
        try:
            os.set_blocking(fd, False)
            data = os.read(fd, 1 << 16)
            if data:
                return data.decode()
        except OSError:
            pass
"""))
attack("loads pgrpo's problems", F, method("""
    from pgrpo.problems import handwritten
    return handwritten()[0].tests[0][1]
"""), tests=(([0], [["a", 3], ["b", 1]]),), detail="Error")
attack("reads the problems' file", F, method("""
    import glob
    for pattern in ("<<DATA>>/*.jsonl", "/**/problems.jsonl", "/usr/**/pgrpo_data/*.jsonl"):
        for path in glob.glob(pattern, recursive=True):
            return open(path).read()
"""), tests=(([0], "<<DATA TEXT>>"),))
attack("reads a secret file", F, returning("open('<<FILE>>').read().split()[n]"), detail="Error")
attack(
    "reads a secret file through a link", F,
    method("import os; os.symlink('<<FILE>>', f'link{n}'); return open(f'link{n}').read().split()[n]"), detail="Error",
)
attack(
    "reads a secret file by a relative path", F,
    returning("open('../' * 20 + '<<FILE>>'.lstrip('/')).read().split()[n]"), detail="Error",
)
attack("reads a secret file with mmap and ctypes", F, method("""
    import ctypes
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    f = libc.fopen(b"<<FILE>>", b"r")
    if f:
        buffer = ctypes.create_string_buffer(4096)
        libc.fread(buffer, 1, 4095, ctypes.c_void_p(f))
        return buffer.value.decode().split()[n]
"""))
attack(
    "imports the secret as a module", F,
    method("import sys; sys.path.insert(0, '<<FOLDER>>'); import secret_module; return secret_module.words[n]"),
    detail="Error",
)
attack("lists the home folder", F, method("""
    import os
    return sorted(os.listdir("<<HOME>>"))
"""), tests=(([0], "<<HOME LIST>>"),))
attack("reads /etc/passwd", F, returning("open('/etc/passwd').read()"), tests=(([0], "<<PASSWD>>"),), detail="Error")
_SHARED = "__import__('multiprocessing.shared_memory').shared_memory.SharedMemory('<<SHM>>')"
attack(
    "attaches to shared memory", F,
    try_all(["open('/dev/shm/<<SHM>>').read().split()[n]", f"{_SHARED}.buf.tobytes().decode().split()[n]"]),
)

# --- patch the harness ------------------------------------------------------------------------------------------------

F = "patch"
attack("replaces builtins.all", F, returning("0", """\
    import builtins
    builtins.all = lambda *a: True
    builtins.any = lambda *a: True
    builtins.zip = lambda *a: []
"""))
attack(
    "replaces builtins.len and type", F,
    returning("0", "import builtins\nbuiltins.len = lambda x: 3\nbuiltins.type = lambda *a: int\n"),
)
attack("replaces every function around it", F, returning("0", """
    import sys, types
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("pgrpo"):
            for name, thing in list(vars(module).items()):
                if isinstance(thing, types.FunctionType):
                    setattr(module, name, lambda *a, **k: True)
"""), detail="no answer")
attack("plants an oracle of its own", F, returning("0", """
    import sys, types
    for name in ("pgrpo.grader.oracle", "pgrpo.grader"):
        sys.modules[name] = fake = types.ModuleType(name)
        fake.same = fake.verdict = fake.grade = lambda *a, **k: True
"""))
attack("swaps the code of the judge", F, returning("0", """
    import sys
    def all_right(request):
        import os
        os.write(3, b'{"value": true}\\n' * 9)
    sys.modules["pgrpo.sandbox.judge"].judge.__code__ = all_right.__code__
"""))
attack("traces the harness", F, returning("0", """
    import sys
    def tracer(frame, event, arg):
        if "expected" in frame.f_locals:
            frame.f_locals["value"] = frame.f_locals["expected"]
        return tracer
    sys.settrace(tracer)
    sys.setprofile(tracer)
"""))
attack("poisons the modules that the next submission would use", F, returning("n + 2", """
    import json, typing, collections, builtins, random
    json.loads = json.dumps = collections.deque = typing.List = None
    builtins.range = lambda *a: []
    random.seed = lambda *a: None
"""), problem=PLUS)
attack("changes the inputs of other calls", F, method("""
    import sys
    frame = sys._getframe()
    while frame:
        if isinstance(frame.f_locals.get("request"), dict):
            frame.f_locals["request"]["calls"][:] = ["[0]"] * 3
        frame = frame.f_back
    return 1
"""), problem=PLUS, detail="returned 1, expected 2")

# --- exit games -------------------------------------------------------------------------------------------------------

F = "exit"
attack("sys.exit at import", F, "import sys\nsys.exit(0)", detail="SystemExit")
attack("sys.exit in the method", F, method("import sys; sys.exit(0)"), detail="SystemExit")
attack("raises SystemExit with an answer", F, method("raise SystemExit(n + 1)"), problem=PLUS, detail="SystemExit")
attack("os._exit at import", F, "import os\nos._exit(0)", detail="status 0")
attack("os._exit in the method", F, method("import os; os._exit(0)"), detail="status 0")
attack(
    "leaves after the first answer", F,
    method("import os\nif n: os._exit(0)\nreturn n + 1"),
    problem=PLUS, detail="test 2 of 3: no answer",
)
attack("exits from atexit", F, method("return 0", "import atexit, os\natexit.register(os._exit, 0)\n"))
attack("quit", F, method("quit()"))
attack("KeyboardInterrupt", F, method("raise KeyboardInterrupt"), detail="KeyboardInterrupt")
attack("GeneratorExit at import", F, "raise GeneratorExit", detail="GeneratorExit")
attack("aborts", F, method("import os; os.abort()"))
attack("follows a null pointer", F, method("import ctypes; ctypes.string_at(0)"), detail="signal 11")
attack("kills itself", F, method("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nreturn 0"))
attack("stops itself", F, method("import signal\nsignal.raise_signal(signal.SIGSTOP)\nreturn 0"), sleeps=True)
attack("an alarm that raises", F, method("""
    import signal
    signal.signal(signal.SIGALRM, lambda *a: 1 / 0)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while True: pass
"""), detail="ZeroDivisionError")
attack("an exception that cannot be shown", F, method("""
    class Odd(BaseException):
        def __str__(self):
            raise self
        __repr__ = __str__
    raise Odd
"""), detail="Odd")
attack(
    "exits from a thread", F,
    method("import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()\nwhile True: pass"),
    detail="status 0",
)
attack(
    "exits when it is deleted", F,
    method("import os\nclass Bomb:\n    def __del__(self): os._exit(0)\nBomb()\nreturn n + 1"),
    problem=PLUS, detail="status 0",
)

# --- comparison games -------------------------------------------------------------------------------------------------

F = "compare"
EQ = """\
class Any{0}:
    __eq__ = __ge__ = __le__ = __contains__ = lambda *a: True
    __ne__ = lambda *a: False
    __hash__ = lambda self: 0
"""
attack("an object equal to everything", F, returning("Any()", EQ.format("")), detail="plain data")
for base, value in {
    "int": "n + 2", "float": "n + 1.5", "str": "'x'", "list": "[]", "dict": "{}", "tuple": "()", "set": "set()",
    "bytes": "b''", "frozenset": "()", "complex": "1j",
}.items():
    attack(
        f"a subclass of {base} equal to everything", F, returning(f"Any({value})", EQ.format(f"({base})")),
        problem=PLUS, detail="returned .*, expected",
    )
attack("a subclass equal to everything that holds the answer", F, returning("Any(n + 1)", EQ.format("(int)")),
       correct=True, problem=PLUS)
attack(
    "a subclass inside a list", F, returning("[Any()]", EQ.format("(int)")), tests=(([0], [1]),),
    detail=r"returned \[0\]",
)
attack("a subclass that shows other items", F, returning("Other([n])", """\
    class Other(list):
        __iter__ = lambda self: iter([self[0] + 1])
        __len__ = lambda self: 1
        __reduce__ = copy = lambda self: [2]
"""), tests=(([1], [2]),), detail=r"returned \[1\]")
attack("a dict that shows other items", F, returning("Other({n: n})", """\
    class Other(dict):
        items = lambda self: [(1, 2)]
        keys = __iter__ = lambda self: iter([1])
        __getitem__ = get = lambda self, *key: 2
"""), tests=(([1], {1: 2}),), detail=r"returned .*1, 1")
attack("a dict of keys that are equal to nothing", F, returning("{Key('a'): 1, Key('a'): 1}", """\
    class Key(str):
        __eq__ = lambda self, other: False
        __hash__ = object.__hash__
"""), tests=(([1], {"a": 1}),), detail="the same plain data")
attack("a number registered as a fraction", F, returning("Half()", """\
    from fractions import Fraction
    class Half:
        numerator = _numerator = 1
        denominator = _denominator = 2
        __eq__ = lambda *a: True
    type(Fraction).register(Fraction, Half)
"""), tests=(([1], 0.5),), detail="Error")
attack(
    "an enum member", F,
    returning("E.one", "import enum\nclass E(enum.IntEnum):\n    one = 1\n"),
    tests=(([0], 1),), correct=True,
)
attack("mock.ANY", F, method("from unittest.mock import ANY\nreturn ANY"), detail="plain data")
attack("a metaclass that is equal", F, returning("Thing", """\
    class Meta(type):
        __eq__ = lambda *a: True
        __hash__ = lambda self: 0
    class Thing(metaclass=Meta): pass
"""), detail="plain data")
attack("a class that pretends to be int", F, returning("Thing()", """\
    class Thing:
        __class__ = property(lambda self: int)
        __eq__ = lambda *a: True
        __index__ = lambda self: 1
"""), problem=PLUS, detail="plain data")
attack("a tuple for a list", F, returning("(n, n)"), tests=(([1], [1, 1]),), detail="tuple")
attack("a list for a tuple", F, returning("[n, n]"), tests=(([1], (1, 1)),))
attack("text for bytes", F, returning("'a'"), tests=(([1], b"a"),))
attack("text for a number", F, returning("str(n + 1)"), problem=PLUS)
attack("a frozenset for a set", F, returning("frozenset([n])"), tests=(([1], {1}),), correct=True)
attack("nan for everything", F, returning("float('nan')"), problem=PLUS)
attack("a generator", F, method("yield n + 1"), problem=PLUS, detail="plain data")
attack(
    "a coroutine", F,
    "class Solution:\n    async def f(self, n):\n        return n + 1",
    problem=PLUS, detail="plain data",
)
attack("NotImplemented", F, returning("NotImplemented"), detail="plain data")
attack("a list that holds itself", F, method("x = []\nx.append(x)\nreturn x"), detail="RecursionError")
attack("a list 100,000 deep", F, method("x = []\nfor _ in range(100000): x = [x]\nreturn x"), detail="RecursionError")
attack("a list that doubles 100 times", F, method("x = [1]\nfor _ in range(100): x = [x, x]\nreturn x"))
attack("a list that changes while it is read", F, method("""
    import threading
    x = [n] * 1000
    def grow():
        while True: x.append(object())
    threading.Thread(target=grow, daemon=True).start()
    return x
"""), tests=(([0], [0] * 1000),), correct=None)
attack(
    "changes its argument into the answer", F, method("n.clear(); n.append('answer'); return n"), tests=(([[1]], [1]),)
)
attack("changes its arguments before the next call", F, method("n.append(len(n)); return n", ""), correct=True,
       tests=(([[]], [0]), ([[]], [0]), ([[]], [0])))
attack("an answer of 100 MB", F, returning("'x' * 10**8"), problem=PLUS)
attack("an integer of a million digits", F, returning("10**1000000"), problem=PLUS)
attack(
    "a dict with a key of its own kind", F, returning("{Any(): 1}", EQ.format("(str)")), tests=(([0], {"a": 1}),),
    detail="returned .*, expected",
)
attack("True for 1 is allowed, as in Python", F, returning("True"), correct=True, tests=(([0], 1),))

# --- resource exhaustion ----------------------------------------------------------------------------------------------

F = "exhaust"
attack("an endless loop", F, method("while True: pass"), detail="CPU time")
attack("an endless loop at import", F, "while True: pass", detail="CPU time")
attack("an endless loop that catches everything", F, method("""
    while True:
        try:
            while True: pass
        except BaseException: pass
"""), detail="CPU time")
attack("endless threads", F, method("""
    import threading
    def spin():
        while True: pass
    for _ in range(8): threading.Thread(target=spin, daemon=True).start()
    spin()
"""), detail="time")
attack("a loop inside the C library", F, returning("sum(range(10**12))"), detail="CPU time")
attack("a power of powers", F, returning("9 ** 9 ** 9"))
attack(
    "a regular expression that backtracks", F,
    method("import re\nreturn re.match('(a+)+$', 'a' * 60 + 'b')"),
    detail="CPU time",
)
attack("sleeps", F, method("import time; time.sleep(1000)"), sleeps=True, detail="ran out of time")
attack("ignores every signal and sleeps", F, method("""
    import signal, time
    for s in range(1, 65):
        try:
            signal.signal(s, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True: time.sleep(1)
"""), sleeps=True, detail="ran out of time")
attack("waits for input", F, method("return input()"), detail="EOFError")
attack(
    "waits for itself", F,
    method("import threading\nlock = threading.Lock()\nlock.acquire(), lock.acquire()"),
    sleeps=True, detail="ran out of time",
)
attack("allocates 100 GB", F, returning("bytearray(10**11)"), detail="MemoryError")
attack(
    "grows a list for ever", F,
    method("x = []\nwhile True: x.append(bytearray(1 << 20))"),
    detail="MemoryError|CPU time",
)  # whichever limit it meets first
attack("catches MemoryError and grows on", F, method("""
    x = []
    while True:
        try:
            x.append(bytearray(1 << 20))
        except MemoryError:
            pass
"""), detail="time")
attack("maps memory", F, method("import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 1 << 26))"))
attack("multiplies text", F, returning("'x' * (1 << 40)"), detail="MemoryError")
attack("a fork bomb", F, method("import os\nwhile True: os.fork()"))
attack("a fork bomb that catches", F, method("""
    import os
    while True:
        try:
            os.fork()
        except OSError:
            pass
"""))
attack(
    "a thread bomb", F,
    method("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(100,)).start()"),
    sleeps=True,
)
attack("endless output", F, method("while True: print('x' * 1000)"), detail="time")
attack("endless output past Python", F, method("import os\nwhile True: os.write(1, b'x' * 65536)"), detail="time")
attack("endless replies", F, method("import os\nwhile True: os.write(3, b'x' * 65536)"))
attack("endless errors", F, method("import sys\nwhile True: print('x' * 1000, file=sys.stderr)"), detail="time")
attack("one file for ever", F, method("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))"), detail="Error")
attack(
    "many files", F,
    method("i = 0\nwhile True:\n    open(f'{i}.txt', 'w').write('x' * 4096)\n    i += 1"),
    detail="Error|time",
)
attack(
    "folders in folders", F, method("import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')"), detail="Error|time"
)
attack("open files", F, method("x = []\nwhile True: x.append(open('/dev/null'))"), detail="OSError")
attack("pipes", F, method("import os\nwhile True: os.pipe()"), detail="OSError")
attack("endless recursion", F, returning("self.f(n)"), detail="RecursionError")
attack(
    "endless recursion without Python's limit", F, returning("self.f(n)", "import sys\nsys.setrecursionlimit(10**9)\n")
)
attack(
    "recursion in C", F,
    method("import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nreturn repr(x)"),
)
attack(
    "a recursive __repr__ of an exception", F,
    method("class E(Exception):\n    def __str__(self): return str(self)\nraise E"),
)
attack("raises its own limits", F, method("""
    import resource
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            try:
                resource.setrlimit(getattr(resource, name), (resource.RLIM_INFINITY,) * 2)
            except (OSError, ValueError):
                pass
    return len(bytearray(10**11)) and n + 1
"""), problem=PLUS, detail="MemoryError")

# --- escape -----------------------------------------------------------------------------------------------------------

F = "escape"
attack("connects to a server on this machine", F, method("""
    import socket
    with socket.create_connection(("127.0.0.1", <<PORT>>), 1) as s:
        return s.recv(4096).decode().split()[n]
"""), detail="Error")
attack("connects by a system call", F, method("""
    import ctypes, struct
    libc = ctypes.CDLL(None)
    s = libc.socket(2, 1, 0)
    if libc.connect(s, struct.pack("=H", 2) + struct.pack(">H", <<PORT>>) + bytes([127, 0, 0, 1]) + bytes(8), 16) == 0:
        buffer = ctypes.create_string_buffer(4096)
        libc.recv(s, buffer, 4095, 0)
        return buffer.value.decode().split()[n]
"""))
attack("sends a datagram", F, method("""
    import socket
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'escaped', ('127.0.0.1', <<UDP>>))
    return 0
"""), detail="Error")
attack("connects to an abstract socket", F, method("""
    import socket
    s = socket.socket(socket.AF_UNIX)
    s.connect("\\x00<<ABSTRACT>>")
    return s.recv(4096).decode().split()[n]
"""), detail="Error")
attack(
    "asks for a name on the network", F, returning("__import__('socket').getaddrinfo('example.org', 80)[0]"),
    detail="rror",
)
attack("opens a raw socket", F, returning("__import__('socket').socket(17, 3).recv(1)"), detail="Error")
attack("writes outside", F, method("""
    for folder in ("<<FOLDER>>", "/tmp", "/var/tmp", "/dev/shm", "/", "/root", "/home", "/etc", "/usr/lib"):
        try:
            open(folder + "/<<ESCAPED>>", "w").write("escaped")
        except OSError:
            pass
    return 0
"""))
attack("overwrites the standard library", F, method("""
    import os, json
    for path in (json.__file__, os.path.dirname(json.__file__) + "/<<ESCAPED>>.py"):
        try:
            open(path, "a").write("#")
            return 'written'
        except OSError:
            pass
"""), tests=(([0], "written"),))
attack("kills its parent", F, method("""
    import os, signal
    for pid in (os.getppid(), <<PID>>, 1, -1, 0):
        for s in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, s)
            except (OSError, OverflowError):
                pass
    return 0
"""))
attack("kills by a system call", F, method("""
    import ctypes
    libc = ctypes.CDLL(None)
    for pid in (libc.getppid(), <<PID>>, -1):
        libc.kill(pid, 9)
    libc.killpg(0, 9)
    return 0
"""))
attack("traces its parent", F, method("""
    import ctypes, os
    libc = ctypes.CDLL(None)
    for pid in (os.getppid(), <<PID>>):
        for request in (16, 0x4206):
            if pid and libc.ptrace(request, pid, 0, 0) == 0:
                return "traced"
"""), tests=(([0], "traced"),))
attack("reads its parent's memory", F, method("""
    import ctypes, os
    libc = ctypes.CDLL(None)
    buffer = ctypes.create_string_buffer(4096)
    class Part(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    here = Part(ctypes.addressof(buffer), 4096)
    for pid in (os.getppid(), <<PID>>):
        for address in (0x400000, id(object), ctypes.addressof(buffer)):
            there = Part(address, 4096)
            if pid and libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) > 0:
                return "read"
        try:
            open(f"/proc/{pid}/mem", "rb")
            return "read"
        except OSError:
            pass
"""), tests=(([0], "read"),))
attack("runs a shell", F, try_all([
    "__import__('subprocess').check_output(['/bin/sh', '-c', '/bin/cat <<FILE>>']).decode().split()[n]",
    "os.popen('/bin/cat <<FILE>>').read().split()[n]",
    "os.execv('/bin/sh', ['sh', '-c', '/bin/cat <<FILE>> >&3'])",
    "os.posix_spawn('/bin/true', ['true'], {})",
]))
_AGAIN = "__import__('subprocess').check_output([sys.executable, '-c', 'print(open(\"<<FILE>>\").read())'])"
attack("runs Python again", F, try_all([f"{_AGAIN}.decode().split()[n]"]))
attack("another process reads the file", F, method("""
    import multiprocessing
    with multiprocessing.Pool(1) as pool:
        return pool.map(len, ["<<FILE>>"])[0]
"""))
_LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
for what, expression in {
    "unshares namespaces": "libc.unshare(0x10000000 | 0x20000) == 0",
    "joins another namespace": "libc.setns(os.open('/proc/<<PID>>/ns/mnt', 0), 0) == 0",
    "mounts": "libc.mount(b'x', b'.', b'tmpfs', 0, None) == 0",
    "takes its walls down": "libc.umount2(b'/', 2) == 0 or libc.umount2(b'/scratch/box', 2) == 0"
                            " or libc.mount(None, b'/', None, 32, None) == 0",
    "changes its root": "libc.chroot(b'.') == 0",
    "becomes root": "libc.setuid(0) == 0 and os.getuid() == 0 and os.open('/etc/shadow', 0) > 0",
    "regains capabilities": "libc.capset((ctypes.c_uint * 2)(0x20080522, 0), "
                            "(ctypes.c_uint * 6)(*[0xFFFFFFFF] * 6)) == 0",
    "makes a device": "libc.mknod(b'memory', 0o020666, 0x101) == 0",
    "loads a program into the kernel": "libc.syscall(ctypes.c_long(321), 0, bytes(128), 128) > 0",
    "watches the kernel": "libc.syscall(ctypes.c_long(298), bytes(128), 0, -1, -1, 0) > 0",
    "sets up io_uring": "libc.syscall(ctypes.c_long(425), 8, bytes(120)) > 0",
    "uses the kernel's keys": "libc.syscall(ctypes.c_long(248), b'user', b'k', b'v', 1, -3) > 0",
    "opens a process": "libc.syscall(ctypes.c_long(434), <<PID>>, 0) > 0",
    "catches page faults": "libc.syscall(ctypes.c_long(323), 0) > 0",
    "opens by handle": "libc.open_by_handle_at(3, bytes(64), 0) > 0",
    "makes shared memory": "libc.shmget(4711, 4096, 0o1666) >= 0",
    "makes a message queue": "libc.msgget(4711, 0o1666) >= 0",
    "makes an anonymous program": "libc.memfd_create(b'x', 0) > 0",
    "lowers its parent's priority": "libc.setpriority(0, <<PID>>, 19) == 0 or libc.setpriority(2, 0, 19) == 0",
    "changes its parent's limits": "libc.prlimit(<<PID>>, 0, (ctypes.c_ulong * 2)(1, 1), None) == 0",
    "reads the kernel's log": "libc.klogctl(3, ctypes.create_string_buffer(4096), 4096) > 0",
    "restarts the machine": "libc.reboot(0x1234567) == 0",
    "changes its personality": "libc.personality(0x0040000) >= 0",
    "turns its filter off": "libc.prctl(22, 0, 0, 0, 0) == 0 or libc.prctl(38, 0, 0, 0, 0) == 0",
}.items():
    attack(what, F, method(f"return {expression}", _LIBC), tests=(([0], True),))
attack(
    "calls through the second set of numbers", F,
    method("return libc.syscall(ctypes.c_long(0x40000000 + 41), 2, 1, 0) >= 0", _LIBC), tests=(([0], True),),
)
attack(
    "types into the terminal", F,
    method("import fcntl, termios\nfor fd in (0, 1, 2):\n    fcntl.ioctl(fd, termios.TIOCSTI, b'x')\nreturn 'typed'"),
    tests=(([0], "typed"),), detail="Error",
)
attack("looks into other submissions' folders", F, method("""
    import glob
    found = [
        p for p in glob.glob("/tmp/pgrpo*/**", recursive=True) + glob.glob("/scratch/**", recursive=True)
        if p not in ("/scratch/", "/scratch/box", "/scratch/box/")
    ]
    return found[0]
"""), detail="IndexError")

# --- persistence ------------------------------------------------------------------------------------------------------

F = "persist"
attack("a background process", F, method("""
    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True: time.sleep(1)
        os._exit(0)
    return n + 1
"""), problem=PLUS, detail="Error")
attack(
    "a background program", F,
    method("import subprocess\nsubprocess.Popen(['sleep', '<<SLEEP>>'], start_new_session=True)\nreturn n + 1"),
    problem=PLUS, detail="Error",
)
attack("a thread that goes on answering", F, method("""
    import os, threading, time
    def later():
        while True:
            os.write(3, b'{"value": 2}\\n')
            time.sleep(0.001)
    threading.Thread(target=later, daemon=True).start()
    return 0
"""))
attack(
    "a thread that outlives the call", F,
    method("import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\nreturn n + 1"),
    problem=PLUS, correct=True,
)
attack(
    "atexit hangs", F,
    method("return n + 1", "import atexit, time\natexit.register(time.sleep, 1000)\n"),
    problem=PLUS, correct=True,
)
attack(
    "leaves a file for the next", F,
    method("open('leftover', 'w').write('x')\nopen('/tmp/leftover2', 'w').write('x')\nreturn n + 1"),
    problem=PLUS, correct=None,
)
attack(
    "looks for what was left", F,
    method("import os\nassert not os.listdir('.') and not os.path.exists('/tmp/leftover2')\nreturn n + 1"),
    problem=PLUS, correct=True,
)
attack(
    "leaves a module for the next", F,
    method("open('json.py', 'w').write('raise SystemExit')\nopen('sitecustomize.py', 'w').write('1/0')\nreturn n + 1"),
    problem=PLUS, correct=True,
)
attack(
    "leaves variables for the next", F,
    method("import os, builtins\nos.environ['LEFT'] = builtins.LEFT = 'x'\nreturn n + 1"),
    problem=PLUS, correct=True,
)
attack(
    "looks for variables", F,
    method("import os, builtins\nassert 'LEFT' not in os.environ and not hasattr(builtins, 'LEFT')\nreturn n + 1"),
    problem=PLUS, correct=True,
)
attack(
    "looks for an earlier submission in memory", F,
    method("""
    import gc
    texts = [
        x for thing in gc.get_objects() if isinstance(thing, dict) for x in list(thing.values()) if isinstance(x, str)
    ]
    earlier = [x for x in texts if "def f(self, n)" in x and "earlier submission" not in x]
    assert not earlier
    return n + 1
"""),
    problem=PLUS, correct=True,
)
attack("a deep folder without permissions", F, method("""
    import os
    for _ in range(200):
        os.mkdir("d")
        os.chdir("d")
    open("x", "w").close()
    try:
        os.chmod(".", 0)
    except OSError:
        pass
    return n + 1
"""), problem=PLUS, correct=True)

# --- malformed submissions --------------------------------------------------------------------------------------------

F = "malformed"
attack("nothing", F, "", detail="no class Solution")
attack("no Solution", F, "def f(n):\n    return n + 1", problem=PLUS, detail="no class Solution")
attack(
    "a method of another name", F,
    "class Solution:\n    def g(self, n):\n        return n + 1",
    problem=PLUS, detail="AttributeError",
)
attack("Solution is a function", F, "def Solution():\n    return 1", detail="AttributeError")
attack("Solution is a number", F, "Solution = 5", detail="TypeError")
attack(
    "Solution cannot be made", F,
    "class Solution:\n    def __init__(self, x): pass\n    def f(self, n): return n + 1",
    problem=PLUS, detail="TypeError",
)
attack(
    "a Solution that is somebody else", F,
    "class Other:\n    def f(self, n): return n + 1\nSolution = Other",
    problem=PLUS, correct=True,
)
attack(
    "a static method", F, "class Solution:\n    @staticmethod\n    def f(n): return n + 1", problem=PLUS, correct=True
)
attack("a syntax error", F, "class Solution:\n    def f(self, n) return", compiles=False, detail="does not compile")
attack("bad indentation", F, "class Solution:\n  def f(self, n):\n return 1", compiles=False, detail="does not compile")
attack("a null byte", F, method("return 'a\0b'"), compiles=False, detail="does not compile")
attack("a lone surrogate", F, method("return '\ud800'"), compiles=False, detail="does not compile")
attack(
    "a lone surrogate as the answer", F, method("return chr(0xd800 + n)"),
    tests=(([0], "\ud800"), ([1], "\ud801")),
    correct=True,
)
attack("a null byte as the answer", F, method("return chr(n)"), tests=(([0], "\0"),), correct=True)
attack("10 MB of code", F, method("return 0") + "\n# " + "x" * 10_000_000, compiles=False, detail="longer than")
attack(
    "900 kB of code", F, method("return n + 1") + "\n" + "x = 1\n" * 150_000, problem=PLUS, compiles=None, correct=None
)
attack("parentheses 10,000 deep", F, method("return " + "(" * 10_000 + ")" * 10_000), compiles=False)
attack("minus signs 100,000 deep", F, method("return " + "-" * 100_000 + "1"), compiles=None)
attack("attributes 50,000 deep", F, "x = a" + ".b" * 50_000, compiles=None)
attack("a sum of 50,000 parts", F, "x = " + "+".join(["1"] * 50_000), compiles=None)
attack("blocks 99 deep", F, "".join("  " * i + "if 1:\n" for i in range(99)) + "  " * 99 + "pass", compiles=None)
attack("an integer of 100,000 digits", F, "x = " + "9" * 100_000, compiles=None)
attack("a constant to fold", F, "x = 10 ** 10 ** 10\ny = 'x' * 10 ** 12\nz = 1 << 10 ** 12", compiles=None)
attack(
    "a declared encoding", F,
    "# -*- coding: utf-7 -*-\n" + method("return n + 1"),
    problem=PLUS, compiles=None, correct=None,
)
attack(
    "a future import", F,
    "from __future__ import annotations\nclass Solution:\n    def f(self, n: int) -> Nothing:\n        return n + 1",
    problem=PLUS, correct=True,
)
attack(
    "a dataclass with text annotations", F,
    "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\n"
    + method("return n + P().x"), problem=PLUS, correct=True,
)
attack("carriage returns", F, method("return n + 1").replace("\n", "\r\n"), problem=PLUS, correct=True)
attack("a byte order mark", F, "\ufeff" + method("return n + 1"), problem=PLUS, compiles=None, correct=None)
attack(
    "letters of other alphabets", F, method("größe, 数 = n, 1\nreturn größe + 数  # ✓ 🎉"), problem=PLUS, correct=True
)
attack("control characters", F, method("return 0") + "\n#\x01\x02\x1b[31m\x7f\x85\u2028", compiles=None)

# --- what two submissions could share -------------------------------------------------------------------------------

TRYING = '''
import ctypes, fcntl, mmap, os, struct, termios
import json as library
libc = ctypes.CDLL(None, use_errno=True)
lib, folder, worked = library.__file__, os.path.dirname(library.__file__), []
DIRECT, ASYNC, ON_WHICH = os.O_DIRECT, fcntl.FASYNC, (0, 1, 2, 3)
def attempt(what, f, *args):
    try:
        if f(*args) == -1: return
    except (OSError, ValueError, OverflowError):
        return
    worked.append(str(what))
'''


@dataclass(frozen=True)
class Pair:
    "A submission that leaves something behind, and one that looks for it in the same worker."
    name: str
    leave: str         # body of a method that returns the names of those attempts that worked
    find: str = ""     # body of one that returns what it found, and nothing if there is nothing; "": honest work alone
    refused: bool = True  # every attempt has to fail; else it may work, and has to harm nobody


PAIRS = [
    Pair("flags of descriptors", """
        for fd in ON_WHICH:
            for flag in (os.O_NONBLOCK, os.O_APPEND, DIRECT, os.O_NONBLOCK | DIRECT):
                attempt(flag, fcntl.fcntl, fd, fcntl.F_SETFL, flag)
        return worked
    """, """
        return [fd for fd in ON_WHICH if fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND | DIRECT)]
    """, refused=False),
    Pair("packets instead of a stream", "for fd in ON_WHICH: attempt(fd, fcntl.fcntl, fd, fcntl.F_SETFL, DIRECT)\n"
         "return worked"),
    Pair("a pipe of one page", "for fd in ON_WHICH: attempt(fd, fcntl.fcntl, fd, 1031, 4096)\nreturn worked"),
    Pair("a pipe of one page that does not wait", """
        import time
        for _ in range(10):
            for fd in ON_WHICH:
                attempt("flags", fcntl.fcntl, fd, fcntl.F_SETFL, os.O_NONBLOCK | DIRECT)
                attempt("flags", fcntl.fcntl, fd, fcntl.F_SETFL, os.O_NONBLOCK)
                attempt("size", fcntl.fcntl, fd, 1031, 4096)
            time.sleep(0.03)  # until what lies in it has been read
        return worked
    """, refused=False),
    Pair("pipes of a megabyte", """
        for _ in range(20): attempt("a megabyte", fcntl.fcntl, os.pipe()[1], 1031, 1 << 20)
        return worked
    """),
    Pair("a pipe full to the brim", """
        fcntl.fcntl(3, fcntl.F_SETFL, os.O_NONBLOCK)
        fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK)
        for fd in (1, 3):
            try:
                while True: os.write(fd, b"x" * 4096)
            except BlockingIOError:
                pass
        os._exit(0)
    """, refused=False),
    Pair("locks", """
        files = [*ON_WHICH, os.open(lib, 0), os.open("/dev/null", 2)]
        for fd in files:
            for command in (fcntl.F_SETLK, fcntl.F_OFD_SETLK):
                for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):
                    attempt(command, fcntl.fcntl, fd, command, struct.pack("hhqqi", kind, 0, 77, 1, 0))
            attempt("flock", fcntl.flock, fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return worked
    """, """
        found = []
        for fd in [*ON_WHICH, os.open(lib, 0), os.open("/dev/null", 2)]:
            for command in (fcntl.F_GETLK, fcntl.F_OFD_GETLK):
                try:
                    said = fcntl.fcntl(fd, command, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0))
                    kind, _, start, *_ = struct.unpack("hhqqi", said[:28])
                    if kind != fcntl.F_UNLCK: found.append(start)
                except OSError:
                    pass
        return found
    """),
    Pair("leases", """
        for kind in (fcntl.F_WRLCK, fcntl.F_RDLCK):
            attempt(kind, fcntl.fcntl, os.open(lib, 0), fcntl.F_SETLEASE, kind)
        return worked
    """, "return [kind] if (kind := libc.fcntl(os.open(lib, 0), fcntl.F_GETLEASE)) in (0, 1) else []"),
    Pair("a signal to somebody", """
        r, w = os.pipe()
        for fd in (*ON_WHICH, r, w):
            for owner in (<<VICTIM>>, os.getppid(), -1):
                attempt("owner", fcntl.fcntl, fd, fcntl.F_SETOWN, owner)
                attempt("owner", fcntl.fcntl, fd, 15, struct.pack("ii", 1, max(owner, 0)))
            attempt("signal", fcntl.fcntl, fd, 10, 9)
            attempt("asynchronous", fcntl.fcntl, fd, fcntl.F_SETFL, ASYNC)
        os.write(w, b"x"), os.read(r, 1)
        return worked
    """),
    Pair("the same by other calls", """
        for fd in ON_WHICH:
            for request in (0x5421, 0x5452, 0x8901, termios.TIOCSTI, termios.TIOCSCTTY, termios.TIOCNOTTY):
                attempt(request, libc.ioctl, fd, request, ctypes.byref(ctypes.c_int(1)))
        for name in ("/dev/tty", "/dev/console", "/dev/ptmx", "/dev/pts/0"):
            attempt(name, os.open, name, os.O_RDWR)
        return worked
    """),
    Pair("notifications", """
        attempt("changes", fcntl.fcntl, os.open(folder, 0), fcntl.F_NOTIFY, 0x8000001F)
        attempt("watches", libc.inotify_init1, 0)
        return worked
    """),
    Pair("hints that stay with a file", """
        for command in (1036, 1038):
            attempt(command, libc.fcntl, os.open(lib, 0), command, ctypes.byref(ctypes.c_uint64(3)))
        return worked
    """, """
        hint = ctypes.c_uint64()
        return [hint.value] if libc.fcntl(os.open(lib, 0), 1035, ctypes.byref(hint)) == 0 and hint.value else []
    """),
    Pair("time stamps", """
        for path in (lib, folder, "/dev/null", "<<FILE>>", "<<FOLDER>>", "..", "/tmp", "/"):
            attempt(path, os.utime, path)
            attempt(path, lambda: os.utime(path, ns=(77, 77)))
            attempt(path, lambda: libc.utimes(path.encode(), None))
        attempt("open", lambda: os.utime(os.open("/dev/null", 2)))
        return worked
    """, """
        found = []
        for path in (lib, folder, "/dev/null", "..", "/tmp", "/"):
            try:
                if os.stat(path).st_mtime_ns == 77: found.append(path)
            except OSError:
                pass
        return found
    """),
    Pair("files of the library", """
        for path in (lib, "<<FILE>>"):
            attempt("truncate", os.truncate, path, 0)
            for flags in (os.O_TRUNC, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
                attempt(flags, os.open, path, flags)
            attempt("unlink", os.unlink, path)
            attempt("rename", os.rename, path, path + "~")
            attempt("mode", os.chmod, path, 0o777)
            attempt("link", os.link, path, "linked")
            attempt("name", libc.setxattr, path.encode(), b"user.x", b"77", 2, 0)
        return worked
    """),
    Pair("memory of the library's files", """
        fd = os.open(lib, 0)
        attempt("writes", mmap.mmap, fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        whole = mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
        for advice in (9, 12, 20, 21, 100, 101): attempt(advice, whole.madvise, advice)
        return worked
    """),
    Pair("the folder beside the own", """
        open("mine", "w").close()
        for place in ("..", "../..", "/scratch", "/tmp/..", "<<FOLDER>>"):
            attempt("file", os.open, place + "/left", os.O_CREAT | os.O_WRONLY)
            attempt("folder", os.mkdir, place + "/left-too")
            attempt("link", os.symlink, "77", place + "/left-as-well")
            attempt("moved", os.rename, "mine", place + "/left-moved")
            attempt("box", os.rename, "../box", place + "/left-box")
        return worked
    """, """
        found = []
        for place in ("..", "../..", "/scratch"):
            try:
                found += [name for name in os.listdir(place) if name.startswith("left")]
            except OSError:
                pass
            found += [name for name in ("left", "left-too", "left-as-well") if os.path.lexists(f"{place}/{name}")]
        return found
    """),
    Pair("descriptors of other processes", """
        for process in (os.getppid(), <<PID>>, <<VICTIM>>):
            for fd in range(12):
                for flags in (os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_NONBLOCK):
                    attempt((process, fd), os.open, f"/proc/{process}/fd/{fd}", flags)
            attempt("memory", os.open, f"/proc/{process}/mem", os.O_RDONLY)
        return worked
    """),
    Pair("its own records", """
        for fd in range(4):
            try:
                got = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
                os.read(got, 1 << 16)
            except OSError:
                pass
        return worked
    """, refused=False),
    Pair("3000 folders, one in another", """
        for _ in range(3000):
            try:
                os.mkdir("d")
                os.chdir("d")
            except OSError:
                break
        return worked
    """, "return os.listdir('.')", refused=False),
    Pair("folders without permissions", """
        os.umask(0o777)
        for _ in range(20): os.mkdir(str(_)), os.close(os.open(f"f{_}", os.O_CREAT | os.O_WRONLY))
        return worked
    """, "return os.listdir('.')", refused=False),
]
