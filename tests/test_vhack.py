"""What does not fit a cell of the notebooks of 06_vhack.

Other architectures and dtypes, and caches that are damaged or cannot be written.
"""
import subprocess
import sys
import warnings

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3_5ForCausalLM, Qwen3_5TextConfig, Qwen3Config, Qwen3ForCausalLM

from pgrpo.adapter import wrap
from pgrpo.encode import encode_completions
from pgrpo.problems.generator import generated_pairs
from pgrpo.projection import null_cin
from pgrpo.vhack import VHack, basis_of, extract, overlaps
from pgrpo.vhack.gradients import PairGradients, pair_gradients
from pgrpo.vhack.nulls import control_bases, scored

PAIRS = generated_pairs(8, seed=0)


def byte_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(["<end>", *alphabet])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def qwen3(dtype=torch.float32):
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, max_position_embeddings=1024,
        )
    ).to(dtype)


def qwen3_5(dtype=torch.float32):
    torch.manual_seed(0)
    return Qwen3_5ForCausalLM(
        Qwen3_5TextConfig(
            vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
            linear_value_head_dim=8, layer_types=["linear_attention", "full_attention"], max_position_embeddings=1024,
        )
    ).to(dtype)


@pytest.fixture
def parts(tmp_path):
    model = qwen3()
    return model, byte_tokenizer(), wrap(model, cache_dir=tmp_path)


@pytest.mark.parametrize("build", [qwen3, qwen3_5])
def test_a_gradient_does_not_depend_on_its_batch(build, tmp_path):
    model, tokenizer = build(), byte_tokenizer()
    adapter = wrap(model, cache_dir=tmp_path)
    short_and_long = [PAIRS[0], *sorted(PAIRS[1:], key=lambda p: -len(p.prompt))[:3]]
    together, alone = (pair_gradients(model, tokenizer, adapter, short_and_long, batch_size=b) for b in (8, 1))
    for name in adapter:
        for side in ("hack", "clean"):
            a, b = getattr(together, side)[name], getattr(alone, side)[name]
            assert ((a - b).norm(dim=1) <= 1e-5 * b.norm(dim=1)).all(), name


def test_bf16_finds_nearly_the_directions_of_fp32(tmp_path):
    exact, rough = qwen3(), qwen3(torch.bfloat16)
    tokenizer = byte_tokenizer()
    V, W = (
        extract(m, tokenizer, wrap(m, cache_dir=tmp_path), PAIRS, k=1, global_floor=None, cache_dir=False)
        for m in (exact, rough)
    )
    assert all(v.dtype == torch.float32 for v in W.V.values())
    each = overlaps(V.V, W.V)
    assert len(each) == 14 and sum(each.values()) / len(each) > 0.8


def test_the_pad_token_does_not_matter(parts):
    model, tokenizer, adapter = parts
    assert tokenizer.pad_token_id is None
    first = pair_gradients(model, tokenizer, adapter, PAIRS[:2]).differences
    tokenizer.add_special_tokens({"pad_token": "!"})
    second = pair_gradients(model, tokenizer, adapter, PAIRS[:2]).differences
    assert all(torch.equal(first[n], second[n]) for n in adapter)


def test_training_mode_and_gradients_are_left_as_they_were(parts):
    model, tokenizer, adapter = parts
    model.train()
    for p in adapter.parameters(): p.grad = torch.ones_like(p)
    with torch.no_grad(): extract(model, tokenizer, adapter, PAIRS, k=2, cache_dir=False)
    assert model.training and all((p.grad == 1).all() for p in adapter.parameters())


def test_cache_hits_only_what_is_the_same(parts, tmp_path, capsys):
    model, tokenizer, adapter = parts

    def says(pairs=PAIRS, **settings):
        extract(model, tokenizer, adapter, pairs, **{"k": 2, "cache_dir": tmp_path, **settings})
        return capsys.readouterr().out.split()[2].rstrip(",")

    assert [says(), says()] == ["miss", "hit"]
    assert [
        says(k=3), says(normalize="sum"), says(tau=0.1), says(global_floor=0.5), says(control="shuffled"),
        says(control="shuffled", seed=1), says(PAIRS[:6]),
    ] == ["miss"] * 7
    with torch.no_grad(): next(iter(adapter.values())).delta_s[0] += 0.1
    assert [says(), says()] == ["miss", "hit"]
    with torch.no_grad(): next(iter(adapter.values())).delta_s_hack[0] += 0.1
    assert says() == "hit"  # ablated in the extraction, so it changes nothing
    with torch.no_grad(): model.get_input_embeddings().weight[5, 0] += 0.1
    assert says() == "miss"


def test_damaged_or_unwritable_cache(parts, tmp_path):
    model, tokenizer, adapter = parts
    first = extract(model, tokenizer, adapter, PAIRS, k=2, cache_dir=tmp_path)
    (file,) = (tmp_path / "vhack").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="damaged"):
        second = extract(model, tokenizer, adapter, PAIRS, k=2, cache_dir=tmp_path)
    assert all(torch.equal(first.V[n], second.V[n]) for n in first.V)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract(model, tokenizer, adapter, PAIRS, k=2, cache_dir=tmp_path)
    in_the_way = tmp_path / "a file"
    in_the_way.write_text("")
    with pytest.warns(UserWarning, match="cannot write"):
        extract(model, tokenizer, adapter, PAIRS, k=2, cache_dir=in_the_way)


def test_another_models_v_is_refused(parts, tmp_path):
    model, tokenizer, adapter = parts
    extract(model, tokenizer, adapter, PAIRS, k=2, cache_dir=False).save(tmp_path / "v.safetensors")
    other = qwen3_5()
    with pytest.raises(
        ValueError, match="v.safetensors: this V was extracted from Qwen3ForCausalLM .* extract it again"
    ):
        VHack.load(tmp_path / "v.safetensors", wrap(other, cache_dir=tmp_path))
    adapter.save(tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match="holds no V"): VHack.load(tmp_path / "adapter.safetensors")


def test_a_prompt_longer_than_the_context_is_refused(parts):
    model, tokenizer, adapter = parts
    model.config.max_position_embeddings = 50
    with pytest.raises(ValueError, match="prompt 0 has .* context is 50"):
        extract(model, tokenizer, adapter, PAIRS, k=2, cache_dir=False)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"): encode_completions(tokenizer, ["a"], ["b"])


def test_encoding_knows_neither_problems_nor_grades():
    code = "import sys, pgrpo.encode; print(*(m for m in sys.modules if m.startswith('pgrpo.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pgrpo.encode"]


def test_honest_work_lies_above_the_random_line_and_not_beyond_the_controls():
    """Made-up gradients in which all texts differ along a few directions, and hacks along one of them more.

    "cin lies above the random line, so it is a hack" is then wrong of every honest text.
    """
    r, k, n, names, generator = 128, 5, 48, "abcdefgh", torch.Generator().manual_seed(0)
    frames = {m: torch.linalg.qr(torch.randn(r, 12, generator=generator))[0].T for m in names}  # what texts differ in
    texts = lambda hack: {
        m: torch.randn(n, 12, generator=generator) @ f + 2 * hack * f[0] for m, f in frames.items()
    }
    pairs, modes = PairGradients(texts(True), texts(False)), ["x", "y"] * (n // 2)
    V, _ = basis_of(pairs.differences, k, None, None)
    controls = sum(control_bases(pairs, modes, k, None, None).values(), [])
    honest, hacks, line = scored(texts(False), V, controls), scored(texts(True), V, controls), null_cin(k, r)
    assert (honest.cin > line).all() and (hacks.cin > line).all()
    assert abs(honest.cin.mean() - honest.cin_null.mean()) < 0.1 * honest.cin.mean()
    assert honest.beyond.float().mean() < 0.2 and hacks.beyond.float().mean() > 0.5
    assert not scored(texts(True), V).beyond.any()  # nothing is claimed without a control
