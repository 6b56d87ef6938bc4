"""A sweep on a Ray cluster comes to what it comes to here, also when a machine is lost in the middle.

The machines are Ray nodes of this one. `make ray` runs this in an environment that has Ray.
"""
import contextlib
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed; `make ray` tests with it")
from ray.cluster_utils import Cluster  # noqa: E402

from pgrpo.config import preset  # noqa: E402
from pgrpo.experiment import run_cells, sweep  # noqa: E402
from pgrpo.train import RunFolder  # noqa: E402

ARMS, SEEDS = ("none", "erase", "route", "erase random"), (0, 1, 2)
AGENTS = ("metrics_agent", "metrics_export", "dashboard_agent_listen", "runtime_env_agent")


def options(cpus):
    "Of a node. Its agents' ports are chosen here: to choose them themselves Ray gives them 15 s, busy or not."
    free = [socket.create_server(("", 0)) for _ in AGENTS]
    ports = {f"{name}_port": one.getsockname()[1] for name, one in zip(AGENTS, free)}
    for one in free: one.close()
    return dict(num_cpus=cpus, include_dashboard=False, object_store_memory=80 * 2**20, **ports)


@contextlib.contextmanager
def nodes(*cpus):
    "Ray nodes with so many cores each; the first is where sweeps are started."
    cluster = Cluster(initialize_head=True, head_node_args=options(cpus[0]))
    try: yield cluster, [cluster.head_node, *(cluster.add_node(**options(n)) for n in cpus[1:])]
    finally: cluster.shutdown()


def start(cluster, *argv, **options):
    "The command, as a process that finds the cluster."
    env = os.environ | dict(RAY_ADDRESS=cluster.address if cluster else "", PYTHONUNBUFFERED="1")
    command = [sys.executable, "-m", "pgrpo.cli", *map(str, argv)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def processes():
    "Process id → its parent's, of all that are no zombies."
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z": found[int(stat.parent.name)] = int(parent)
    return found


def below(pid):
    "The processes that a process has started, and those that they have."
    parents, found = processes(), [pid]
    for one in found: found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def cells_of(pids, out):
    "Process id → run folder, of those processes that train one."
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if len(words) > 4 and "linked" in words[2]: found[pid] = Path(words[4])
    return {pid: folder for pid, folder in found.items() if folder.parent == out}


def raylet(node): return node.all_processes["raylet"][0].process.pid


def until(what, seconds=600):
    "Wait for something, and return it."
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return found


def timeless(rows): return [{k: v for k, v in row.items() if not k.startswith(("sec_", "tokens"))} for row in rows]


def came_to(folder):
    "All that a run leaves, without times."
    run = RunFolder(folder)
    return timeless(run.rows()), run.rollouts(), run.probes(), list(run.modules()), run.summary()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    "The sweep on this machine, without Ray."
    out = tmp_path_factory.mktemp("local")
    cells = sweep(preset("smoke"), ARMS, SEEDS, out)
    run_cells(cells, progress=False)
    return {cell.folder.name: came_to(cell.folder) for cell in cells}


def test_a_node_is_killed_and_the_rows_are_the_same(local, tmp_path):
    out = tmp_path / "sweep"
    with nodes(1, 1, 1) as (cluster, (_, _, victim)):
        sweeping = start(cluster, "compare", "smoke", "--on", "ray", "--out", out, "--arms", ",".join(ARMS),
                         "--seeds", ",".join(map(str, SEEDS)))

        def in_the_middle():
            "A run on the victim that has a checkpoint and is not over."
            there = cells_of(below(raylet(victim)), out).values()
            return [f for f in there if (f / "ckpt" / "last.pt").exists() and not (f / "summary.json").exists()]
        lost = until(in_the_middle)[0]
        theirs = below(raylet(victim))
        cluster.remove_node(victim, allow_graceful=False)
        kept = RunFolder(lost).rows()[:2]
        until(lambda: not set(theirs) & set(processes()))  # nothing of the node lives on, and no run that it had
        printed, said = sweeping.communicate(timeout=900)
    assert sweeping.returncode == 0, said
    name = f"{' '.join(lost.name.split('-')[:-1])}, seed {lost.name[-1]}"
    assert re.search(f"{name} was lost with .*; it goes on elsewhere", said), said
    assert RunFolder(lost).rows()[:2] == kept  # with their times: what a checkpoint has was not done again
    assert {folder: came_to(out / folder) for folder in local} == local
    assert "erase random" in printed and "on a Ray cluster of 3 machines" in said
    runs = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(runs) == 12 and all(run["seconds"] for run in runs)
    assert not list(out.glob(".sweep-*"))
    print(said)


def test_one_that_fails_names_itself_and_the_others_go_on(local, tmp_path):
    out = tmp_path / "sweep"
    (out / "erase-0").mkdir(parents=True)
    (out / "erase-0" / "notes.txt").write_text("mine")
    with nodes(2) as (cluster, _):
        done = start(cluster, "compare", "smoke", "--on", "ray", "--out", out, "--arms", "erase,route", "--workers", 2)
        _, said = done.communicate(timeout=600)
    assert done.returncode == 2 and "erase, seed 0 failed: ValueError: " in said.splitlines()[-1], said
    assert "holds files that are no run" in said and came_to(out / "route-0") == local["route-0"]
    assert len((out / "results.jsonl").read_text().splitlines()) == 1


class Apart:
    "A Ray node with two cores that has another folder in the place of this one."
    def __init__(self, cluster, folder):
        hidden = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
        if subprocess.run([*hidden, "true"], stderr=subprocess.DEVNULL).returncode:
            pytest.skip("this system does not let a process have a view of the files of its own")
        ports = [f"--{name.replace('_', '-')}={n}" for name, n in options(2).items() if name.endswith("_port")]
        ports = [flag.replace("--metrics-agent-port", "--dashboard-agent-grpc-port") for flag in ports]
        command = [*hidden, sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}",
                   "--num-cpus=2", "--block", *ports]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self):
        for pid in [self.process.pid, *below(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)
        self.process.wait()


def test_without_a_shared_folder_files_come_back_and_go_on(tmp_path):
    out, here, arms = tmp_path / "here" / "sweep", tmp_path / "local", ["none", "route", "none teacher"]
    out.mkdir(parents=True)
    none, route, _ = sweep(preset("smoke"), arms, [0], here)
    no_hacks = "none teacher, seed 0 failed: ValueError: the pool .* has no problem of this run in mode sentinel"
    with pytest.raises(RuntimeError, match=no_hacks): run_cells([none, route, _], progress=False)  # so little is learnt
    with nodes(0) as (cluster, _):
        first = Apart(cluster, tmp_path / "here")
        try:
            sweeping = start(cluster, "compare", "smoke", "--on", "ray", "--out", out, "--arms", ",".join(arms))
            until((out / "route-0" / "ckpt" / "last.pt").exists)
        finally: first.kill()
        kept = RunFolder(out / "route-0").rows()[:2]
        second = Apart(cluster, tmp_path / "here")
        try: _, said = sweeping.communicate(timeout=900)
        finally: second.kill()
    assert sweeping.returncode == 2 and re.search(no_hacks, said) and "was lost with" in said, said
    assert len(kept) == 2 and RunFolder(out / "route-0").rows()[:2] == kept
    for cell in (none, route): assert came_to(out / cell.folder.name) == came_to(cell.folder)
    pools = [gzip.decompress((folder / "none-0.pool.jsonl.gz").read_bytes()) for folder in (here, out)]
    assert pools[0] == pools[1] and (out / "route-0.log").exists()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
def test_its_runs_end_with_a_sweep(by, tmp_path):
    out = tmp_path / "sweep"
    with nodes(2) as (cluster, (head,)):
        sweeping = start(cluster, "compare", "smoke", "--on", "ray", "--out", out)
        there = until(lambda: cells_of(below(raylet(head)), out))
        sweeping.send_signal(by)
        sweeping.communicate(timeout=60)
        assert sweeping.returncode == (130 if by == signal.SIGINT else -by)
        until(lambda: not set(there) & set(processes()), 60)


def test_without_a_cluster_one_is_started_and_ended(tmp_path):
    done = start(None, "compare", "smoke", "--steps", 1, "--on", "ray", "--out", tmp_path / "sweep", "--arms", "none")
    _, said = done.communicate(timeout=600)
    assert done.returncode == 0 and "no Ray cluster was found" in said and "1 finished" in said, said
    env, out = os.environ | dict(RAY_ADDRESS="127.0.0.1:1"), tmp_path / "x"
    done = subprocess.run([sys.executable, "-m", "pgrpo.cli", "compare", "smoke", "--on", "ray", "--out", out],
                          env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "no Ray cluster answers at RAY_ADDRESS 127.0.0.1:1" in done.stderr, done.stderr
    assert not (out / "none-0").exists()
