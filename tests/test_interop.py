"What goes out of a run, by the command: its rows into TensorBoard, its model into a folder."
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from pgrpo.adapter import wrap
from pgrpo.cli import main
from pgrpo.grpo import backward, generate
from pgrpo.policy import load_policy
from pgrpo.problems.generator import generated_problems

RUN = [
    "train", "smoke", "--steps", "1", "--arm", "route", "--quiet", "--eval-every", "0", "--probe-every", "0",
    "--eval-problems", "1", "--run-dir", "run",
]


def test_train_into_tensorboard_then_export(tmp_path, monkeypatch, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, "--tensorboard", "board"]) == 0
    events = EventAccumulator("board")
    events.Reload()
    assert [e.step for e in events.Scalars("reward")] == [0]
    assert main(["export", "run", "--out", "model"]) == 0 and main(["export", "run", "--out", "both", "--trained"]) == 0
    assert "model: both" in capsys.readouterr().out
    assert all(AutoModelForCausalLM.from_pretrained(folder).num_parameters() for folder in ("model", "both"))
    assert main(["export", "run", "--out", "model"]) == 2 and "not an empty folder" in capsys.readouterr().err
    assert main(["export", "board", "--out", "x"]) == 2 and "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, says", [(["export", "nowhere"], "--out"), (["bench", "--fast"], "--fast")], ids=lambda x: " ".join(x)
)
def test_bad_input_is_one_sentence(argv, says, capsys):
    assert main(argv) == 2
    assert says in capsys.readouterr().err


def test_optional_packages_load_only_when_asked_for():
    modules = "cli train train.sinks train.export grpo.callback bench.workloads bench.updates bench.memory bench"
    optional = {"trl", "datasets", "wandb", "tensorboard"}  # not peft: transformers loads it where there is one
    code = f"import sys, {', '.join(f'pgrpo.{m}' for m in modules.split())}; print({optional} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_backward_leaves_a_gradient_that_is_there_alone():
    model, tokenizer = load_policy()
    adapter = wrap(model)
    rollouts = generate(model, tokenizer, adapter, generated_problems(1, "heldout"), group_size=2, max_new_tokens=4)
    for p in adapter.parameters(): p.grad = torch.ones_like(p)
    backward(model, adapter, rollouts.encoded, torch.tensor([1.0, -0.5]))
    assert all(p.grad.eq(1).all() for p in adapter.parameters())
