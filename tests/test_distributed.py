"""Two processes are one run: the same rows as one process has, from the start and after a resume.

Both stop when one does.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from pgrpo.adapter import wrap
from pgrpo.config import preset
from pgrpo.grpo.team import Team
from pgrpo.policy import load_policy
from pgrpo.problems import save_problems
from pgrpo.problems.generator import generated_problems
from pgrpo.train import RunFolder, train
from pgrpo.train.distributed import join

SMALL = dict(prompts=3, n_problems=8, max_new_tokens=16, eval_problems=1, checkpoint_every=1, micro_batch=3)
RUNS = {
    "direction": preset(
        "smoke", **SMALL, arm="route", steps=2, refresh=1, eval_every=2, probe_every=2, log_modules=1, inner_steps=2,
        beta=1e-3,
    ),
    "rollout": preset(
        "smoke", **SMALL, arm="erase", acts_on="rollout", steps=1, refresh=0, eval_every=0, probe_every=0, log_modules=0
    ),
}
WORKER = """
import json, sys
from pathlib import Path
import pgrpo.train.data as data
from pgrpo.config import Config
from pgrpo.train.distributed import join
from pgrpo.train import train
check = data.check_problems

def checked(*args, **how):
    with open("checked", "a") as f: f.write(str(team.rank))
    check(*args, **how)

data.check_problems = checked
with join() as team:
    for folder, config in json.loads(Path(sys.argv[1]).read_text()):
        train(Config(**config), folder, progress=False, team=team)
"""


def timeless(folder):
    "Rows without times; the loss, whose terms two processes add in another order, rounded."
    return [
        {k: round(v, 9) if k == "loss" else v for k, v in row.items() if not k.startswith(("sec_", "tokens"))}
        for row in folder.rows()
    ]


def test_two_processes_are_one_run(tmp_path):
    save_problems(generated_problems(24), tmp_path / "problems.jsonl")
    configs = RUNS | {"rollout": replace(RUNS["rollout"], problems=str(tmp_path / "problems.jsonl"))}
    one, two = ({name: RunFolder(tmp_path / side / name) for name in RUNS} for side in ("one", "two"))
    killed = two["direction"]  # after its first step, in the middle of the next

    def keep(row):
        if row["step"] == 0: shutil.copytree(one["direction"].path, killed.path)

    for name, config in configs.items():
        train(config, one[name].path, progress=False, on_row=keep if name == "direction" else None)
    with open(killed.rows_file, "a") as f: f.write(json.dumps(dict(step=1)) + "\n")
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "notes.txt").write_text("mine")

    runs = [(str(two[name].path), asdict(config)) for name, config in configs.items()]
    (tmp_path / "runs.json").write_text(json.dumps([*runs, (str(odd), asdict(RUNS["rollout"]))]))
    (tmp_path / "worker.py").write_text(WORKER)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*start, str(tmp_path / "worker.py"), str(tmp_path / "runs.json")], capture_output=True, text=True, timeout=300,
        env=os.environ, cwd=tmp_path,
    )
    assert all(folder.summary() for folder in two.values()), done.stderr
    for name in RUNS:
        assert timeless(one[name]) == timeless(two[name]) and len(one[name].rows()) == RUNS[name].steps
        assert one[name].rollouts() == two[name].rollouts() and one[name].probes() == two[name].probes()
        assert one[name].summary() == two[name].summary() and list(one[name].modules()) == list(two[name].modules())
    assert (tmp_path / "checked").read_text() == "0"  # the problems of the file, once and for both
    assert "flagged" in two["rollout"].rows()[0] and "basis_overlap" in two["direction"].rows()[1]

    assert done.returncode != 0
    assert "process 0 of 2 failed" in done.stderr and "holds files that are no run" in done.stderr
    assert [p.name for p in odd.iterdir()] == ["notes.txt"]


def agents(folder, *argv):
    "The exit status and the words of two torchrun agents with a process each, as two machines would start them."
    with socket.create_server(("127.0.0.1", 0)) as free: port = free.getsockname()[1]
    start = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend",
             "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "run", "-m", "pgrpo.train", "smoke", *argv]
    both = [subprocess.Popen([*start, "--quiet", "--run-dir", str(folder)], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [agent.communicate(timeout=600)[0] for agent in both]
    return [agent.returncode for agent in both], said


def test_two_machines_are_one_run(tmp_path):
    config = RUNS["direction"]
    train(config, tmp_path / "one", progress=False)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(config).items()
             if value != getattr(preset("smoke"), name)]
    codes, said = agents(tmp_path / "two", *flags)
    assert codes == [0, 0], said
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    assert timeless(one) == timeless(two) and one.rollouts() == two.rollouts() and one.summary() == two.summary()
    assert sum("files: " in text for text in said) == 1
    two.summary_file.unlink()  # a run that both go on with, from the checkpoint that the first had written
    codes, said = agents(tmp_path / "two", *flags)
    assert codes == [0, 0], said
    assert timeless(one) == timeless(two) and one.summary() == two.summary()


def test_processes_that_differ_are_stopped():
    adapter, others = wrap(load_policy()[0]), wrap(load_policy()[0])
    last = list(adapter)[-1]
    class Pair(Team):
        def __init__(self): self.rank, self.world = 0, 2
        def gather(self, mine):
            own, taken = list(mine), [(m.U, m.Vh, m.delta_s, m.delta_s_hack) for m in others.values()]
            return own + [torch.stack([t.detach().sum(dtype=torch.float64) for four in taken for t in four])]
    team = Pair()
    team.agree(adapter)
    with torch.no_grad(): others[last].delta_s[3] += 0.01
    with pytest.raises(RuntimeError, match=f"processes 0 and 1 differ at {last}.delta_s,"): team.agree(adapter)
    with torch.no_grad(): others[last].delta_s[3] -= 0.01
    others[last].U[:, 0] *= -1  # another sign of the same singular vector
    with pytest.raises(RuntimeError, match=f"{last}.U,"): team.agree(adapter)


def test_a_launch_without_ranks_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="start them with torchrun"):
        with join(): pass
