"Runs of a sweep differ by their arm and by nothing else; what is said about the stored runs follows from them."
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from run_notebooks import tidy

from pgrpo.config import Config, preset
from pgrpo.experiment import load_results, sweep
from pgrpo.experiment.arms import ARM_SETTINGS
from pgrpo.train import Trainer, run_problems, step_problems

ROOT = Path(__file__).parents[1]
SAME_PROBLEMS = [arm for arm, settings in ARM_SETTINGS.items() if "modes" not in settings]
TINY = dict(n_pairs=16, refresh=0, eval_problems=1, prompts=2, steps=2)


def first_step(cell):
    "Prompts, completions, rewards and the gradient of a run's first step, before the arm has done anything."
    done, _ = Trainer(cell.config).update()
    return (
        [p.id for p in done.rollouts.problems], done.rollouts.completions, [g.reward for g in done.grades],
        done.gradients.total(),
    )


@pytest.fixture(scope="module")
def left_alone():
    return first_step(sweep(preset("smoke", **TINY), ["none"], [3], "x")[0])


@pytest.mark.parametrize(
    "arm", ["erase", "erase random", "route", "route rollout", "route deployed", "penalty", "erase at update"]
)
def test_the_first_step_is_the_same_for_every_arm(arm, left_alone):
    ids, texts, rewards, g = first_step(sweep(preset("smoke", **TINY), [arm], [3], "x")[0])
    assert (ids, texts, rewards) == left_alone[:3] and len(set(texts)) > 1
    if arm in ("penalty", "route rollout"): return  # these change rewards or baselines, and so the gradient
    for name in g: assert torch.equal(g[name], left_alone[3][name]), name


def test_arms_differ_in_their_own_settings_alone():
    for cell in sweep(preset("demo"), list(ARM_SETTINGS), [0, 1], "x"):
        changed = {k for k, v in asdict(cell.config).items() if v != getattr(Config(), k)} - {"seed"}
        assert changed <= set(ARM_SETTINGS[cell.arm]), cell.arm


def test_every_arm_sees_the_same_prompts_in_the_same_order():
    asked = {}
    for cell in [
        *sweep(preset("demo", n_problems=32, eval_problems=1), SAME_PROBLEMS, [0], "x"),
        *sweep(preset("demo", n_problems=32, eval_problems=1), ["none"], [1], "x"),
    ]:
        problems, held = run_problems(cell.config)
        order = [p.id for p in held], [p.id for step in range(4) for p in step_problems(cell.config, problems, step)]
        assert asked.setdefault(cell.seed, order) == order, cell.arm
    assert asked[0][1] != asked[1][1]


@pytest.mark.parametrize("file", sorted((ROOT / "data" / "results").glob("*.jsonl")), ids=lambda f: f.name)
def test_stored_runs_are_the_arms_that_they_are_called(file):
    runs = load_results(file)
    assert len({(r["arm"], r["seed"]) for r in runs}) == len(runs)
    of_arms = {"seed", *(key for settings in ARM_SETTINGS.values() for key in settings)}
    shared = {key: value for key, value in runs[0]["config"].items() if key not in of_arms}
    for r in runs:
        name, settings, made = (r["arm"], r["seed"]), ARM_SETTINGS[r["arm"]], Config(**r["config"])
        assert {key: r["config"][key] for key in shared} == shared, name
        for key, value in settings.items():
            if key == "steps" and file.name.startswith("old_"): continue  # the demo of the first world had 56
            if key != "pool": assert getattr(made, key) == value, (name, key)
        if "pool" in settings: assert f"none-{r['seed']}" in made.pool, name  # "of none" is the run of the same seed
        else: assert made.pool is None, name
        end = len(r["curves"]["hack_s"]) if "curves" in r else r["steps"][-1]["step"] + 1
        assert end == made.steps and made.seed == r["seed"]


def test_looking_changed_no_run():
    "The runs that were measured at every step end as those that were not."
    plain = {(r["arm"], r["seed"]): r["summary"] for r in load_results(ROOT / "data" / "results" / "old_world.jsonl")}
    looked = load_results(ROOT / "data" / "results" / "old_diagnostics.jsonl")
    assert len(looked) == 6 and all(r["summary"] == plain[r["arm"], r["seed"]] for r in looked)


def words(notebook):
    "What a notebook's cells print and say, pictures left out."
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    said = ["".join(out.get("text") or out.get("data", {}).get("text/markdown", "")) for out in outputs]
    return [text for text in said if text]


@pytest.mark.parametrize("name", ["1_results", "2_old_world"])
def test_every_number_of_the_results_notebooks_follows_from_the_stored_runs(name):
    path = ROOT / "nbs" / "13_results" / f"{name}.ipynb"
    stored, fresh = nbformat.read(path, 4), nbformat.read(path, 4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(fresh, timeout=300, kernel_name="python3", resources=resources).execute()
    said = words(tidy(fresh))
    assert said == words(stored) and len(said) > 8
    prose = " ".join(c.source for c in stored.cells if c.cell_type == "markdown")
    assert " % " not in prose.replace("95 % ", "")  # numbers of runs stand in what is computed


def test_the_arms_keep_their_names_and_their_order():
    stored = [r["arm"] for r in load_results(ROOT / "data" / "results" / "old_world.jsonl")]
    assert set(stored) == set(ARM_SETTINGS)
    first = [arm for arm in dict.fromkeys(r["arm"] for r in load_results(ROOT / "data" / "results" / "main.jsonl"))]
    assert first == [arm for arm in ARM_SETTINGS if arm in first]
