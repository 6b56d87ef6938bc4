"The stepper without a screen: what is shown against what is computed by other means, and what is left behind."
import gc
import re
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("ipywidgets", reason='the widgets need the extra "notebook"')
import pgrpo.train.trace
from pgrpo.train.trace import PHASES, Settings, Trace, drawn_problems
from pgrpo.widgets.frame import STATIC, STOPPED, Stopped, Work, alive
from pgrpo.widgets.stepper import Stepper

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trace():
    return Trace.embedded()


@pytest.fixture(scope="module")
def settings(trace):
    return trace.eventful(Settings(group_size=6))


def fresh(trace): return Trace(trace.model, trace.tokenizer, trace.adapter, trace.V, *drawn_problems(4), trace.base)


def open_comms():
    import comm
    return set(comm.get_comm_manager().comms)


def vectors(trace): return [p.detach().clone() for p in trace.adapter.parameters()]


def settled(stepper, seconds=60):
    end = time.monotonic() + seconds
    while stepper.work.busy:
        assert time.monotonic() < end
        time.sleep(0.01)


COSTS = {  # setting → (another value, the phases that depend on it)
    "prompt": (0, PHASES), "mode": ("sentinel", PHASES), "group_size": (5, PHASES), "seed": (77, PHASES),
    "arm": ("route", PHASES[4:]), "gate": ("no_gate", PHASES[4:]), "overshoot": (1.4, PHASES[4:]),
    "project_at": ("update", PHASES[4:]),
}
FUNCTIONS = dict(zip(PHASES, ("generate", "grade_rollouts", "advantages", "backward", "by_direction", "take_step")))


@pytest.fixture
def calls(monkeypatch):
    "How often each phase's function was called"
    counts = dict.fromkeys(PHASES, 0)
    for phase, name in FUNCTIONS.items():
        def counted(*args, phase=phase, real=getattr(pgrpo.train.trace, name), **kwargs):
            counts[phase] += 1
            return real(*args, **kwargs)
        monkeypatch.setattr(pgrpo.train.trace, name, counted)
    return counts


@pytest.mark.parametrize("name", COSTS)
def test_a_setting_reruns_what_depends_on_it_and_nothing_else(trace, settings, calls, name):
    value, phases = COSTS[name]
    trace("step", settings)
    calls.update(dict.fromkeys(PHASES, 0))
    changed = replace(settings, **{name: value})
    learns = trace("project", changed) is not None
    trace("step", changed)
    assert calls == {p: int(p in phases and (learns or p not in ("project", "step"))) for p in PHASES}
    for phase in (*PHASES, *PHASES[::-1]): trace(phase, changed), trace(phase, settings)
    assert sum(calls.values()) == len(phases) - 2 * (not learns)


def test_clicking_about_computes_each_phase_once(trace, settings, calls):
    stepper = Stepper(fresh(trace), group_size=settings.group_size, seed=settings.seed)
    for _ in range(2):
        for button in (*[stepper.buttons[1]] * 6, *[stepper.buttons[0]] * 6):
            button.click()
            settled(stepper)
    assert stepper.phase == "generate" and calls == dict.fromkeys(PHASES, 1)
    stepper.controls["overshoot"].value = 0.5
    stepper.phases.value = "step"
    settled(stepper)
    assert calls == dict.fromkeys(PHASES[:4], 1) | dict.fromkeys(PHASES[4:], 2)
    stepper.close()


@pytest.mark.parametrize("at", ["grad", "update"])
@pytest.mark.parametrize("arm", ["erase", "route"])
def test_a_look_is_no_step(trace, settings, arm, at):
    before = vectors(trace)
    first = trace("step", replace(settings, arm=arm, project_at=at))
    again = fresh(trace)("step", replace(settings, arm=arm, project_at=at))
    assert any(d.any() for d in first.step.update.values())
    assert all(map(torch.equal, vectors(trace), before)) and all(p.grad is None for p in trace.adapter.parameters())
    assert all(torch.equal(d, again.step.update[n]) for n, d in first.step.update.items())
    assert torch.equal(first.trained.rollouts, again.trained.rollouts)


def test_the_next_step_of_a_training_optimizer_is_shown_and_not_taken(trace, settings):
    from pgrpo.grpo import make_optimizer
    from pgrpo.train.effect import restored
    with restored(trace.adapter):
        optimizer = make_optimizer(trace.adapter, 1e-3)
        for p in trace.adapter.parameters(): p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.zero_grad()
        state = {k: v["exp_avg"].clone() for k, v in optimizer.state_dict()["state"].items()}
        other = Trace(trace.model, trace.tokenizer, trace.adapter, trace.V, *drawn_problems(4), trace.base, optimizer)
        shown, fresh_step = (t("step", settings).step.update for t in (other, trace))
        name = next(iter(shown))
        assert not torch.equal(shown[name], fresh_step[name])
        for k, v in optimizer.state_dict()["state"].items():
            assert torch.equal(v["exp_avg"], state[k]) and int(v["step"]) == 1


@pytest.mark.parametrize("phase", ["generate", "step"])
def test_an_interruption_restores(trace, settings, phase):
    other, before, forwards = fresh(trace), vectors(trace), 0
    if phase == "step": other("project", settings)

    def tick(share, text=""):
        nonlocal forwards
        forwards += 1
        if forwards == 4: raise KeyboardInterrupt

    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt): other(phase, settings, tick)
    assert all(map(torch.equal, vectors(trace), before)) and all(p.grad is None for p in trace.adapter.parameters())
    assert torch.equal(torch.get_rng_state(), state) and not trace.model._forward_pre_hooks
    assert not other.known(phase, settings)
    assert other("generate", settings).completions == trace("generate", settings).completions


def test_shown_likelihoods_are_those_of_the_plain_model(trace, settings):
    "Log-probabilities before and after, from a folded copy with no adapter in it."
    from pgrpo.train.effect import restored
    effect, rollouts = trace("step", settings), trace("generate", settings)

    def plain(model, ids, mask):
        logp = model(ids[None]).logits[0].log_softmax(-1)
        at = mask.nonzero()[:, 0]
        return float(logp[at - 1, ids[at]].sum())

    with restored(trace.adapter), torch.no_grad():
        models = [trace.adapter.fold()]
        for name, m in trace.adapter.items(): m.delta_s.add_(effect.step.update[name])
        models.append(trace.adapter.fold())
        for b in range(0, len(rollouts), 5):
            n = int(rollouts.encoded.attention_mask[b].sum())
            ids, mask = rollouts.encoded.input_ids[b, :n], rollouts.encoded.completion_mask[b, :n]
            before, after = (plain(model, ids, mask) for model in models)
            assert before == pytest.approx(float(effect.before.rollouts[b]), abs=2e-3)
            assert after == pytest.approx(float(effect.trained.rollouts[b]), abs=2e-3)


def test_drawn_numbers_are_the_computed_ones(trace, settings):
    stepper = Stepper(trace, phase="project", group_size=settings.group_size, seed=settings.seed)
    before, after = (t["y"] for t in stepper.plots.figures[0]["data"][:2])
    g = trace("backward", settings).gradients
    for i, name in enumerate(trace.adapter):
        total = torch.stack([g.rollout[name][row] for row in range(len(g.rows))]).double().sum(0)
        if name not in trace.V: continue
        v = trace.V[name].double()
        c = v @ total
        kept = total - c.clamp(min=0) @ v
        assert before[i] == pytest.approx(float(c.clamp(min=0).norm() / total.norm()), abs=1e-5)
        assert after[i] == pytest.approx(float((v @ kept).clamp(min=0).norm() / kept.norm()), abs=1e-5)
    stepper.show("advantage")
    rewards, G = [x.reward for x in trace("grade", settings)], settings.group_size
    for b, r in enumerate(rewards):
        group = rewards[b // G * G:b // G * G + G]
        stepper.groups.value = b // G
        card = stepper.cards.value.split("<article")[1 + b % G]
        assert f"A {r - sum(group) / G:+.3f}".replace("-0.000", "+0.000") in card.replace("-0.000", "+0.000")
    stepper.close()


def test_a_group_without_variance_is_said_and_not_stepped(trace):
    every = (Settings(seed=i, group_size=2) for i in range(40))
    still = next(s for s in every if not trace("advantage", s).advantages.any())
    stepper = Stepper(trace, phase="step", seed=still.seed, group_size=2)
    assert "no gradient and no step" in stepper.words.value and not stepper.plots.panels
    assert stepper.picture()[:4] == b"\x89PNG"
    stepper.close()


def test_closed_and_made_again_it_leaves_nothing_behind(trace, settings):
    def once():
        stepper = Stepper(fresh(trace), group_size=4, seed=settings.seed)
        stepper.controls["seed"].value += 1
        settled(stepper)
        stepper.controls["group_size"].value = 64  # closed while it works
        assert stepper.work.busy
        refs = [weakref.ref(x) for x in (stepper, stepper.trace, stepper.work, stepper.controls["arm"])]
        stepper.close()
        return refs

    before, threads, hooks = alive(), set(threading.enumerate()), len(trace.model._forward_pre_hooks)
    refs = once() + once()
    gc.collect()
    assert alive() == before and set(threading.enumerate()) == threads and len(trace.model._forward_pre_hooks) == hooks
    assert [r() for r in refs] == [None] * len(refs)


@pytest.mark.parametrize("own", [False, True], ids=["its own policy", "a given trace"])
def test_a_cell_that_is_run_again_leaves_one_stepper(trace, settings, own):
    before, comms, threads, hooks = (
        alive(), open_comms(), set(threading.enumerate()), len(trace.model._forward_pre_hooks),
    )
    refs, sizes = [], []
    for _ in range(3):
        stepper = Stepper(fresh(trace) if own else None, group_size=settings.group_size, seed=settings.seed)
        stepper.controls["group_size"].value = 64  # replaced while it works
        assert stepper.work.busy
        refs += [weakref.ref(x) for x in (stepper, stepper.trace, stepper.work)]
        if not own: refs.append(weakref.ref(stepper.trace.model))
        sizes.append((len(alive() - before), len(open_comms() - comms)))
    alone = len(refs) // 3
    gc.collect()
    assert [r() is None for r in refs] == [True] * 2 * alone + [False] * alone
    assert sizes == sizes[:1] * 3 and sum(t.name == "pgrpo work" for t in threading.enumerate()) == 1
    stepper.close()
    del stepper
    gc.collect()
    assert [r() for r in refs] == [None] * len(refs)
    assert alive() == before and open_comms() == comms
    assert set(threading.enumerate()) == threads and len(trace.model._forward_pre_hooks) == hooks


def test_steppers_over_two_models_leave_each_other_alone(trace, settings):
    look = dict(group_size=settings.group_size, seed=settings.seed)
    steppers = [Stepper(t, **look) for t in (fresh(trace), Trace.embedded())]
    assert all(stepper.comm is not None for stepper in steppers)
    for stepper in steppers: stepper.close()


def test_an_error_in_the_work_is_a_sentence_and_the_settings_return(trace, settings, monkeypatch):
    stepper = Stepper(trace, group_size=settings.group_size, seed=settings.seed)
    def broken(*args, **kwargs): raise ValueError("the grader has no room to work in; free some disk space")
    monkeypatch.setattr(pgrpo.train.trace, "generate", broken)
    stepper.controls["seed"].value += 500
    settled(stepper)
    assert "the grader has no room to work in" in stepper.work.note.value
    assert stepper.settings.seed == stepper.controls["seed"].value == settings.seed
    stepper.close()


def test_pieces_of_work_never_overlap():
    running, worst = 0, 0
    def job(tick):
        nonlocal running, worst
        running += 1
        worst = max(worst, running)
        time.sleep(0.02)
        running -= 1
    works = [Work() for _ in range(4)]
    for work in works: work.start(job)
    for work in works: work._thread.join()
    assert worst == 1
    for work in works: work.close()


def test_stop_is_heard_by_the_thread_that_works(trace, settings):
    stepper = Stepper(fresh(trace), group_size=settings.group_size, seed=settings.seed)
    threading.Timer(0.3, stepper.work.button.click).start()
    with pytest.raises(Stopped): stepper.set(group_size=256)
    assert stepper.settings.group_size == stepper.controls["group_size"].value == settings.group_size
    assert STOPPED in stepper.work.note.value and stepper.set(seed=settings.seed).phase == "generate"
    stepper.close()


def test_a_completion_cannot_write_into_the_page(trace, settings):
    from pgrpo.widgets.phases import rollout_cards
    made = {p: trace(p, settings) for p in PHASES}
    r = made["generate"]
    hostile = replace(r, completions=('<img src=x onerror="alert(1)"></pre>',) * len(r))
    for phase in ("generate", "grade", "step"):
        assert "<img" not in rollout_cards(trace.tokenizer, phase, {**made, "generate": hostile}, 0)


def test_what_the_page_reads_is_installed(tmp_path):
    "An installed copy, unlike a checkout, has only what setup.py names."
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    assert {f.name for f in STATIC.iterdir()} == {f.name for f in (tmp_path / "pgrpo/widgets/static").iterdir()}
    named = re.findall(r'STATIC / "([^"]+)"', "".join(f.read_text() for f in (tmp_path / "pgrpo/widgets").glob("*.py")))
    assert set(named) == {f.name for f in STATIC.iterdir()}
