"""Rows are sampled alike by every kind of model: alone or together, with others dropped or not, as its forward says.

What a kind keeps of a row (keys and values, a window of them, states of recurrences, something of its own) is cut,
shared and carried by one loop, or left to transformers where it cannot be cut.
"""
import inspect

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pgrpo.adapter import wrap
from pgrpo.encode import stack_completions
from pgrpo.grpo import completion_logprobs
from pgrpo.policy import load_policy
from pgrpo.policy.sampling import Carried, carried, choose, left_padded, sample
from pgrpo.train.models import KINDS, tiny

NEW, TEMPERATURE = 24, 1.3
PROMPTS = ["Sort it.", "Reverse the list that you are given, and return it.", "Count them all, then stop."]
ASKED = [p for p in PROMPTS for _ in range(6)]
SMALL = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    initializer_range=0.1, pad_token_id=0, bos_token_id=None,
)
OTHERS = {  # kinds with a cache of another make: recurrences alone, beside attention, learnt positions, biases
    "mamba": dict(state_size=8, expand=2, time_step_rank=4), "falcon_mamba": dict(state_size=8, time_step_rank=4),
    "lfm2": dict(layer_types=["conv", "full_attention", "conv"]), "gpt2": dict(n_embd=32, n_layer=2, n_head=4),
    "bloom": dict(n_layer=2, n_head=4), "mistral": dict(sliding_window=8),
    "bamba": dict(attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1),
    "gpt_oss": dict(sliding_window=8, num_local_experts=2, num_experts_per_tok=1),
}
UNCUT = {  # states that lie in the modules, and no cache at all
    "recurrent_gemma": dict(lru_width=32, attention_window_size=8, block_types=["recurrent", "attention"]),
    "openai-gpt": dict(n_embd=32, n_layer=2, n_head=4),
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGRPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def model_of(kind, folder):
    "A small model of a kind that ends its rows at different lengths, and a tokenizer."
    if kind in KINDS: model, tokenizer = load_policy(tiny(kind, folder / kind))
    else:
        tokenizer = load_policy()[1]
        settings = SMALL | OTHERS.get(kind, {}) | UNCUT.get(kind, {})
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer), **settings))
        model = model.float().eval()
    model.generation_config.eos_token_id = list(range(3, len(tokenizer), 12))  # one token in twelve ends a row
    return model, tokenizer


def by_hand(model, tokenizer, prompts, u):
    "The rule applied to a plain forward over each whole row, alone and without a cache."
    ends, written = set(model.generation_config.eos_token_id) | {tokenizer.eos_token_id}, []
    for i, ids in enumerate(left_padded(model, tokenizer, prompts, NEW)[0]):
        row = []
        while len(row) < NEW and not set(row) & ends:
            with torch.no_grad(): logits = model(torch.tensor([ids + row]), use_cache=False).logits[:, -1]
            row.append(int(choose(logits, torch.zeros(1, dtype=torch.long), u[i, len(row)][None], TEMPERATURE)))
        written.append(row)
    return written


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS, *UNCUT])
def test_a_row_is_what_the_forward_says(kind, tmp_path):
    model, tokenizer = model_of(kind, tmp_path)
    cut = carried(model, *left_padded(model, tokenizer, ASKED[::6], NEW)[1:])
    assert (cut is None) == (kind in UNCUT)
    torch.manual_seed(0)
    u = torch.rand(len(ASKED), NEW, dtype=torch.float64)
    torch.manual_seed(0)
    starts, drawn = sample(model, tokenizer, ASKED, NEW, TEMPERATURE)
    lengths = set(map(len, drawn))
    assert len(lengths) > 4 and len(set(map(tuple, drawn))) > 12, "all rows alike show nothing"
    assert drawn == by_hand(model, tokenizer, ASKED, u)
    for part in (slice(0, 5), slice(5, 18)):  # as two processes share it
        torch.manual_seed(0)
        assert sample(model, tokenizer, ASKED, NEW, TEMPERATURE, part) == (starts[part], drawn[part])


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "qwen3_5"])
def test_vectors_in_the_weights_or_beside_them(kind, tmp_path):
    "Folded or not: each drawn token has the log-probability that the loss gives it, and it is the rule's."
    model, tokenizer = model_of(kind, tmp_path)
    adapter = wrap(model)
    with torch.no_grad():
        for p in adapter.parameters(): p.normal_(std=0.05)
    for exact in ("exact", "folded"):
        adapter.train_path = exact
        torch.manual_seed(1)
        starts, drawn = sample(model, tokenizer, ASKED, NEW, TEMPERATURE)
        encoded = stack_completions(starts, drawn, tokenizer.pad_token_id)
        with torch.no_grad(): logp = completion_logprobs(model, encoded, TEMPERATURE)
        for row, (ids, tokens) in enumerate(zip(starts, drawn)):
            with torch.no_grad(): logits = model(torch.tensor([ids + tokens])).logits[0, len(ids) - 1:-1]
            own = (logits / TEMPERATURE).log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
            mask = encoded.completion_mask[row, -logp.shape[1]:]
            torch.testing.assert_close(logp[row][mask], own, rtol=1e-4, atol=1e-4)
    torch.manual_seed(1)
    with adapter.folded(): assert sample(model, tokenizer, ASKED, NEW, TEMPERATURE) == (starts, drawn)


def test_how_often_a_token_is_drawn():
    "Frequencies of first tokens over many seeds' worth of rows are those of softmax: chi-square."
    model, tokenizer = load_policy()
    n, prompt = 20000, PROMPTS[0]
    torch.manual_seed(0)
    drawn = torch.tensor([tokens[0] for tokens in sample(model, tokenizer, [prompt] * n, 1, 1.5)[1]])
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad(): p = (model(ids).logits[0, -1] / 1.5).softmax(-1).double()
    often = p * n > 10
    found = torch.cat([drawn.bincount(minlength=len(p))[often], (~often)[drawn].sum()[None]]).double()
    wanted = n * torch.cat([p[often], p[~often].sum()[None]])
    degrees = len(found) - 1
    assert degrees > 5
    chi_square = float(((found - wanted).square() / wanted).sum())
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5


def test_chance_is_drawn_before_the_first_token():
    "Rows that end later, or not at all, leave the numbers of others and of the next call as they are."
    model, tokenizer = load_policy()
    after = []
    for prompts in (ASKED, ASKED[::-1]):
        torch.manual_seed(3)
        sample(model, tokenizer, prompts, NEW)
        after.append(torch.rand(1))
    assert torch.equal(*after)


def test_what_rows_share_is_read_once_and_what_has_ended_not_at_all(monkeypatch):
    model, tokenizer = load_policy()
    model.generation_config.eos_token_id = list(range(3, len(tokenizer), 12))
    carried_then, read = [], Carried.read
    monkeypatch.setattr(Carried, "read", lambda self, tokens: carried_then.append(len(tokens)) or read(self, tokens))
    for temperature in (TEMPERATURE, 0.3):
        carried_then.clear()
        drawn = sample(model, tokenizer, ASKED, NEW, temperature)[1]
        unended = [[i for i, row in enumerate(drawn) if len(row) > t] for t in range(1, max(map(len, drawn)))]
        apart = [len({(ASKED[i], *drawn[i][:t]) for i in rows}) for t, rows in enumerate(unended, 1)]
        assert len(carried_then) == len(apart)
        assert all(n <= m < n / (1 - 1 / 16) + 1 for n, m in zip(apart, carried_then))
        assert sum(apart) < sum(map(len, unended)) < len(ASKED) * len(apart)
    assert sample(model, tokenizer, ASKED, NEW, 0)[1][::6] == sample(model, tokenizer, PROMPTS, NEW, 0)[1]


def test_a_forward_is_handed_what_it_takes(tmp_path):
    "Positions and caches go by the names that a model has for them."
    for kind in ("mamba", "qwen3"):
        model, _ = model_of(kind, tmp_path)
        takes = inspect.signature(model.forward).parameters
        begun = carried(model, torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long))
        assert begun.place in takes and (begun.positions is None) == ("position_ids" not in takes)
