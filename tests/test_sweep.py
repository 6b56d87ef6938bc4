"What a sweep shows of forty runs on a terminal of 80 columns, and in a log: by a place that only says it runs them."
import io
import re

import pytest

from pgrpo.config import preset
from pgrpo.experiment.cells import jobs_of, sweep
from pgrpo.experiment.progress import Progress
from pgrpo.experiment.running import Run, Seen
from pgrpo.files.screen import Screen

STAGES = [["loading", 0], ["extracting V", 0], ["base evaluation", 0], ["step", 1], ["step", 2], ["evaluation", 2]]


class Place:
    "Runs that are a stage further each time that one looks. Every seventh is lost once, and every eleventh fails."
    limit = 9

    def __init__(self): self.at, self.lost = {}, set()

    def start(self, job): self.at[job.name] = 0

    def look(self):
        seen = {}
        for name, at in list(self.at.items()):
            number, self.at[name] = int(re.search(r"\d+$", name)[0]), at + 1
            if at < len(STAGES): seen[name] = Seen([STAGES[at]], place="node-a.some.cluster.example")
            else: seen[name] = Seen([], True, "no space left on device" if number % 11 == 0 else "")
            if at == 4 and number % 7 == 0 and name not in self.lost:
                self.lost.add(name)
                seen[name] = Seen([], lost=True, place="node-b")
            if seen[name].over or seen[name].lost: del self.at[name]
        return seen

    def stop(self): self.stopped = True


class Terminal(io.StringIO):
    "What stands on it after each writing."
    def __init__(self): self.lines, self.seen = [], []

    def isatty(self): return True

    def write(self, text):
        up = re.match(r"\x1b\[(\d+)A\x1b\[J", text)
        if up: del self.lines[len(self.lines) - int(up[1]):]
        text = text[up.end() if up else 0:]
        assert "\x1b" not in text and "\r" not in text
        self.lines += text.splitlines()
        self.seen.append(list(self.lines))

    def flush(self): pass


@pytest.fixture
def jobs(monkeypatch, tmp_path):
    for name, value in dict(COLUMNS="80", LINES="50", TERM="xterm").items(): monkeypatch.setenv(name, value)
    monkeypatch.setattr("pgrpo.experiment.running.time.sleep", lambda seconds: None)
    return jobs_of(sweep(preset("smoke", steps=2), ["none", "erase without stdout_marker"], range(20), tmp_path))


def test_forty_runs_on_a_terminal(jobs):
    screen, place, progress = Screen(Terminal()), Place(), Progress(jobs)
    failed = Run(jobs, place, progress, screen).all()
    assert set(failed) == {j.name for j in jobs if j.name.endswith((" 0", " 11"))} and place.stopped
    said = [line for line in screen.stream.lines if " failed: " in line or " was lost with node-b" in line]
    assert len(said) == 4 + 6
    running = []
    for shown in screen.stream.seen:
        drawn = [line for line in shown if line not in said]
        if not drawn: continue  # between the lines that were and a line that stays
        running.append(int((re.search(r"(\d+) running", drawn[0]) or [0, 0])[1]))
        assert drawn[0].startswith("40 runs: ") and len(drawn) == running[-1] + 1 and max(map(len, drawn)) <= 80
    assert max(running) == place.limit
    assert screen.stream.lines[-1] == "40 runs: 36 finished, 4 failed"
    every = "\n".join(line for shown in screen.stream.seen for line in shown)
    for words in ("loading, 0 s", "extracting V, 0 s", "base evaluation, 0 s", "step 1 of 2, 0 s",
                  "evaluation after step 2 of 2, 0 s", " queued", " left", "  on node-a"):
        assert words in every, words


def test_forty_runs_in_a_log(jobs):
    log = io.StringIO()
    Run(jobs, Place(), Progress(jobs), Screen(log)).all()
    lines = log.getvalue().splitlines()
    assert lines[0].startswith("40 runs: ") and lines[-1] == "40 runs: 36 finished, 4 failed"
    assert len(lines) == 2 + 4 + 6 and log.getvalue().isprintable() is False  # line ends, and nothing else
    assert all(line.isprintable() for line in lines)
