"""Every attack of the corpus, mixed with honest work, and what it must not leave behind."""
import re
import sys

import pytest
from attacks import ATTACKS
from world import World, corpus, descendants

from pgrpo import grader
from pgrpo.grader import grade_many
from pgrpo.sandbox import Sandbox


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.close()


@pytest.fixture(scope="module")
def graded(world):
    missing = grader._oracle.missing()
    if "seccomp" in missing and {"pid", "privileges"} & set(missing):
        pytest.skip(f"this system has too few layers to let attacks loose on it: {missing}")
    attacks, honest = corpus(world)
    return {a.name: g for a, g in attacks}, honest


def test_corpus_is_as_large_as_claimed():
    assert len(ATTACKS) >= 80 and len({a.family for a in ATTACKS}) == 9


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.family}: {a.name}")
def test_attack(attack, graded):
    grade = graded[0][attack.name]
    assert attack.correct is None or grade.gt_correct == attack.correct, grade.detail
    assert attack.compiles is None or grade.format_ok == attack.compiles, grade.detail
    assert re.search(attack.detail, grade.detail), grade.detail
    assert not grade.exploited and not grade.channel


def test_honest_work_among_them_is_undisturbed(graded):
    assert len(graded[1]) >= 100 and all(g.gt_correct for g in graded[1]), [
        g.detail for g in graded[1] if not g.gt_correct
    ]


def test_nothing_came_through(world, graded):
    assert world.traces() == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_no_process_survives(graded):
    for worker in grader._oracle._workers:
        assert worker.process.poll() is None
        # with a process namespace, the worker proper is the only child
        assert len(descendants(worker.process.pid)) <= 1


ARMED = [
    "reads a secret file", "reads a secret file through a link", "imports the secret as a module", "reads /etc/passwd",
    "lists the home folder", "runs a shell", "runs Python again", "connects to a server on this machine",
    "connects by a system call", "connects to an abstract socket", "attaches to shared memory",
]


@pytest.mark.skipif(sys.platform != "linux", reason="some of these need Linux")
def test_attacks_are_armed(tmp_path, monkeypatch):
    "Without the layers these attacks succeed: so it is the layers that stop them."
    world = World(tmp_path)
    with Sandbox(2, layers=()) as bare:
        monkeypatch.setattr(grader, "_oracle", bare)
        attacks = [a for a in ATTACKS if a.name in ARMED]
        grades = grade_many([world.submission(a) for a in attacks])
    world.close()
    assert len(attacks) == len(ARMED)
    assert [(a.name, g.detail) for a, g in zip(attacks, grades) if not g.gt_correct] == []
