"A real vLLM samples from the adapter's policy, before and after updates. `make vllm` runs it."
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from pgrpo.adapter import wrap
from pgrpo.grpo.engines import VLLM
from pgrpo.policy import end_ids, load_policy, policy_dir, sample
from pgrpo.problems.generator import generated_problems

if importlib.util.find_spec("vllm") is None:
    pytest.skip("there is no vLLM here; `make vllm` makes an environment that has it", allow_module_level=True)

CONTEXT = 256  # tokens
MEMORY = min(0.9, 3.5 * 2**30 / psutil.virtual_memory().total)  # share of it: 3.5 GB, most of it for vLLM's cache


def random_policy(folder, tied):
    "A Qwen3 of another shape than the embedded policy's, with random weights and two ends, as files."
    tokenizer = AutoTokenizer.from_pretrained(policy_dir())
    ends = [tokenizer.eos_token_id, tokenizer("x").input_ids[0]]
    config = Qwen3Config(
        vocab_size=len(tokenizer) + 8, hidden_size=96, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, head_dim=32, max_position_embeddings=512, initializer_range=0.1,
        tie_word_embeddings=tied, eos_token_id=ends, bos_token_id=None, pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(1)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad(): model.get_output_embeddings().weight.mul_(3)  # a few tokens are likely, as in a trained one
    model.generation_config.update(eos_token_id=ends, do_sample=True, top_k=5, temperature=0.3)  # to be passed over
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class Made:
    "A policy, its adapter and an engine of it, with the log-probabilities that vLLM says of its last samples."
    def __init__(self, policy, targets=None):
        self.far = 0.3 if policy == "embedded" else 1.0  # changes of this size make it another policy
        self.model, self.tokenizer = load_policy(policy)
        self.adapter = wrap(self.model, targets)
        self.engine = VLLM(self.adapter, policy, CONTEXT, MEMORY)
        self.prompts = [p.prompt(self.tokenizer) for p in generated_problems(6, "heldout", seed=5)]
        self.prompts[0] = self.prompts[0][:9]
        self._generate, self.engine.llm.generate = self.engine.llm.generate, self._watched

    def _watched(self, asked, how, **more):
        for h in how: h.logprobs = 0
        done = self._generate(asked, how, **more)
        self.logprobs = [
            torch.tensor([said[i].logprob for i, said in zip(d.outputs[0].token_ids, d.outputs[0].logprobs)])
            for d in done]
        return done

    def move(self, seed, std=0.2, hack=0.0):
        "Set δS, and δS_hack, at random."
        torch.manual_seed(seed)
        with torch.no_grad():
            for m in self.adapter.values(): m.delta_s.normal_(std=std), m.delta_s_hack.normal_().mul_(hack)

    def draw(self, prompts=None, n=16, temperature=1.0, seed=0, by=None):
        torch.manual_seed(seed)
        return (by or self.engine)(self.model, self.tokenizer, prompts or self.prompts, n, temperature)

    @torch.no_grad()
    def next(self, prompt, temperature=1.0):
        "Probabilities of the next token, (vocabulary,), under our own forward."
        [start], _ = self.draw([prompt], 1)
        return (self.model(torch.tensor([start])).logits[0, -1].double() / temperature).softmax(-1)

    @torch.no_grad()
    def error(self, starts, completions):
        "Mean absolute difference of log-probabilities, vLLM's of what it sampled and ours."
        off = []
        for start, new, said in zip(starts, completions, self.logprobs, strict=True):
            logp = self.model(torch.tensor([start + new])).logits[0, len(start) - 1:-1].log_softmax(-1)
            off.append((logp.gather(1, torch.tensor(new)[:, None])[:, 0] - said[:len(new)]).abs())
        return float(torch.cat(off).mean())


def test_layers_of_the_users_choice(tmp_path):
    "Queries alone: the keys and values that vLLM has in one matrix with them stay; and an untied head."
    part = Made(random_policy(tmp_path / "untied", tied=False), targets=("q_proj", "lm_head"))
    for seed in (1, 2):
        part.move(seed, 0.1)
        assert part.error(*part.draw(seed=seed)) <= 1e-4
    part.engine.stop()
    model, _ = load_policy(random_policy(tmp_path / "tied", tied=True))
    with pytest.raises(ValueError, match="lm_head has one weight with the embedding.*leave it out with targets="):
        VLLM(wrap(model, ("q_proj", "lm_head")), str(tmp_path / "tied"), CONTEXT, MEMORY)


@pytest.fixture(scope="module", params=["embedded", "tied", "untied"])
def made(request, tmp_path_factory):
    policy = request.param
    if policy != "embedded": policy = random_policy(tmp_path_factory.mktemp(policy), policy == "tied")
    found = Made(policy)
    yield found
    found.engine.stop()


def frequencies(completions, size): return torch.tensor([c[0] for c in completions]).bincount(minlength=size).double()


def fits(counts, p):
    "Whether counts are those of draws from p, by a chi-square test in which rare tokens are taken together."
    expected = counts.sum() * p
    often = expected >= 8
    rest = lambda x: torch.cat([x[often], x[~often].sum()[None]])
    return chisquare(rest(counts), rest(expected)).pvalue > 1e-4


def test_log_probabilities_before_and_after_updates(made):
    made.move(0, 0)
    assert made.error(*made.draw(made.prompts * 12)) <= 1e-4  # more tokens than vLLM takes in one step
    for step in range(1, 4):  # the second and third hand-over are where weights had been laid out anew
        made.move(step, 0.05 * step, hack=0.05)
        with made.adapter.folded(): assert made.error(*made.draw(seed=step)) <= 1e-4
        with made.adapter.deployed(), made.adapter.folded():
            said = made.error(*made.draw(seed=step))
            assert said <= 1e-4
        assert made.error(*made.draw(seed=step + 10)) <= 1e-4  # and trained again


def test_what_vllm_says_belongs_to_these_weights_alone(made):
    "The bound above would notice weights that were not handed over."
    made.move(0, 0)
    made.draw()
    made.move(1, 0.05)
    made.engine.sent = made.engine._now()  # pretends that vLLM has them
    assert made.error(*made.draw()) > 1e-2
    made.engine.sent = torch.zeros_like(made.engine.sent)
    assert made.error(*made.draw()) <= 1e-4


def test_first_tokens_are_drawn_from_the_softmax_and_follow_updates(made):
    n, seen = 1500, []
    for seed in range(3):
        made.move(seed, made.far if seed else 0)
        p = made.next(made.prompts[0])
        counts = frequencies(made.draw([made.prompts[0]] * n, 1, seed=seed)[1], len(p))
        assert fits(counts, p)
        seen.append((counts / n, p))
    for a in range(3):
        for b in set(range(3)) - {a}:
            apart = (seen[a][1] - seen[b][1]).abs().sum() / 2
            assert apart > 0.3 and not fits(seen[a][0] * n, seen[b][1])  # the update moved the policy far


def test_greedy_completions_are_those_of_transformers_after_each_of_three_updates(made):
    seen = []
    for seed in range(4):
        made.move(seed, 0.2 if seed else 0)
        with made.adapter.folded():
            mine, theirs = (made.draw(n=12, temperature=0.0, by=by)[1] for by in (made.engine, sample))
        # a tie that rounding breaks otherwise would change the rest of that completion
        assert sum(a == b for a, b in zip(mine, theirs)) >= len(mine) - 1
        seen.append(mine)
    assert all(seen[a] != seen[b] for a in range(4) for b in range(a))


def test_deployed_and_trained_in_turn(made):
    made.move(3, 0.1, hack=made.far)
    for _ in range(2):
        trained = made.next(made.prompts[0])
        with made.adapter.deployed(): deployed = made.next(made.prompts[0])
        with made.adapter.reference(): base = made.next(made.prompts[0])
        for context, p, other in (
            (made.adapter.deployed, deployed, trained), (made.adapter.folded, trained, deployed),
            (made.adapter.reference, base, trained),
        ):
            with context():
                counts = frequencies(made.draw([made.prompts[0]] * 1000, 1)[1], len(p))
                assert fits(counts, p) and not fits(counts, other)


def test_temperature(made):
    made.move(0, 0)
    for temperature in (0.5, 1.5):
        p, plain = made.next(made.prompts[0], temperature), made.next(made.prompts[0])
        counts = frequencies(made.draw([made.prompts[0]] * 1500, 1, temperature)[1], len(p))
        assert fits(counts, p) and not fits(counts, plain)


def test_seeds(made):
    made.move(0, 0)
    first, again, other = made.draw(seed=1), made.draw(seed=1), made.draw(seed=2)
    assert first == again and first[1] != other[1]
    torch.manual_seed(1)
    one, two = (made.engine(made.model, made.tokenizer, made.prompts, 16) for _ in range(2))
    assert one[1] != two[1]  # every call draws anew
    torch.manual_seed(1)
    torch.randint(2**31 - 1, (len(made.prompts),))
    follows = torch.rand(3)
    made.draw(seed=1)
    assert torch.equal(torch.rand(3), follows)  # a call takes its seeds from the caller's generator and no more


def test_ends_and_lengths(made, monkeypatch):
    "The ends are those that the policy has here, whatever the files say that vLLM reads."
    made.move(0, 0)
    likely = made.next(made.prompts[0]).topk(3).indices.tolist()
    monkeypatch.setattr(made.model.generation_config, "eos_token_id", likely)
    ends = end_ids(made.model, made.tokenizer)
    starts, completions = made.draw(made.prompts * 10, 24, seed=3)
    assert [len(s) for s in starts[:6]] == [len(made.draw([p], 1)[0][0]) for p in made.prompts]
    assert len({len(s) for s in starts}) > 1
    closed = {c[-1] for c in completions if c[-1] in ends}
    assert set(likely) <= closed <= set(ends) and all(i not in ends for c in completions for i in c[:-1])
    assert all(len(c) == 24 for c in completions if c[-1] not in ends)


def test_few_weights_are_alive_while_they_are_handed_over(made, monkeypatch):
    import weakref

    from pgrpo.grpo import engines
    alive, most, names = [], 0, []

    def watched(adapter):
        nonlocal most
        for name, w in folded(adapter):
            alive.append(weakref.ref(w))
            most = max(most, sum(ref() is not None for ref in alive))
            names.append(name)
            yield name, w
            del w

    folded = engines.folded_weights
    monkeypatch.setattr(engines, "folded_weights", watched)
    made.move(7)
    made.draw()
    assert set(names) == {f"{name}.weight" for name in made.adapter} and most <= 4  # of three that make one matrix


def test_what_cannot_be_is_said(made):
    with pytest.raises(ValueError, match="may have 600 tokens, which is more than the context of embedded, 512"):
        VLLM(wrap(load_policy()[0]), "embedded", 600, MEMORY)
    with pytest.raises(ValueError, match=f"more than the {CONTEXT} of this engine"):
        made.draw(n=CONTEXT)
    with pytest.raises(ValueError, match="float64, in which vLLM cannot compute; load it in float32 or bfloat16"):
        VLLM(wrap(load_policy(dtype=torch.float64)[0]), "embedded", CONTEXT, MEMORY)
    with pytest.raises(ValueError, match="^vLLM does not start with embedded: .*[mM]emory[^\n]*$"):
        VLLM(wrap(load_policy()[0]), "embedded", CONTEXT, 0.0001)
    made.move(0, 0)
    assert made.error(*made.draw()) <= 1e-4  # a refusal leaves the others as they were


ELSEWHERE = """
import sys
sys.path.insert(0, {here!r})
from test_vllm import *

if __name__ == "__main__":
    made = Made("embedded")
    assert not hasattr(made.engine.llm.llm_engine, "model_executor")
    for step in range(3):
        made.move(step, 0.1 if step else 0, hack=0.1 if step else 0)
        with made.adapter.folded(): print(made.error(*made.draw()))
        with made.adapter.deployed(), made.adapter.folded(): print(made.error(*made.draw()))
"""


def test_an_engine_in_another_process(tmp_path):
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE.format(here=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600,
                          env=os.environ | dict(VLLM_ENABLE_V1_MULTIPROCESSING="1"))
    assert done.returncode == 0, done.stderr
    off = [float(line) for line in done.stdout.split()]
    assert len(off) == 6 and max(off) <= 1e-4


def run(folder, *more):
    argv = ["train", "smoke", "--engine", "vllm", "--vllm-memory", str(MEMORY), "--arm", "route", "--run-dir",
            str(folder), *more]
    code = f"import sys; from pgrpo.cli import main; sys.exit(main({argv}))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(folder):
    found = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("sec_", "tokens"))} for row in found]


def test_a_run_and_one_that_is_killed_and_resumed(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = run(whole)
    said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    process, deadline = run(killed), time.time() + 600
    while not ((killed / "rows.jsonl").exists() and len((killed / "rows.jsonl").read_text().splitlines()) >= 3):
        assert process.poll() is None and time.time() < deadline, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (killed / "summary.json").exists()
    process = run(killed)
    said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert len(rows(whole)) == 6 and rows(killed) == rows(whole)
    assert json.loads((killed / "summary.json").read_text()) == json.loads((whole / "summary.json").read_text())
    assert any("hack_deploy" in row for row in rows(whole))


def test_several_processes_are_refused(tmp_path):
    argv = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "pgrpo.train", "smoke", "--engine", "vllm",
            "--run-dir", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=600)
    assert done.returncode and "engine=vllm samples in one process; start the run without torchrun" in done.stderr


WITH_TRL = """
import json

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from pgrpo.adapter import wrap
from pgrpo.grpo import make_optimizer
from pgrpo.grpo.callback import ProjectionCallback, trl_reward, trl_rows
from pgrpo.grpo.intervention import Intervention
from pgrpo.policy import load_policy
from pgrpo.problems.generator import generated_pairs, generated_problems
from pgrpo.vhack import extract


@torch.no_grad()
def error(model, starts, completions, said):
    off = []
    for start, new, own in zip(starts, completions, said):
        logp = model(torch.tensor([start + new])).logits[0, len(start) - 1:-1].log_softmax(-1)
        off.append((logp.gather(1, torch.tensor(new)[:, None])[:, 0] - torch.tensor(own)[:, 0]).abs())
    return float(torch.cat(off).mean())


def main():
    model, tokenizer = load_policy()
    adapter = wrap(model)
    problems = generated_problems(4, "train", seed=5)
    V = extract(model, tokenizer, adapter, generated_pairs(24), cache_dir=False).V
    args = GRPOConfig(
        output_dir={out!r}, use_vllm=True, vllm_gpu_memory_utilization={memory}, vllm_max_model_length=256,
        per_device_train_batch_size=8, num_generations=4, max_completion_length=16, max_steps=3, max_grad_norm=0,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, learning_rate=0.1,
        temperature=1.0)
    trainer = GRPOTrainer(
        model, trl_reward(problems), args, Dataset.from_list(trl_rows(problems, tokenizer)),
        processing_class=tokenizer, optimizers=(make_optimizer(adapter, 0.1), None))
    refused = ProjectionCallback(adapter, Intervention("none", V))
    trainer.add_callback(refused)
    try: trainer.train()
    except ValueError as e: assert "call callback.lead" in str(e), e
    else: raise AssertionError("it began with weights that vLLM does not have")
    trainer.remove_callback(refused)
    ProjectionCallback(adapter, Intervention("route", V)).lead(trainer)
    own, seen = trainer.vllm_generation, dict(own=[], base=[], syncs=0)
    generate, sync = own.generate, own.sync_weights

    def watched(prompts, *rest, **more):
        found = generate(prompts, *rest, **more)
        seen["own"].append(error(model, prompts, found[1], found[2]))
        with adapter.reference(): seen["base"].append(error(model, prompts, found[1], found[2]))
        return found

    def counted():
        torch.manual_seed(seen["syncs"])  # another policy than a step leaves, so that none is near the base
        with torch.no_grad():
            for m in adapter.values(): m.delta_s.normal_(std=0.4), m.delta_s_hack.normal_(std=0.2)
        seen["syncs"] += 1
        sync()

    own.generate, own.sync_weights = watched, counted
    trainer.train()
    print(json.dumps(seen))


if __name__ == "__main__": main()
"""


def test_trl_samples_from_the_adapters_policy(tmp_path):
    "TRL's own vLLM, as GRPOTrainer uses it: what it says of its samples is what the adapter's model says."
    script = tmp_path / "with_trl.py"
    script.write_text(WITH_TRL.replace("{out!r}", repr(str(tmp_path / "out"))).replace("{memory}", str(MEMORY)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=900,
                          env=os.environ | dict(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR",
                                                TORCHDYNAMO_DISABLE="1", VLLM_USE_AOT_COMPILE="0"))
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["syncs"] == len(said["own"]) == 3
    # vLLM computes in bf16 as TRL starts it, so its log-probabilities are rough, and those of the base far off
    assert max(said["own"]) < 0.03 and all(base > 10 * own for own, base in zip(said["own"], said["base"])), said
