"A run is killed for real, at random moments, and has to end up as if nothing had happened."
import json
import os
import random
import shutil
import signal
import time

import pytest
import torch
from apart import SERVER

from pgrpo.config import preset
from pgrpo.files.tensors import read_tensors
from pgrpo.train import RunFolder, Trainer, run_problems, train

KILLS = int(os.environ.get("PGRPO_TEST_KILLS", 3))
SETTINGS = dict(arm="route", steps=12, refresh=5, eval_every=4, checkpoint_every=3, eval_problems=2)


def timeless(rows):
    return [{k: v for k, v in row.items() if not k.startswith(("sec_", "tokens"))} for row in rows]


def start(folder):
    process = SERVER.Process(target=train, args=(preset("smoke", **SETTINGS), folder), kwargs=dict(progress=False))
    process.start()
    return process


def lines(folder):
    file = RunFolder(folder).rows_file
    return file.read_bytes().count(b"\n") if file.exists() else 0


def same_modules(a, b):
    a, b = RunFolder(a).modules(), RunFolder(b).modules()
    if list(a) != list(b) or not a: return False
    for (ours, about), (theirs, said) in ((read_tensors(a[step]), read_tensors(b[step])) for step in a):
        if (
            about != said
            or set(ours) != set(theirs)
            or not all(torch.equal(ours[k].nan_to_num(-1), theirs[k].nan_to_num(-1)) for k in ours)
        ):
            return False
    return True


def test_sigkill_at_random_steps(tmp_path):
    undisturbed = train(preset("smoke", **SETTINGS), tmp_path / "undisturbed", progress=False)
    rng, folder, kills = random.Random(os.environ.get("PGRPO_TEST_SEED", 0)), tmp_path / "killed", 0
    while kills < KILLS:
        process, target, delay = start(folder), rng.randint(0, SETTINGS["steps"] - 2), rng.random() * 0.3
        while process.is_alive() and lines(folder) <= target: time.sleep(0.01)
        time.sleep(delay)
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        # it finished before it could be killed: once more from the start
        if process.exitcode == 0: shutil.rmtree(folder)
        else: assert process.exitcode == -signal.SIGKILL
    resumed = train(preset("smoke", **SETTINGS), folder, progress=False)
    assert resumed == undisturbed
    assert timeless(RunFolder(folder).rows()) == timeless(RunFolder(tmp_path / "undisturbed").rows())
    assert RunFolder(folder).rollouts() == RunFolder(tmp_path / "undisturbed").rollouts()
    assert RunFolder(folder).probes() == RunFolder(tmp_path / "undisturbed").probes()
    assert same_modules(folder, tmp_path / "undisturbed")
    assert RunFolder(folder).summary() == undisturbed


def test_checkpoint_of_another_model_or_damaged(tmp_path):
    for row in Trainer(preset("smoke", checkpoint_every=1), tmp_path / "a").steps(): break
    config = tmp_path / "a" / "config.json"
    saved = json.loads(config.read_text())
    saved["config"]["rank"] = 16
    config.write_text(json.dumps(saved))
    for row in Trainer(preset("smoke", checkpoint_every=1), tmp_path / "b").steps(): break
    with pytest.raises(ValueError, match="belongs to another model"):
        (tmp_path / "a" / "ckpt" / "last.pt").write_bytes((tmp_path / "b" / "ckpt" / "last.pt").read_bytes())
        Trainer(preset("smoke", checkpoint_every=1, rank=16), tmp_path / "a")
    file = tmp_path / "b" / "ckpt" / "last.pt"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ValueError, match="last.pt is damaged"):
        Trainer(preset("smoke", checkpoint_every=1), tmp_path / "b")


def test_rows_damaged_in_the_middle_name_the_line(tmp_path):
    train(preset("smoke", steps=2), tmp_path / "run", progress=False)
    rows = tmp_path / "run" / "rows.jsonl"
    rows.write_text("{oops\n" + rows.read_text())
    with pytest.raises(ValueError, match="rows.jsonl, line 1"):
        RunFolder(tmp_path / "run").rows()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OSError, match="choose another with --run-dir"):
        train(preset("smoke"), tmp_path / "locked" / "run", progress=False)


def test_run_dir_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose another with --run-dir"):
        train(preset("smoke"), tmp_path / "file" / "run", progress=False)


@pytest.mark.parametrize(
    "settings",
    [
        dict(arm="erase", project_at="update"), dict(arm="route", gate="no_gate", overshoot=1.5),
        dict(arm="erase", gate="reverse"), dict(arm="erase", control="shuffled"),
        dict(arm="erase", control="nonhack", preserve_magnitude=True), dict(arm="route", control="random"),
        dict(beta=0.01, inner_steps=2), dict(classic=True), dict(micro_batch=3), dict(rank=32),
        dict(modes=("gt_only",)), dict(pair_modes=("run_tests", "sentinel")),
        dict(tau=0.2, global_floor=None, normalize="sum"),
        dict(problems="handwritten", pairs="handwritten", teacher_share=0.25, pool="handwritten", max_new_tokens=32),
        dict(max_grad_norm=None, weight_decay=0.1), dict(acts_on="rollout"), dict(arm="route", rollouts_of="deployed"),
        dict(arm="penalty"), dict(arm="screen", monitor=("sentinel",)), dict(arm="advantage", control="nonhack"),
        dict(arm="trusted"),
    ],
    ids=lambda s: " ".join(map(str, s.values())),
)
def test_every_setting_runs(settings):
    rows = list(Trainer(preset("smoke", steps=1, refresh=0, eval_every=0, eval_problems=1, **settings)).steps())
    assert len(rows) == 1 and 0 <= rows[0]["reward"] <= 1.25


@pytest.mark.parametrize("settings", [dict(arm="erase"), dict(arm="route", acts_on="rollout"), dict(arm="advantage")])
def test_no_backward_holds_more_than_a_micro_batch(settings):
    trainer, sizes = Trainer(preset("smoke", refresh=0, micro_batch=3, **settings)), []
    count = lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])) if torch.is_grad_enabled() else None
    trainer.model.register_forward_pre_hook(count, with_kwargs=True)
    trainer.state.step = 1  # past the first, V does not come out of the cache
    trainer.extract()
    trainer._prepare()
    trainer.update()
    assert max(sizes) == 3


def test_one_process_writes_into_a_folder(tmp_path):
    folder = tmp_path / "run"
    other = start(folder)
    while other.is_alive() and not lines(folder): time.sleep(0.01)
    os.kill(other.pid, signal.SIGSTOP)  # in the middle of its run
    with pytest.raises(ValueError, match="another process is writing"):
        train(preset("smoke", **SETTINGS), folder, progress=False)
    before = lines(folder)
    other.kill()
    other.join()
    assert lines(folder) == before
    gone_on = Trainer(preset("smoke", **SETTINGS), folder, progress=False)
    assert gone_on.state.step == before // SETTINGS["checkpoint_every"] * SETTINGS["checkpoint_every"] == lines(folder)


def test_a_run_that_could_not_begin_leaves_its_folder_free(tmp_path, monkeypatch):
    with pytest.raises(OSError):
        train(preset("smoke", steps=1, policy=str(tmp_path / "nowhere")), tmp_path / "run", progress=False)
    with monkeypatch.context() as patch:
        def fails(self): raise ValueError("these pairs do not do")
        patch.setattr(Trainer, "extract", fails)
        with pytest.raises(ValueError, match="these pairs"):
            train(preset("smoke", steps=1, k=3), tmp_path / "run", progress=False)
    (tmp_path / "run" / "config.json").rename(tmp_path / "run" / "config.json.tmp")  # as a kill leaves it
    assert train(preset("smoke", steps=1), tmp_path / "run", progress=False)
    assert RunFolder(tmp_path / "run").config().policy == "embedded"


def test_a_run_may_go_on_in_smaller_portions(tmp_path):
    settings = dict(steps=4, refresh=0, eval_every=0, checkpoint_every=2)
    for row in Trainer(preset("smoke", **settings), tmp_path, progress=False).steps():
        if row["step"] == 2: break
    train(preset("smoke", **settings, micro_batch=1, checkpointing=True), tmp_path, progress=False)
    assert [row["step"] for row in RunFolder(tmp_path).rows()] == [0, 1, 2, 3]
    assert RunFolder(tmp_path).config().micro_batch == 1
    with pytest.raises(ValueError, match="already holds another run .lr is"):
        train(preset("smoke", **settings, lr=1e-3), tmp_path, progress=False)


def test_one_folded_copy_at_a_time(tmp_path):
    config, held = preset("smoke", arm="route", refresh=0, probe_every=1, eval_every=1), []
    trainer = Trainer(config, tmp_path, progress=False)
    adapter = trainer.state.adapter
    with torch.no_grad():
        for m in adapter.values(): m.delta_s.normal_(std=0.05), m.delta_s_hack.normal_(std=0.05)

    def count(*_):
        copies = ({id(w) for w in m.effective.weights if w is not None and w is not m.weight} for m in adapter.values())
        held.append(max(map(len, copies)))
    trainer.model.register_forward_hook(count)
    steps = trainer.steps()
    next(steps), next(steps)
    trainer.finish()
    assert max(held) == 1


def test_few_held_out_problems_are_asked_several_times():
    _, held = run_problems(preset("fast"))
    modes = {mode: [p.id for p in held if p.mode == mode] for mode in preset("fast").modes}
    assert {len(ids) for ids in modes.values()} == {8} and all(1 < len(set(ids)) < 8 for ids in modes.values())
