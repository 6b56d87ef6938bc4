"Figures of a made-up update with the modules of a 4B model: 36 layers of 7, ranks as Qwen3-4B has them."
import torch

from pgrpo.grpo.magnitudes import Magnitudes
from pgrpo.projection import project_all
from pgrpo.vhack import haar
from pgrpo.widgets.records import Record

RANKS = {
    "self_attn.q_proj": 2560, "self_attn.k_proj": 1024, "self_attn.v_proj": 1024, "self_attn.o_proj": 2560,
    "mlp.gate_proj": 2560, "mlp.up_proj": 2560, "mlp.down_proj": 2560,
}
SOURCES = ("all", "student", "run_tests", "sentinel")
MODES = ("run_tests", "sentinel")


def made_up(steps=(0, 10), layers=36, rollouts=12, k=5, arm="none", seed=0) -> Record:
    "A record in which every module has a basis but the last."
    names = [f"model.layers.{i}.{part}" for i in range(layers) for part in RANKS]
    rank = {n: RANKS[n.split(".", 3)[3]] for n in names}
    generator = torch.Generator().manual_seed(seed)
    V = {n: haar(k, rank[n], generator) for n in names[:-1]}
    records = {}
    for step in steps:
        each = {n: torch.randn(rollouts, rank[n], generator=generator) for n in names}
        keep = dict(
            all=slice(None), student=slice(None), run_tests=slice(0, rollouts // 2), sentinel=slice(rollouts // 2, None)
        )
        parts = [project_all({n: g[keep[s]].sum(0) for n, g in each.items()}, V) for s in SOURCES]
        nan = torch.tensor(float("nan"))
        table = lambda f: torch.stack([torch.stack([f(p.modules[n]) if n in V else nan for n in names]) for p in parts])
        lengths = torch.rand(1, len(names), generator=generator)
        c = {n: V[n] @ each[n].sum(0) for n in V}
        share = torch.stack(
            [each[n] @ V[n].T @ (c[n].relu() / c[n].relu().norm()) if n in V else torch.zeros(rollouts) for n in names],
            1,
        )
        about = tuple(
            dict(row=i, mode=MODES[i >= rollouts // 2], teacher=False, kind=("hack", "solve", "other")[i % 3])
            for i in range(rollouts)
        )
        values = dict(
            cin=table(lambda p: p.cin), cout=table(lambda p: p.cout), removed=table(lambda p: p.removed.norm()),
            fired=table(lambda p: (p.coef > 0).float().mean()), delta_s=lengths, delta_s_hack=0 * lengths,
        )
        records[step] = Magnitudes(
            step, tuple(names), SOURCES, values, c, {n: g.sum(0) for n, g in each.items()}, parts[0].grads, share, about
        )
    S = {n: torch.arange(k, 0, -1).float() for n in V}
    return Record(
        arm, tuple(steps), records.__getitem__, V, S, {n: torch.linspace(3, 0.1, rank[n]) for n in names},
        {n: torch.rand(24, generator=generator) for n in V}, MODES * 12,
    )
