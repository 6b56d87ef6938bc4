"""The adapter on whole models, against plain hooks and autograd.

Architectures × dtypes × paths × checkpointing × devices.
"""
import contextlib
import copy
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn as nn
import transformers
from torch.nn.utils import prune
from transformers import Qwen3Config, Qwen3ForCausalLM

from pgrpo.adapter import wrap
from pgrpo.adapter.linear import AdaptedLinear, fold_weight

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
ARCHITECTURES = ["qwen3"] + ["qwen3_5"] * hasattr(transformers, "Qwen3_5ForCausalLM")
DTYPES = [torch.float32, torch.bfloat16]
on_devices, on_architectures, in_dtypes = (pytest.mark.parametrize(*p) for p in (
    ("device", DEVICES), ("architecture", ARCHITECTURES), ("dtype", DTYPES)))


def make(architecture="qwen3", dtype=torch.float32, device="cpu", seed=0):
    torch.manual_seed(seed)
    shape = dict(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
        initializer_range=0.1,
    )
    if architecture == "qwen3": model = Qwen3ForCausalLM(Qwen3Config(**shape, num_hidden_layers=2, head_dim=8))
    else:
        model = transformers.Qwen3_5ForCausalLM(
            transformers.Qwen3_5TextConfig(
                **shape, num_hidden_layers=2, head_dim=16, layer_types=["linear_attention", "full_attention"],
                linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
                linear_conv_kernel_dim=4,
            )
        )
    return model.to(device, dtype).eval()


def wrapped(*args, size=0.1, **kwargs):
    model = make(*args, **kwargs)
    adapter = wrap(model)
    perturb(adapter, size)
    return model, adapter


def perturb(adapter, size=0.1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters(): p.copy_(size * torch.randn(p.shape, generator=generator))


def tokens(device="cpu", rows=3, length=9):
    return torch.randint(0, 64, (rows, length), generator=torch.Generator().manual_seed(2)).to(device)


def nll(model, ids, **inputs):  # (B,)
    logits = model(**(inputs or dict(input_ids=ids))).logits[:, :-1]
    return (
        -torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
        .gather(-1, ids[:, 1:, None])[..., 0]
        .sum(1)
    )


def brute_force(adapter, base, ids):  # name → (B, r): a backward per rollout through plain hooks
    deltas = {n: (m.delta_s + m.delta_s_hack).detach().to(m.U.dtype).requires_grad_() for n, m in adapter.items()}

    def hook(n, m):
        return base.get_submodule(n).register_forward_hook(lambda _, x, y: y + ((x[0] @ m.Vh.T) * deltas[n]) @ m.U.T)
    hooks = [hook(n, m) for n, m in adapter.items()]
    rows = [torch.autograd.grad(loss, list(deltas.values()), retain_graph=True) for loss in nll(base, ids)]
    for h in hooks: h.remove()
    return {n: torch.stack([row[i] for row in rows]) for i, n in enumerate(deltas)}


def furthest(ours, true):
    return max(((ours[n].double() - true[n].double()).norm() / true[n].double().norm()).item() for n in true)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PGRPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@on_devices
@on_architectures
@in_dtypes
def test_identity(device, architecture, dtype):
    "At zero, and in reference() whatever the vectors, the logits are the base model's to the last bit"
    ids = tokens(device)
    base = make(architecture, dtype, device)(ids).logits
    model, adapter = wrapped(architecture, dtype, device, size=0)
    for size in (0, 0.3):
        perturb(adapter, size)
        for adapter.train_path in ("folded", "exact"):
            for grad in (False, True):
                with torch.set_grad_enabled(grad), adapter.reference(): assert torch.equal(model(ids).logits, base)
                with torch.set_grad_enabled(grad), adapter.reference(), adapter.deployed(), adapter.folded():
                    assert torch.equal(model(ids).logits, base)
                for context in (adapter.deployed, adapter.folded):
                    with torch.set_grad_enabled(grad), context():
                        assert torch.equal(model(ids).logits, base) == (size == 0)
                with torch.set_grad_enabled(grad): assert torch.equal(model(ids).logits, base) == (size == 0)


@on_devices
@on_architectures
@in_dtypes
def test_both_vectors_and_both_paths_are_one_function(device, architecture, dtype):
    ids, close = tokens(device), dict(atol=1e-4) if dtype == torch.float32 else dict(atol=0.15)
    model, adapter = wrapped(architecture, dtype, device)
    total = {n: (m.delta_s + m.delta_s_hack).detach() for n, m in adapter.items()}
    with torch.no_grad():
        adapter.train_path = "exact"
        exact = model(ids).logits
        with adapter.folded(): assert torch.allclose(model(ids).logits, exact, **close)
        with adapter.deployed(): kept = model(ids).logits
        with adapter.deployed(), adapter.folded(): assert torch.allclose(model(ids).logits, kept, **close)
        for m in adapter.values(): m.delta_s_hack.zero_()
        assert torch.equal(model(ids).logits, kept)
        for n, m in adapter.items(): m.delta_s.copy_(total[n])
        assert torch.equal(model(ids).logits, exact)


@on_devices
@on_architectures
@pytest.mark.parametrize("path", ["folded", "exact"])
@pytest.mark.parametrize("checkpointing", [None, "non-reentrant", "reentrant"])
def test_rollout_gradients_equal_brute_force(device, architecture, path, checkpointing):
    ids = tokens(device)
    model, adapter = wrapped(architecture, device=device)
    adapter.train_path = path
    true = brute_force(adapter, make(architecture, device=device).requires_grad_(False), ids)
    if checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.train().gradient_checkpointing_enable(dict(use_reentrant=checkpointing == "reentrant"))
        model.enable_input_require_grads()
    for repeat in range(2):  # twice: nothing may be left over or doubled
        model.zero_grad()
        nll(model, ids).sum().backward()
        assert set(adapter.rollout_grads) == set(adapter) and all(
            g.dtype == torch.float32 for g in adapter.rollout_grads.values()
        )
        assert furthest(adapter.rollout_grads, true) < 1e-5
        assert furthest({n: m.delta_s.grad for n, m in adapter.items()}, {n: g.sum(0) for n, g in true.items()}) < 1e-5
        assert all(torch.equal(m.delta_s.grad, m.delta_s_hack.grad) for m in adapter.values())
    assert all(p.grad is None for n, p in model.named_parameters() if "delta_s" not in n)


@on_devices
@on_architectures
@pytest.mark.parametrize("path", ["folded", "exact"])
def test_rollout_gradients_in_bf16(device, architecture, path):
    "As near to fp32's as bf16 activations let the textbook come; all modules together"
    ids = tokens(device)
    model, adapter = wrapped(architecture, torch.bfloat16, device)
    adapter.train_path = path
    true = brute_force(adapter, make(architecture, torch.bfloat16, device).requires_grad_(False), ids)
    wide = copy.deepcopy(model).float()
    sharp = {n: wide.get_submodule(n) for n in adapter}
    best = brute_force(sharp, make(architecture, torch.bfloat16, device).float().requires_grad_(False), ids)
    nll(model, ids).sum().backward()
    def flat(g): return torch.cat([g[n].float().flatten() for n in adapter])
    ours, textbook = ((flat(g) - flat(best)).norm() / flat(best).norm() for g in (adapter.rollout_grads, true))
    assert ours < max(0.05, 4 * textbook) < 0.3
    assert all(g.dtype == torch.float32 for g in adapter.rollout_grads.values())
    for n, m in adapter.items():
        assert m.delta_s.grad.dtype == torch.float32 and torch.allclose(m.delta_s.grad, adapter.rollout_grads[n].sum(0))


@on_devices
@pytest.mark.parametrize("path", ["folded", "exact"])
def test_gradient_in_the_input(device, path):
    ids = tokens(device)
    model, adapter = wrapped(device=device)
    adapter.train_path = path
    x = model.get_input_embeddings()(ids).requires_grad_()
    (ours,) = torch.autograd.grad(nll(model, ids, inputs_embeds=x).sum(), x)
    (true,) = torch.autograd.grad(nll(adapter.fold(deployed=False), ids, inputs_embeds=x).sum(), x)
    assert (ours - true).norm() / true.norm() < 1e-5


def test_each_backward_leaves_its_own():
    ids = tokens()
    model, adapter = wrapped()
    a, b = nll(model, ids).sum(), nll(model, ids[:2]).sum()
    with pytest.raises(RuntimeError, match="rows and .* in one backward"): (a + b).backward()

    loss = nll(model, ids).sum()
    loss.backward(retain_graph=True)
    once = adapter.rollout_grads
    loss.backward(retain_graph=True)
    assert adapter.rollout_grads is not once and all(torch.equal(adapter.rollout_grads[n], g) for n, g in once.items())
    (2 * nll(model, ids[:2]).sum()).backward()  # a micro-batch
    assert all(torch.allclose(adapter.rollout_grads[n], 2 * g[:2], rtol=1e-3, atol=1e-5) for n, g in once.items())

    (nll(model, ids).sum() + 3 * nll(model, ids).sum()).backward()  # the same batch twice: row b stays sequence b
    assert all(torch.allclose(adapter.rollout_grads[n], 4 * g, rtol=1e-3, atol=1e-5) for n, g in once.items())

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x): return x.clone()
        @staticmethod
        def backward(ctx, g): raise KeyboardInterrupt
    handle = model.model.layers[0].register_forward_pre_hook(lambda m, x: (Broken.apply(x[0].requires_grad_()), *x[1:]))
    with pytest.raises(KeyboardInterrupt): nll(model, ids).sum().backward()
    handle.remove()
    nll(model, ids).sum().backward()
    assert all(torch.equal(adapter.rollout_grads[n], g) for n, g in once.items())


def test_deployed_backward_outside_its_context():
    ids = tokens()
    model, adapter = wrapped()
    with adapter.deployed():
        nll(model, ids).sum().backward()
        true, loss = adapter.rollout_grads, nll(model, ids).sum()
    assert all(m.delta_s_hack.grad is None for m in adapter.values())
    loss.backward()
    assert all(torch.equal(adapter.rollout_grads[n], g) for n, g in true.items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train().gradient_checkpointing_enable(dict(use_reentrant=False))
    with adapter.deployed(): loss = nll(model, ids).sum()
    with pytest.raises(RuntimeError, match="call backward in the same context as the forward"): loss.backward()
    with adapter.deployed(): nll(model, ids).sum().backward()
    assert all(torch.allclose(adapter.rollout_grads[n], g) for n, g in true.items())


@on_devices
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=1e-2), lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True), lambda p: torch.optim.SGD(p, lr=1e-2),
        lambda p: torch.optim.SGD(p, lr=1e-2, foreach=False),
    ],
)


def test_every_optimizer_step_is_seen(device, optimizer):
    ids = tokens(device)
    model, adapter = wrapped(device=device)
    step = optimizer(adapter.parameters())
    for _ in range(3):
        step.zero_grad()
        nll(model, ids).sum().backward()
        step.step()
        with torch.no_grad(), adapter.folded(): logits = model(ids).logits
        with torch.inference_mode(): assert torch.equal(model(ids).logits, logits)
        assert torch.equal(adapter.fold(deployed=False)(ids).logits, logits)


def test_every_other_change_is_seen():
    ids = tokens()
    model, adapter = wrapped()
    m = next(iter(adapter.values()))
    def current():
        with torch.no_grad(): return torch.equal(model(ids).logits, adapter.fold(deployed=False)(ids).logits)
    assert current()
    with torch.no_grad(): m.delta_s_hack.copy_(torch.ones_like(m.delta_s_hack))
    assert current()
    m.delta_s = nn.Parameter(torch.randn_like(m.delta_s))
    assert current()
    with torch.no_grad(): m.weight.mul_(1.5)
    assert current()
    with torch.inference_mode(): m.delta_s.mul_(-1)
    assert current()
    m.delta_s.data.zero_()  # no counter sees this
    adapter.drop_folded()
    assert current()
    with torch.inference_mode(): model(ids)  # folds here ...
    adapter.drop_folded()
    with torch.inference_mode(): model(ids)
    nll(model, ids).sum().backward()  # ... and what it folded can be trained on


@on_architectures
def test_generate_equals_the_folded_model(architecture):
    ids = tokens()
    model, adapter = wrapped(architecture)
    def greedy(m): return m.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0)
    with adapter.folded(): trained = greedy(model)
    with adapter.folded(), adapter.deployed(): deployed = greedy(model)
    with adapter.folded(), adapter.reference(): reference = greedy(model)
    assert torch.equal(trained, greedy(adapter.fold(deployed=False))) and torch.equal(deployed, greedy(adapter.fold()))
    assert torch.equal(reference, greedy(make(architecture))) and not torch.equal(trained, reference)


@on_devices
@in_dtypes
def test_fold_is_a_plain_model(device, dtype, tmp_path):
    ids = tokens(device)
    model, adapter = wrapped(dtype=dtype, device=device)
    nll(model, ids).sum().backward()
    before, grads = {k: v.clone() for k, v in model.state_dict().items()}, adapter.rollout_grads
    adapter.fold().save_pretrained(tmp_path / "shipped")
    torch.save(ids.cpu(), tmp_path / "ids")
    code = (
        "import sys, torch, transformers; p = sys.argv[1];"
        "m = transformers.AutoModelForCausalLM.from_pretrained(p + '/shipped');"
        "assert 'pgrpo' not in sys.modules; m = m.to(sys.argv[2]).requires_grad_(False);"
        "torch.save(m(torch.load(p + '/ids').to(m.device)).logits.cpu(), p + '/logits')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), device], check=True, capture_output=True, cwd=tmp_path)
    with torch.no_grad(), adapter.deployed(), adapter.folded():
        assert torch.allclose(
            torch.load(tmp_path / "logits"), model(ids).logits.cpu(), rtol=1e-4,
            atol=1e-5 if dtype == torch.float32 else 5e-2,
        )
    assert adapter.rollout_grads is grads and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    plain = adapter.fold()
    assert not any(isinstance(m, AdaptedLinear) for m in plain.modules())
    assert all(p.requires_grad and p.grad is None for p in plain.parameters())
    m, name = next(iter(adapter.values())), next(iter(adapter))
    true = m.weight.double() + (m.U.double() * m.delta_s.double()) @ m.Vh.double()
    unit = torch.finfo(dtype).eps * true.abs() + 1e-6
    assert ((plain.get_submodule(name).weight.double() - true).abs() <= unit).all()


@on_devices
def test_save_and_load(device, tmp_path):
    model, adapter = wrapped(device=device)
    model.config.name_or_path = "someone/model"
    adapter.save(tmp_path / "a")
    other = wrap(make(device=device))
    other.load(tmp_path / "a")
    assert all(map(torch.equal, adapter.parameters(), other.parameters()))
    zero = wrap(make(device=device, seed=1))
    with pytest.raises(
        ValueError, match="made for another base model, someone/model: its model.layers.0.self_attn.q_proj.weight"
    ):
        zero.load(tmp_path / "a")
    with pytest.raises(ValueError, match="for another base model.*load it in the dtype of the run, not in bfloat16"):
        wrap(make(dtype=torch.bfloat16, device=device)).load(tmp_path / "a")
    with pytest.raises(ValueError, match="not in both"):
        wrap(make("qwen3_5", device=device) if len(ARCHITECTURES) > 1 else make(device=device), "q_proj").load(
            tmp_path / "a"
        )
    assert not any(p.any() for p in zero.parameters())
    whole = (tmp_path / "a").read_bytes()
    for broken in (whole[:-1], whole[:20], b"", whole[:-5] + b"x" + whole[-4:]):
        (tmp_path / "b").write_bytes(broken)
        with pytest.raises(ValueError, match="b is damaged"): other.load(tmp_path / "b")
    with pytest.raises(FileNotFoundError): other.load(tmp_path / "none")
    with torch.no_grad(): next(iter(adapter.values())).weight[0, 0] += 1  # no longer the base it was
    with pytest.raises(ValueError, match="made for another base model"): adapter.load(tmp_path / "a")


@on_devices
@in_dtypes
def test_token_scores_add_up(device, dtype):
    ids = tokens(device)
    model, adapter = wrapped(dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(3)
    V = {
        n: torch.linalg.qr(torch.randn(len(m.S), 3, generator=generator)).Q.T.to(device)
        for n, m in list(adapter.items())[1::2]
    }
    nll(model, ids).sum().backward()
    assert adapter.token_scores is None
    with adapter.record_tokens(V): nll(model, ids).sum().backward()
    scores, whole = adapter.token_scores, sum((adapter.rollout_grads[n] @ v.T).sum(1) for n, v in V.items())
    assert scores.shape == ids.shape and scores.dtype == torch.float32
    assert torch.allclose(scores.sum(1), whole, rtol=1e-4, atol=1e-4)
    with adapter.record_tokens(V): (-nll(model, ids[:1])).sum().backward()
    assert torch.allclose(adapter.token_scores, -scores[:1], rtol=1e-3, atol=1e-3 if dtype == torch.float32 else 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train().gradient_checkpointing_enable(dict(use_reentrant=False))
    with adapter.record_tokens(V): nll(model, ids).sum().backward()
    assert torch.allclose(adapter.token_scores, scores, rtol=1e-4, atol=1e-5)


def test_a_token_score_is_that_tokens_gradient():
    "Against autograd: scale δ at one position only"
    ids = tokens()
    model, adapter = wrapped()
    name = "model.layers.1.mlp.up_proj"
    v = torch.randn(1, len(adapter[name].S), generator=torch.Generator().manual_seed(3))
    with adapter.record_tokens({name: v}): nll(model, ids).sum().backward()
    plain, m = adapter.fold(deployed=False).requires_grad_(False), adapter[name]
    weights = torch.zeros(*ids.shape, 1, requires_grad=True)  # y + weight · U(v ⊙ Vh x): derivative in the weight at 0
    plain.get_submodule(name).register_forward_hook(lambda _, x, y: y + weights * (((x[0] @ m.Vh.T) * v) @ m.U.T))
    (true,) = torch.autograd.grad(nll(plain, ids).sum(), weights)
    assert torch.allclose(adapter.token_scores, true[..., 0], rtol=1e-4, atol=1e-5)


@on_devices
def test_moves_and_casts(device):
    ids = tokens()
    model, adapter = wrapped()
    nll(model, ids).sum().backward()
    vectors = [p.detach().clone() for p in adapter.parameters()]
    held = adapter.parameters()
    model.to(device).to(torch.bfloat16)
    assert adapter.train_path == "exact" and all(p is q for p, q in zip(held, adapter.parameters()))
    for p, before in zip(adapter.parameters(), vectors):
        assert p.dtype == p.grad.dtype == torch.float32 and p.device.type == p.grad.device.type == device
        assert torch.equal(p.cpu(), before)
    for m in adapter.values():
        assert m.U.dtype == m.Vh.dtype == m.weight.dtype == torch.bfloat16 and m.S.dtype == torch.float32
    nll(model, ids.to(device)).sum().backward()
    model.float()
    assert adapter.train_path == "folded"
    with torch.no_grad(), adapter.folded(): logits = model(ids.to(device)).logits
    adapter.train_path = "exact"
    with torch.no_grad(): assert torch.allclose(model(ids.to(device)).logits, logits, atol=1e-4)


@on_devices
def test_autocast(device):
    ids = tokens(device)
    model, adapter = wrapped(device=device)
    nll(model, ids).sum().backward()
    true = adapter.rollout_grads
    for adapter.train_path in ("folded", "exact"):
        with torch.autocast(device, torch.bfloat16): loss = nll(model, ids).sum()
        loss.backward()
        off = torch.cat([(adapter.rollout_grads[n] - g).flatten() for n, g in true.items()]).norm()
        assert off / torch.cat([g.flatten() for g in true.values()]).norm() < 0.1


@on_devices
def test_autocast_takes_the_exact_path(device):
    "It would round W_eff before it multiplies, and with it most of a small δ."
    ids = tokens(device)
    model, adapter = wrapped(device=device, size=1e-3)
    made = []
    for adapter.train_path in ("folded", "exact"):
        with torch.no_grad(), torch.autocast(device, torch.bfloat16): made.append(model(ids).logits)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16), adapter.folded(): rounded = model(ids).logits
    assert torch.equal(*made) and not torch.equal(made[0], rounded)


def test_state_dict_is_the_base_models():
    model, adapter = wrapped()
    base = make()
    assert model.state_dict().keys() == base.state_dict().keys()
    assert all(torch.equal(v, base.state_dict()[k]) for k, v in model.state_dict().items())
    vectors = [p.detach().clone() for p in adapter.parameters()]
    model.load_state_dict(base.state_dict(), strict=True)
    assert all(map(torch.equal, adapter.parameters(), vectors))


@pytest.mark.parametrize("names", [(), ("deployed",), ("reference",), ("reference", "deployed")], ids="-".join)
@pytest.mark.parametrize("targets", [None, ("q_proj", "lm_head")], ids=["", "with a tied head"])
@in_dtypes
def test_a_wrapped_model_writes_what_it_computes(dtype, targets, names, tmp_path):
    torch.manual_seed(0)
    config = Qwen3Config.from_dict(make().config.to_dict() | dict(tie_word_embeddings=targets is not None))
    Qwen3ForCausalLM(config).to(dtype).save_pretrained(tmp_path / "base")
    base, ids = Qwen3ForCausalLM.from_pretrained(tmp_path / "base").eval(), tokens()
    model = copy.deepcopy(base)
    adapter = wrap(model, targets)
    perturb(adapter)
    with contextlib.ExitStack() as stack, warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter("always")
        for name in (*names, "folded"): stack.enter_context(getattr(adapter, name)())
        model.save_pretrained(tmp_path)
        made = Qwen3ForCausalLM.from_pretrained(tmp_path).eval()
        assert torch.equal(made(ids).logits, model(ids).logits)
    assert any("with δS_hack in its weights" in str(w.message) for w in said) == (not names)
    again = wrap(copy.deepcopy(base), targets)
    again.load(tmp_path / "adapter.safetensors")
    assert all(map(torch.equal, again.parameters(), adapter.parameters()))
    model.load_state_dict(made.state_dict(), strict=False)  # as a trainer does that resumes
    assert all(torch.equal(t, base.state_dict()[key]) for key, t in model.state_dict().items())


def test_a_copy_writes_its_own_and_a_plain_model_as_its_class_does(tmp_path):
    model, adapter = wrapped()
    twin, ids = copy.deepcopy(model), tokens()
    for m in twin.modules():
        if isinstance(m, AdaptedLinear): torch.nn.init.zeros_(m.delta_s)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for owner in (twin, model):
            owner.save_pretrained(tmp_path)
            assert torch.equal(Qwen3ForCausalLM.from_pretrained(tmp_path).eval()(ids).logits, owner(ids).logits)
    for plain in (adapter.fold(), adapter.unwrap()):
        assert not {"save_pretrained", "load_state_dict"} & set(vars(plain))


def test_other_weights_are_refused_by_a_wrapped_model():
    model, adapter = wrapped()
    for seed, far in ((0, False), (1, True)):
        other = make(seed=seed).state_dict()
        name = f"{next(iter(adapter))}.weight"
        other[name] = other[name] + 1e-3 * torch.randn_like(other[name]) * (not far)
        with pytest.raises(ValueError, match="is neither that of the model that was wrapped"):
            model.load_state_dict(other)
    assert all(torch.equal(m.weight, make().get_submodule(n).weight) for n, m in adapter.items())


def test_a_copy_lives_its_own_life():
    ids = tokens()
    model, adapter = wrapped()
    with torch.no_grad(): before = model(ids).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for n in adapter: twin.get_submodule(n).delta_s.zero_()
        assert torch.equal(model(ids).logits, before) and not torch.equal(twin(ids).logits, before)
        with adapter.reference(): assert not torch.equal(twin(ids).logits, model(ids).logits)


class Odd(nn.Module):
    "A Linear with a bias, one that is used twice under two names, and a parameter that stays out of it"
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.q_proj, self.head = nn.Linear(6, 6, bias=True), nn.Linear(6, 2)
        self.block = nn.ModuleDict({"o_proj": self.q_proj})
    def forward(self, x): return self.head(self.block["o_proj"](self.q_proj(x).tanh()).tanh())


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 6)])
@pytest.mark.parametrize("path", ["folded", "exact"])
def test_bias_and_a_module_used_twice(shape, path):
    x, base = torch.randn(shape), Odd()
    model = Odd()
    adapter = wrap(model)
    adapter.train_path = path
    assert list(adapter) == ["q_proj"] and model.block["o_proj"] is model.q_proj and torch.equal(model(x), base(x))
    perturb(adapter, 0.3)
    m = adapter["q_proj"]
    model(x).square().sum().backward()
    for row in range(4):
        d = (m.delta_s + m.delta_s_hack).detach().requires_grad_()
        def linear(v): return v @ m.weight.T + m.bias + ((v @ m.Vh.T) * d) @ m.U.T
        (true,) = torch.autograd.grad(base.head(linear(linear(x[row]).tanh()).tanh()).square().sum(), d)
        assert torch.allclose(adapter.rollout_grads["q_proj"][row], true, rtol=1e-4, atol=1e-5)
    plain = adapter.fold(deployed=False)
    assert plain.block["o_proj"] is plain.q_proj and type(plain.q_proj) is nn.Linear
    assert torch.allclose(plain(x), model(x), atol=1e-5)
    assert type(adapter.unwrap().q_proj) is nn.Linear and torch.equal(model(x), base(x)) and len(adapter) == 0


def test_rank():
    ids = tokens()
    model = make()
    adapter = wrap(model, rank=5)
    perturb(adapter)
    for n, m in adapter.items():
        U, S, Vh = torch.linalg.svd(m.weight, full_matrices=False)
        assert m.U.shape == (len(m.weight), 5) and m.S.shape == m.delta_s.shape == (5,)
        assert torch.allclose(m.S, S[:5], atol=1e-5)
        assert torch.allclose((m.U * m.S) @ m.Vh, (U[:, :5] * S[:5]) @ Vh[:5], atol=1e-4)
    nll(model, ids).sum().backward()
    assert furthest(adapter.rollout_grads, brute_force(adapter, make().requires_grad_(False), ids)) < 1e-5
    assert {len(m.S) for m in wrap(make(), rank=40).values()} == {16, 32}  # never more than a weight has
    with pytest.raises(ValueError, match="rank is 0"): wrap(make(), rank=0)


def test_what_cannot_be_wrapped_is_left_as_it_was(monkeypatch):
    with pytest.raises(ValueError, match="Sequential has no Linear named .*; it has 0"):
        wrap(nn.Sequential(nn.Linear(3, 3, bias=False)))
    model = make()
    with torch.no_grad(): model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="model.layers.1.mlp.up_proj.weight has entries that are not finite"):
        wrap(model)
    assert not any(isinstance(m, AdaptedLinear) for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    class Other(nn.Linear): pass
    model.model.layers[0].mlp.up_proj = Other(32, 48)
    with pytest.raises(ValueError, match="model.layers.0.mlp.up_proj is no plain nn.Linear but a Other"): wrap(model)
    with torch.device("meta"): empty = Odd()
    with pytest.raises(ValueError, match="q_proj.weight is on the meta device"): wrap(empty)
    model = make()
    adapter = wrap(model)
    with pytest.raises(ValueError, match="wrapped already"): wrap(model)
    assert torch.equal(adapter.unwrap()(tokens()).logits, make()(tokens()).logits) and len(wrap(model)) == 14


def test_contexts_nest_and_restore():
    ids = tokens()
    model, adapter = wrapped()
    def logits():
        with torch.no_grad(): return model(ids).logits
    trained = logits()
    with adapter.deployed(): deployed = logits()
    with adapter.reference(): reference = logits()
    with pytest.raises(ZeroDivisionError):
        with adapter.deployed():
            try:
                with adapter.reference(): 1 / 0
            finally: assert torch.equal(logits(), deployed)
    assert torch.equal(logits(), trained)
    with adapter.reference():
        with adapter.deployed(), adapter.folded(): assert torch.equal(logits(), reference)
        with adapter.reference(): pass
        assert torch.equal(logits(), reference)
    storage = {p.data_ptr() for p in adapter.parameters()}
    with adapter.reference(), adapter.deployed(): assert {p.data_ptr() for p in adapter.parameters()} == storage
    with adapter.record_tokens({}): nll(model, ids).sum().backward()
    assert adapter.token_scores is None


def test_folded_weights_are_shared_where_they_can_be():
    ids = tokens()
    model, adapter = wrapped()
    with torch.no_grad():
        for m in adapter.values(): m.delta_s_hack.zero_()
        model(ids)
        with adapter.deployed(): model(ids)
        for m in adapter.values():
            whole = m.effective.folded(False, m.U, m.Vh)
            assert whole is m.effective.folded(True, m.U, m.Vh)
            assert torch.equal(whole, fold_weight(m.weight, m.U, m.Vh, m.delta_s))
        for m in adapter.values(): m.delta_s.zero_()
        model(ids)
        assert all(m.effective.folded(False, m.U, m.Vh) is m.weight for m in adapter.values())


def test_cache_moves_by_environment_and_argument(tmp_path, monkeypatch):
    monkeypatch.setenv("PGRPO_CACHE", str(tmp_path / "env"))
    wrap(make())
    wrap(make(), cache_dir=tmp_path / "argument")
    files = [sorted(p.name for p in (tmp_path / where / "svd").iterdir()) for where in ("env", "argument")]
    assert files[0] == files[1] and len(files[0]) == 14
    for path in (tmp_path / "env" / "svd").iterdir(): path.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"): adapter = wrap(make())
    (tmp_path / "file").write_text("")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        blocked = wrap(make(), cache_dir=tmp_path / "file")
    assert len([w for w in caught if "cannot write" in str(w.message)]) == 1
    for n in adapter: assert torch.equal(adapter[n].U, blocked[n].U)


TOP = dict(vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
BODY = TOP | dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    initializer_range=0.1, max_position_embeddings=64,
)
GPT = TOP | dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.1)
FAMILIES = {  # model type → settings, names of what is adapted
    "phi3": (BODY, {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
    "glm": (BODY | dict(head_dim=8), {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}),
    "opt": (BODY | dict(ffn_dim=48, word_embed_proj_dim=32, init_std=0.1),
            {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}),
    "gpt2": (GPT, {"c_attn", "c_proj", "c_fc"}),
    "gptj": (GPT | dict(rotary_dim=4), {"q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"}),
    "mpt": (TOP | dict(d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
            {"Wqkv", "out_proj", "up_proj", "down_proj"}),
    "gpt_neox": (BODY, {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    "phi": (BODY, {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}),
}


def of_family(kind, **more):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **FAMILIES[kind][0] | more)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", FAMILIES)
@in_dtypes
def test_families_are_adapted_whole(kind, dtype, tmp_path):
    "Fused names, fc1 and fc2, Conv1D, a batch whose tokens are laid end to end: all of the layers, and exactly."
    ids, base, model = tokens(), of_family(kind).to(dtype).requires_grad_(False), of_family(kind).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter = wrap(model)
    assert {n.rpartition(".")[2] for n in adapter} == FAMILIES[kind][1]
    assert adapter.share == 1 and adapter.left_out == {}
    for adapter.train_path in ("folded", "exact"):
        for grad in (False, True):
            with torch.set_grad_enabled(grad): assert torch.equal(model(ids).logits, base(ids).logits)
    if dtype != torch.float32: return
    perturb(adapter, 0.1)
    true = brute_force(adapter, base, ids)
    for adapter.train_path in ("folded", "exact"):
        nll(model, ids).sum().backward()
        assert furthest(adapter.rollout_grads, true) < 1e-4 and set(adapter.rollout_grads) == set(adapter)
    adapter.save(tmp_path / "vectors")
    twin = wrap(of_family(kind))
    twin.load(tmp_path / "vectors")
    adapter.train_path = "folded"
    adapter.fold(deployed=False).save_pretrained(tmp_path / "shipped")
    shipped = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "shipped").eval()
    with torch.no_grad():
        assert torch.equal(shipped(ids).logits, model(ids).logits)
        assert torch.equal(twin.model(ids).logits, model(ids).logits)
        assert torch.equal(adapter.unwrap()(ids).logits, base(ids).logits)


def test_what_is_left_out_is_said():
    kind = dict(hidden_size=32, num_hidden_layers=2, state_size=4)
    model = transformers.AutoModelForCausalLM.from_config(transformers.MambaConfig(**TOP, **kind)).eval()
    with pytest.warns(UserWarning, match="2 Linears in the layers of MambaForCausalLM are not adapted: .*dt_proj"):
        adapter = wrap(model)
    assert {n.rpartition(".")[2] for n in adapter.left_out} == {"dt_proj", "conv1d", "mixer"}
    assert 0.5 < adapter.share < 1 and "left out" in repr(adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # who names layers knows what is left out
        few = wrap(make(), ("q_proj",))
        assert wrap(make()).left_out == {}
    assert 0 < few.share < 0.3 and len(few.left_out) == 12 and sum(few.left_out.values()) > 0


def test_a_layer_that_the_model_never_calls_is_named():
    kind = dict(hidden_size=32, num_hidden_layers=2, state_size=4)
    model = transformers.AutoModelForCausalLM.from_config(transformers.MambaConfig(**TOP, **kind)).eval()
    adapter = wrap(model, ("in_proj", "dt_proj"))
    nll(model, tokens()).sum().backward()
    with pytest.warns(UserWarning, match="2 of 4 adapted Linears took no part .* backbone.layers.0.mixer.dt_proj"):
        assert len(adapter.rollout_grads) == 2


def refused(model, message):
    before = {n: type(m) for n, m in model.named_modules()}
    with pytest.raises(ValueError, match=message): wrap(model)
    assert {n: type(m) for n, m in model.named_modules()} == before


def test_other_adapters_are_refused():
    peft = pytest.importorskip("peft")
    for target in ("q_proj", "lm_head", "embed_tokens"):
        lora = peft.get_peft_model(make(), peft.LoraConfig(target_modules=[target]))
        refused(lora, "Peft.* carries an adapter of PEFT at .*merge_and_unload")
        refused(lora.base_model.model, "Qwen3ForCausalLM carries an adapter of PEFT")
    assert len(wrap(lora.unload())) == 14


class Packed(nn.Module):
    "As layers of quantised models are: no Linear, a packed buffer."
    def __init__(self, infeatures, outfeatures):
        super().__init__()
        self.infeatures, self.outfeatures = infeatures, outfeatures
        self.register_buffer("qweight", torch.zeros(outfeatures, infeatures // 8, dtype=torch.int32))


def test_quantised_layers_are_refused():
    model = make()
    model.model.layers[0].mlp.up_proj = Packed(32, 48)  # used to be left out without a word
    refused(model, "up_proj is no plain nn.Linear but a Packed")
    model = make()
    model.model.layers[0].mlp.up_proj.to(torch.float8_e4m3fn)
    refused(model, "up_proj keeps its weight as a Parameter of float8_e4m3fn")
    model = make()
    model.is_quantized, model.quantization_method = True, "gptq"
    refused(model, r"is quantised \(gptq\)")
    model = make()
    model.model.layers[0].other = Packed(32, 32)  # a name that is not known is counted and said
    with pytest.warns(UserWarning, match="1 Linears in the layers .* model.layers.0.other"): adapter = wrap(model)
    assert adapter.left_out == {"model.layers.0.other": 1024}


def test_weights_that_are_computed_or_shared_are_refused():
    model = make()
    nn.utils.parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)
    refused(model, "up_proj is no plain nn.Linear")
    model = make()
    prune.identity(model.model.layers[0].mlp.up_proj, "weight")
    refused(model, "up_proj computes its weight anew")
    model = make()
    model.model.layers[0].mlp.up_proj.weight = model.model.layers[1].mlp.up_proj.weight
    refused(model, "layers.0.mlp.up_proj and model.layers.1.mlp.up_proj share one weight")


@pytest.mark.parametrize("kind", ["ernie4_5_moe", "jetmoe", "granitemoe"])
def test_experts_of_every_name_are_refused(kind):
    sizes = dict(
        ernie4_5_moe=BODY | dict(moe_num_experts=4, moe_k=2, moe_intermediate_size=16),
        jetmoe=BODY | dict(num_local_experts=4, num_experts_per_tok=2, kv_channels=8),
        granitemoe=BODY | dict(num_local_experts=4, num_experts_per_tok=2),
    )[kind]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **sizes))
    refused(model, "mixture of experts")


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "opt"])
def test_a_tied_head_has_its_own_weight_when_folded(kind, tmp_path):
    "The embedding stays what it was, in memory and in the files."
    ids = tokens()
    if kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config.from_dict(make().config.to_dict() | dict(tie_word_embeddings=True))).eval()
    else: model = of_family(kind)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    adapter = wrap(model, ("lm_head",))
    perturb(adapter, 0.3)
    embedding = model.get_input_embeddings().weight.clone()
    with torch.no_grad(), adapter.deployed(), adapter.folded(): true = model(ids).logits
    shipped = adapter.fold()
    shipped.save_pretrained(tmp_path / "shipped")
    for plain in (shipped, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "shipped").eval()):
        assert torch.equal(plain(ids).logits, true)
        assert torch.equal(plain.get_input_embeddings().weight, embedding)
    assert all(p.requires_grad for p in shipped.parameters())
    assert torch.equal(adapter.fold(deployed=False)(ids).logits, model(ids).logits)
    again = adapter.unwrap()
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert again.config.tie_word_embeddings
