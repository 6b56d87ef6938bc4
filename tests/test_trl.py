"""The callback in TRL's GRPOTrainer: what a trainer can be told, one setting at a time.

Each works as our own step would, or is refused in a sentence before anything is sampled. The model is small and random,
as only arithmetic is asked for.
"""
import math
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PrinterCallback, Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

from pgrpo.adapter import wrap
from pgrpo.grpo import Intervention, intervene, make_optimizer, take_step
from pgrpo.grpo.callback import ProjectionCallback, spoken, trl_reward, trl_rows
from pgrpo.policy import load_policy
from pgrpo.problems.generator import generated_problems

warnings.filterwarnings("ignore")
disable_progress_bars()
logging.disable_progress_bar()
PROBLEMS = generated_problems(8, "train", seed=5)
IDS = torch.randint(4, 200, (3, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a model and a tokenizer."
    folder, (_, tokenizer) = tmp_path_factory.mktemp("model"), load_policy()
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, initializer_range=0.1, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def wrapped(place, targets=None):
    model, tokenizer = load_policy(place)
    return model, tokenizer, wrap(model, targets)


def route(adapter):
    torch.manual_seed(1)
    return Intervention("route", {n: torch.linalg.qr(torch.randn(len(m.S), 3)).Q.T for n, m in adapter.items()})


def flat(adapter): return torch.cat([p.detach().flatten() for p in adapter.parameters()])


@torch.no_grad()
def log_probs(model): return model.eval()(IDS).logits.log_softmax(-1)


def letters(completions, **columns):
    "A reward that differs within a group."
    return [len(set(spoken(c))) / 10 for c in completions]


class Twin(TrainerCallback):
    "Makes each step of the trainer's by hand, from the gradient that its backward left."
    def __init__(self, place, how):
        self.twin, self.how, self.off = wrapped(place)[2], how, []
        self.optimizer = make_optimizer(self.twin, 1e-2)

    def on_train_begin(self, args, state, control, model, **kwargs): self.model, self.found = model, None

    def on_pre_optimizer_step(self, *args, **kwargs):
        if self.found is None: self.found = {n: self.model.get_submodule(n).delta_s.grad.clone() for n in self.twin}

    def on_step_end(self, *args, **kwargs):
        if self.found is None: return  # it stands on either side of the callback
        g, self.found = self.found, None
        intervene(self.twin, g, self.how)
        take_step(self.twin, self.optimizer, self.how)
        modules = [(self.model.get_submodule(n), m.VECTORS) for n, m in self.twin.items()]
        theirs = torch.cat([getattr(m, key).detach() for m, keys in modules for key in keys])
        apart, size = (flat(self.twin) - theirs).norm(), theirs.norm()
        self.off.append((float(apart), float(size), float(sum(map(torch.norm, g.values())))))


RECIPE = dict(
    per_device_train_batch_size=4, num_generations=2, max_completion_length=8, learning_rate=1e-2, adam_beta2=0.99,
    max_steps=2, logging_steps=1, report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no",
    max_grad_norm=0, lr_scheduler_type="constant", bf16=False, gradient_checkpointing=False, top_k=0, seed=0,
)


def trainer_of(place, out, model, tokenizer, adapter, rewards=letters, rows=None, before=(), after=(), **settings):
    more = {key: settings.pop(key) for key in ("peft_config", "eval_dataset") if key in settings}
    trainer = GRPOTrainer(
        model, rewards, GRPOConfig(str(out), **RECIPE | settings), processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows or trl_rows(PROBLEMS, tokenizer)), **more,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.callback_handler.callbacks += [*before, ProjectionCallback(adapter, route(adapter)), *after]
    return trainer


@pytest.mark.parametrize(
    "settings",
    [
        dict(), dict(loss_type="grpo", scale_rewards="batch"), dict(gradient_accumulation_steps=2),
        dict(num_iterations=2, max_steps=3), dict(steps_per_generation=2, num_iterations=2, max_steps=4),
        dict(steps_per_generation=4, gradient_accumulation_steps=2), dict(beta=0.1), dict(bf16=True),
        dict(gradient_checkpointing=True), dict(bf16=True, gradient_checkpointing=True),
        dict(gradient_checkpointing=True, gradient_checkpointing_kwargs=dict(use_reentrant=True)),
        dict(reward_weights=[1.0, 0.5]), dict(cast_lm_head_to_fp32=True), dict(optim="adamw_torch_fused"),
    ],
    ids=lambda s: " ".join(f"{key}={value}" for key, value in s.items()) or "plain",
)
def test_each_step_is_ours(settings, place, tmp_path):
    model, tokenizer, adapter = wrapped(place)
    twin, rewards = Twin(place, route(adapter)), [letters, lambda completions, **_: [0.0] * len(completions)]
    rewards = rewards[:len(settings.get("reward_weights", [1.0]))]
    trainer = trainer_of(place, tmp_path, model, tokenizer, adapter, rewards, before=[twin], after=[twin], **settings)
    trainer.train()
    assert len(twin.off) == settings.get("max_steps", 2) and any(size > 0 for *_, size in twin.off)
    assert all(apart <= 1e-5 * size + 1e-7 for apart, size, _ in twin.off), twin.off
    logged = [entry for entry in trainer.state.log_history if "cin" in entry]
    assert len(logged) == len(twin.off) and all(math.isfinite(e["cin"]) and e["cout"] < 1e-3 for e in logged)
    if "beta" in settings: assert abs(trainer.state.log_history[0]["kl"]) < 1e-5 < trainer.state.log_history[1]["kl"]


@pytest.mark.parametrize("settings", [dict(), dict(remove_unused_columns=True)], ids=["", "without the column"])
@pytest.mark.parametrize("talk", [False, True], ids=["texts", "conversations"])
def test_the_grader_pays_the_problem_that_was_asked(talk, settings, place, tmp_path):
    model, tokenizer, adapter = wrapped(place)
    rows, held = trl_rows(PROBLEMS, None if talk else tokenizer), generated_problems(2, "heldout", seed=6)
    eval_rows, seen = Dataset.from_list(trl_rows(held, None if talk else tokenizer)), []
    grader = trl_reward([*PROBLEMS, *held])

    def answers(completions, prompts, **columns):  # in place of the random model's
        asked = [next(p for p in [*PROBLEMS, *held] if p.text in spoken(prompt)) for prompt in prompts]
        said = [f"```python\n{p.solution}\n```" for p in asked]
        if talk: said = [[dict(role="assistant", content=text)] for text in said]
        seen.extend(grader(said, prompts, **columns))
        return letters(completions)

    trainer = trainer_of(place, tmp_path, model, tokenizer, adapter, answers, rows, max_steps=1, eval_strategy="steps",
                         eval_steps=1, per_device_eval_batch_size=2, eval_dataset=eval_rows, **settings)
    trainer.train()
    assert len(seen) == 8 and set(seen) == {1.25}


@pytest.mark.parametrize("settings", [dict(), dict(bf16=True)], ids=["fp32", "bf16"])
def test_what_a_trainer_saves_is_the_policy(settings, place, tmp_path):
    model, tokenizer, adapter = wrapped(place)
    base = log_probs(model)
    steps = dict(save_strategy="steps", save_steps=1, save_total_limit=1)
    trainer = trainer_of(place, tmp_path / "out", model, tokenizer, adapter, **steps, **settings)
    trainer.train()
    trained, (checkpoint,) = log_probs(model), (tmp_path / "out").glob("checkpoint-*")
    with pytest.warns(UserWarning, match="with δS_hack in its weights"): trainer.save_model(tmp_path / "trained")
    with adapter.deployed():
        trainer.save_model(tmp_path / "deployed")
        deployed = log_probs(model)
    assert min((trained - base).norm(), (deployed - base).norm(), (trained - deployed).norm()) > 1e-2
    for folder in (tmp_path / "trained", checkpoint, tmp_path / "deployed"):
        again, _, vectors = wrapped(place)
        vectors.load(folder / "adapter.safetensors")
        if not settings: assert torch.equal(log_probs(again), trained)  # autocast stays on a model that was trained so
        with vectors.deployed() if folder.name == "deployed" else nullcontext(): true = log_probs(again)
        assert torch.allclose(log_probs(AutoModelForCausalLM.from_pretrained(folder)), true, atol=1e-5)
    assert torch.equal(log_probs(wrapped(place)[0]), base)


def test_a_run_that_is_resumed_ends_where_it_would_have(place, tmp_path):
    steps = dict(max_steps=4, save_strategy="steps", save_steps=2, num_iterations=2, steps_per_generation=1)
    model, tokenizer, adapter = wrapped(place)
    trainer_of(place, tmp_path, model, tokenizer, adapter, **steps).train()
    model, tokenizer, again = wrapped(place)
    trainer = trainer_of(place, tmp_path, model, tokenizer, again, **steps)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert (flat(again) - flat(adapter)).norm() <= 1e-5 * flat(adapter).norm()


def test_the_best_checkpoint_is_taken_back(place, tmp_path):
    model, tokenizer, adapter = wrapped(place)
    base = {n: m.weight.clone() for n, m in adapter.items()}
    values = iter([3.0] * 4 + [1.0] * 100)  # the first evaluation is the best
    rewards = [letters, lambda completions, **_: [0.0 if model.training else next(values) for _ in completions]]
    trainer = trainer_of(
        place, tmp_path / "out", model, tokenizer, adapter, rewards, save_strategy="steps", save_steps=1, max_steps=3,
        eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, metric_for_best_model="eval_reward",
        greater_is_better=True, save_total_limit=1, per_device_eval_batch_size=2,
        eval_dataset=Dataset.from_list(trl_rows(PROBLEMS[:2], tokenizer)),
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    again, _, best = wrapped(place)
    best.load(tmp_path / "out" / "checkpoint-1" / "adapter.safetensors")
    assert torch.equal(flat(best), flat(adapter)) and torch.equal(log_probs(again), log_probs(model))
    assert all(torch.equal(m.weight, base[n]) for n, m in adapter.items())


@pytest.mark.parametrize(
    "settings, says",
    [
        (dict(max_grad_norm=1.0), "set max_grad_norm=0"), (dict(weight_decay=0.1), "leaks what was set aside"),
        (dict(beta=0.1, sync_ref_model=True), "set sync_ref_model=False"),
        (dict(use_transformers_continuous_batching=True, bf16=True), "set use_transformers_continuous_batching=False"),
        (dict(peft_config=LoraConfig(target_modules=["q_proj"])), "leave peft_config out"),
        (dict(targets=("q_proj", "lm_head")), "leave the head out of targets"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_cannot_be_is_a_sentence_before_anything_is_sampled(settings, says, place, tmp_path, monkeypatch):
    model, tokenizer, adapter = wrapped(place, settings.pop("targets", None))
    trainer = trainer_of(place, tmp_path, model, tokenizer, adapter, **settings)
    monkeypatch.setattr(trainer, "_generate", lambda *_: pytest.fail("it has begun to sample"))
    with pytest.raises(ValueError, match=says): trainer.train()


TWO = """
import sys
from pathlib import Path
import torch
from test_trl import flat, trainer_of, wrapped
place, out = map(Path, sys.argv[1:])
model, tokenizer, adapter = wrapped(place)
steps = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2, ddp_backend="gloo", save_strategy="steps")
trainer = trainer_of(place, out, model, tokenizer, adapter, **steps)
trainer.train()
torch.save(flat(adapter), out / f"{trainer.args.process_index}.pt")
"""


def test_two_processes_make_one_step(place, tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    here = Path(__file__).parents[1]
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(map(str, (here, here / "tests", here / "tools"))))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*start, tmp_path / "two.py", place, tmp_path], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (torch.load(tmp_path / f"{i}.pt") for i in range(2))
    assert one.any() and torch.equal(one, other)
    model, _, adapter = wrapped(place)
    adapter.load(tmp_path / "checkpoint-2" / "adapter.safetensors")
    assert torch.equal(flat(adapter), one)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert torch.allclose(log_probs(written), log_probs(model), atol=1e-5)
