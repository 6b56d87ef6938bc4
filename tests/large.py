"A made-up record of an update with the modules of a 4B model: 36 layers of 7, ranks as Qwen3-4B has them."
import math

import torch

from pgrpo.grpo.magnitudes import Magnitudes
from pgrpo.projection import project_all
from pgrpo.vhack import haar
from pgrpo.widgets.records import Record

RANKS = {
    "self_attn.q_proj": 2560, "self_attn.k_proj": 1024, "self_attn.v_proj": 1024, "self_attn.o_proj": 2560,
    "mlp.gate_proj": 2560, "mlp.up_proj": 2560, "mlp.down_proj": 2560,
}
LAYERS, ROLLOUTS, K = 36, 12, 5
MODES = ("run_tests", "sentinel")
ROWS = {  # source → its rollouts
    "all": slice(None), "student": slice(None), "run_tests": slice(0, ROLLOUTS // 2),
    "sentinel": slice(ROLLOUTS // 2, None),
}
RANK = {f"model.layers.{i}.{part}": rank for i in range(LAYERS) for part, rank in RANKS.items()}  # by module


def magnitudes(step: int, V: dict, generator: torch.Generator) -> Magnitudes:
    "The figures of one step with random gradients."
    each = {n: torch.randn(ROLLOUTS, rank, generator=generator) for n, rank in RANK.items()}
    total = {n: g.sum(0) for n, g in each.items()}
    c = {n: basis @ total[n] for n, basis in V.items()}
    parts = [project_all({n: g[rows].sum(0) for n, g in each.items()}, V) for rows in ROWS.values()]
    def table(figure):  # (sources, modules)
        of = lambda part, n: figure(part.modules[n]) if n in V else torch.tensor(math.nan)
        return torch.stack([torch.stack([of(part, n) for n in RANK]) for part in parts])
    def share(n):  # (rollouts,): along the direction that counts in a module
        if n not in V: return torch.zeros(ROLLOUTS)
        found = c[n].relu()
        return each[n] @ V[n].T @ (found / found.norm())
    def lean(g, n):  # of gradients (..., rank): their signed score
        return (g @ V[n].T).sum(-1) / g.norm(dim=-1) / K**0.5 if n in V else torch.zeros(g.shape[:-1])
    def leans(rows):  # (modules,), nan without a basis
        own = {n: g[rows].sum(0) for n, g in each.items()}
        return torch.stack([lean(own[n], n) if n in V else torch.tensor(math.nan) for n in RANK])
    lengths = torch.rand(1, len(RANK), generator=generator)
    about = tuple(
        dict(row=i, mode=MODES[i >= ROLLOUTS // 2], teacher=False, kind=("hack", "solve", "other")[i % 3])
        for i in range(ROLLOUTS)
    )
    values = dict(
        cin=table(lambda p: p.cin), signed=torch.stack([leans(rows) for rows in ROWS.values()]),
        cout=table(lambda p: p.cout), removed=table(lambda p: p.removed.norm()),
        fired=table(lambda p: (p.coef > 0).float().mean()), delta_s=lengths, delta_s_hack=0 * lengths,
    )
    shares = torch.stack([share(n) for n in RANK], 1)
    own = torch.stack([lean(each[n], n) for n in RANK], 1)
    return Magnitudes(step, tuple(RANK), tuple(ROWS), values, c, total, parts[0].grads, shares, own, about)


def made_up(steps=(0, 10), arm="none", seed=0) -> Record:
    "A record in which every module has a basis but the last."
    generator = torch.Generator().manual_seed(seed)
    V = {n: haar(K, rank, generator) for n, rank in list(RANK.items())[:-1]}
    records = {step: magnitudes(step, V, generator) for step in steps}
    S = {n: torch.arange(K, 0, -1).float() for n in V}
    spectra = {n: torch.linspace(3, 0.1, rank) for n, rank in RANK.items()}
    return Record(
        arm, tuple(steps), records.__getitem__, V, S, spectra, {n: torch.rand(24, generator=generator) for n in V},
        MODES * 12,
    )
