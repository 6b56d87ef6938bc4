"""Grade very many submissions and watch what could grow: `python tests/endurance.py 50000`.

Honest ones, exploits of every mode, and some that crash, leave, or litter. What is printed after each tenth should be
the same at the end as after the first: memory, descriptors, processes and scratch folders, of this process and of the
workers. It leaves with status 1 if it is not.
"""
import os
import sys
import tempfile
import time
from pathlib import Path

from world import descendants

from pgrpo.files.text import table
from pgrpo.grader import example_clean, example_hack, fenced, grade_many
from pgrpo.problems import handwritten

GRAIN = 50    # submissions in a batch, as in a training step
GROWTH = 8.0  # MiB that a process may grow after the first tenth

ROUGH = [
    "import os\nos._exit(3)",
    "class Solution:\n    pass",
    "import ctypes\nctypes.string_at(0)",
    "for i in range(300): open(f'f{i}', 'w').write('x' * 999)",
    "import os\nfor _ in range(200): os.mkdir('d'), os.chdir('d')",
    "import threading, time\nfor _ in range(9): threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "print('x' * 200_000)",
]


def submissions(n: int, start: int = 0):
    "That many (completion, problem), each a text of its own, the same for the same numbers."
    problems = handwritten()
    for i in range(start, start + n):
        problem = problems[i % len(problems)]
        kind = i % 16
        if kind == 15:
            completion = fenced(ROUGH[i // 16 % len(ROUGH)])
        elif kind in (5, 11) and problem.mode != "gt_only":
            completion = example_hack(problem, problem.mode)
        else:
            completion = example_clean(problem)
        yield f"{completion}\n\n{i}", problem


def memory(pid: int) -> float:
    "MiB of a process that are its own."
    resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20


def state() -> dict:
    "What could grow."
    below = [pid for pid in descendants(os.getpid()) if Path(f"/proc/{pid}/fd").exists()]
    fds = lambda pid: len(os.listdir(f"/proc/{pid}/fd"))
    return {
        "MiB": memory(os.getpid()), "workers' MiB": max(map(memory, below)), "descriptors": fds(os.getpid()),
        "workers' descriptors": sum(map(fds, below)), "processes": len(below),
        "scratch": len(list(Path(tempfile.gettempdir()).glob("pgrpo-*/*"))),
    }


def main(n: int) -> int:
    "Grade n submissions; 0 if nothing has grown."
    rows, tenth, done, started = [], max(GRAIN, n // 10), 0, time.monotonic()
    grade_many(submissions(2 * GRAIN, n))
    while done < n:
        for _ in range(0, min(tenth, n - done), GRAIN):
            grade_many(submissions(GRAIN, done))
            done += GRAIN
        rows.append({"gradings": done, "a second": round(done / (time.monotonic() - started)), **state()})
        shown = [[f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
        text = table(list(rows[0]), shown)
        print("\n".join(text.split("\n")[-1 if len(rows) > 1 else 0:]), flush=True)
    first, last = rows[0], rows[-1]
    grown = [name for name in first if "MiB" in name and last[name] > first[name] + GROWTH]
    counted = ("descriptors", "workers' descriptors", "processes", "scratch")
    grown += [name for name in counted if last[name] > first[name]]
    print(f"grown: {', '.join(grown)}" if grown else "nothing has grown")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000))
