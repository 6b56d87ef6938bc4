"""Code in a process of its own: a fresh interpreter, or one that finds everything imported.

`Child` is for what a process does: a fork of a server that has imported the package once for all tests of a worker.
How a command, a module or torchrun starts is tried with the real ones. `fresh` is for what an import does.
"""
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pgrpo.train.distributed", "pgrpo.widgets.live"])
COMMAND = "import sys; from pgrpo.cli import main; sys.exit(main(sys.argv[1:]))"  # the command `pgrpo`
QUICK = "import atexit, gc; gc.disable(); atexit.register(gc.freeze)\n"  # no search for garbage among the imports


def fresh(code: str, *argv, **how) -> subprocess.CompletedProcess:
    "What a new interpreter makes of the code; `how` as `subprocess.run` takes it."
    settings = dict(capture_output=True, text=True) | how
    return subprocess.run([sys.executable, "-c", QUICK + code, *map(str, argv)], **settings)


def _become(code, argv, cwd, env, before, pipes):
    for place, pipe in enumerate(pipes, 1): os.dup2(pipe.fileno(), place)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["-c", *argv]
    if before: before()
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def _all(pipe) -> str:
    parts = []
    while part := os.read(pipe.fileno(), 1 << 16): parts.append(part)
    return b"".join(parts).decode()


class Child:
    "A process that runs the code, with methods like those of `subprocess.Popen`."
    def __init__(self, code: str, *argv, cwd=".", env=None, before=None):
        pipes = [SERVER.Pipe(duplex=False) for _ in range(2)]
        env = dict(os.environ if env is None else env)
        args = code, [*map(str, argv)], str(cwd), env, before, [w for _, w in pipes]
        self.process = SERVER.Process(target=_become, args=args)
        self.process.start()
        for _, w in pipes: w.close()
        self._readers, self._threads = [r for r, _ in pipes], ThreadPoolExecutor(2)
        self._said = [self._threads.submit(_all, reader) for reader in self._readers]

    def poll(self): return self.process.exitcode

    @property
    def returncode(self): return self.process.exitcode

    def send_signal(self, number: int): os.kill(self.process.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        "What it wrote to its standard output and standard error, when it is over."
        said = [each.result(timeout) for each in self._said]
        self.process.join(timeout)
        self._threads.shutdown()
        for reader in self._readers: reader.close()
        return tuple(said)


def run(code: str, *argv, **how) -> subprocess.CompletedProcess:
    "What a `Child` did."
    child = Child(code, *argv, **how)
    out, err = child.communicate()
    return subprocess.CompletedProcess(argv, child.returncode, out, err)
