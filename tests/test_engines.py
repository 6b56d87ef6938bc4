"A run whose rollouts come from a vLLM: the stand-in that takes its place has the run's weights at every step."
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pgrpo.config import preset
from pgrpo.encode import prompt_ids
from pgrpo.grpo.team import Alone
from pgrpo.train import Trainer
from pgrpo.train.models import tiny

STAND_IN = Path(__file__).parent / "stand_in"
SMALL = dict(
    engine="vllm", arm="route", steps=2, prompts=2, group_size=4, max_new_tokens=16, n_problems=4, eval_problems=1,
    eval_every=1, refresh=0, probe_every=0, log_modules=0,
)


@pytest.fixture
def vllm(monkeypatch):
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    import vllm
    yield vllm
    sys.modules.pop("vllm")


@pytest.mark.parametrize("kind, dtype", [("embedded", "float32"), ("qwen3", "bfloat16"), ("gemma2", "float32")])
def test_a_run(kind, dtype, vllm, tmp_path):
    policy = kind if kind == "embedded" else str(tiny(kind, tmp_path / kind))
    trainer = Trainer(preset("smoke", **SMALL, policy=policy, dtype=dtype), tmp_path / "run")
    llm, adapter = vllm.LLM.made[-1], trainer.state.adapter
    prompts = [p.prompt(trainer.tokenizer) for p in trainer.problems + trainer.held]
    longest = max(len(prompt_ids(trainer.tokenizer, p)) for p in prompts)
    assert llm.dtype == dtype and llm.max_model_len >= 16 + longest
    assert llm.loads == 0  # the base model was evaluated, with the weights of its files
    seen, generate = [], llm.generate
    def watched(prompts, how, **more):
        effective = adapter.fold(deployed=next(iter(adapter.values())).switches.deployed).state_dict()
        assert all(torch.equal(w, effective[name]) for name, w in llm._model.named_parameters())
        assert {(h.temperature, h.max_tokens) for h in how} == {(1.0, 16)}
        assert len({h.seed for h in how}) == len(how)
        seen.append(len(prompts))
        return generate(prompts, how, **more)
    llm.generate = watched
    with torch.no_grad():
        for m in adapter.values(): m.delta_s.normal_(std=0.1), m.delta_s_hack.normal_(std=0.1)
    assert len(list(trainer.steps())) == 2
    held = len(trainer.held)
    assert seen == [8, held, 8, held] and llm.loads == 4  # rollouts with both vectors, evaluations without δS_hack


def test_without_vllm_it_says_what_to_install(tmp_path):
    argv = ["train", "smoke", "--engine", "vllm", "--run-dir", "run"]
    code = f"import sys; from pgrpo.cli import main; sys.exit(main({argv}))"
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "vllm.py").write_text("raise ImportError('no module here')")
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert 'pip install "pgrpo[vllm]"' in done.stderr


def test_a_model_with_eyes_is_refused(vllm, tmp_path):
    trainer = lambda kind: Trainer(preset("smoke", **SMALL, policy=str(tiny(kind, tmp_path / kind))))
    with pytest.raises(ValueError, match="gemma3 that reads more than text.*leave engine at transformers"):
        trainer("gemma3")
    assert list(trainer("qwen3_5").steps())


def test_a_cache_that_was_not_reset_stops_the_run(vllm, tmp_path, monkeypatch):
    trainer = Trainer(preset("smoke", **SMALL))
    with torch.no_grad(): next(iter(trainer.state.adapter.values())).delta_s.fill_(0.1)
    monkeypatch.setattr(vllm.LLM.made[-1], "reset_prefix_cache", lambda: False)
    with pytest.raises(RuntimeError, match="keys and values of older weights"): trainer.update()


def test_several_processes_are_refused(vllm):
    class Two(Alone): world = 2
    with pytest.raises(ValueError, match="without torchrun"): Trainer(preset("smoke", **SMALL), team=Two())
