"What is said about runs turns round when the runs do: each finding on made-up runs, on their opposite, and as stored."
import re

import pytest

from pgrpo.experiment.arms import ARM_SETTINGS
from pgrpo.experiment.charts import SCORE_LINES
from pgrpo.experiment.findings import QUESTIONS, finding
from pgrpo.experiment.why import PARTS
from pgrpo.problems import CORE_MODES

SEEDS, STEPS = (0, 1, 2), 30
BASE = (0.03, 0.22)  # hack, solve: before training

# What arms of a made-up world come to: hack, solve, and hack as trained where it is another.
WORLD = {
    "none": (0.65, 0.03), "none KL": (0.57, 0.07), "route": (0.01, 0.02, 0.6), "route rollout": (0.12, 0.2),
    "route deployed": (0.06, 0.26), "ceiling": (0.0, 0.47), "penalty": (0.01, 0.28), "screen": (0.01, 0.28),
    "penalty weak": (0.3, 0.17), "screen weak": (0.3, 0.17), "trusted": (0.45, 0.1), "erase k 12": (0.01, 0.21),
    "erase teacher": (0.55, 0.01),
}


def ends(arm):
    "What an arm of the made-up world comes to: as its kind does, unless WORLD says otherwise."
    if arm in WORLD: return WORLD[arm]
    kinds = {"none": (0.65, 0.03), "advantage": (0.005, 0.28), "erase": (0.04, 0.21), "route": (0.5, 0.05)}
    if arm.startswith("advantage"): return kinds["advantage"]
    return (0.6, 0.05) if {"random", "shuffled", "nonhack"} & set(arm.split()) else kinds[arm.split()[0]]


def rates(hack, solve):
    figures = dict(hack=hack, solve=solve, attempted=hack)
    return {mode: figures for mode in ("mean", *CORE_MODES)}


def made_up(arm, seed, hack, solve, trained=None, **curves):
    "A run that goes in a straight line from the base policy to its end; seeds lie a little apart."
    apart = 0.004 * ((len(arm) + seed) % 3 - 1)
    trained = hack if trained is None else trained
    line = lambda first, last: [first + (last - first) * step / (STEPS - 1) for step in range(STEPS)]
    curves = {key: [value] * STEPS for key, value in (dict(cin=0.5, cin_null=0.2, cout_update=0.02) | curves).items()}
    curves |= dict(hack_deploy=[0.2, hack], solve_deploy=[BASE[1] + 0.1, solve])  # on the way, and at the end
    parts = lambda trained, hack: dict(base=rates(*BASE), trained=rates(trained, solve), deployed=rates(hack, solve))
    return dict(
        arm=arm, seed=seed, config=dict(steps=STEPS, modes=ARM_SETTINGS[arm].get("modes")),
        summary=parts(trained + apart, hack + apart) | dict(closed=parts(0.0, 0.0)),
        curves=dict(hack_s=line(BASE[0], trained), solve_s=line(BASE[1], solve)) | curves,
    )


def runs(changes=None, **curves):
    "All arms of the made-up world, some of which come to something else."
    of = {arm: (changes or {}).get(arm, ends(arm)) for arm in ARM_SETTINGS}
    return [made_up(arm, seed, *end, **curves) for seed in SEEDS for arm, end in of.items()]


def looked(**changes):
    "Measured runs of none and erase in which every step is alike."
    step = dict.fromkeys(SCORE_LINES, 0.5) | dict(auroc=0.8, cin_null=0.2, cout=0.0, cout_update=0.02)
    step |= dict(overlap=0.8, overlap_null=0.07, cin_all=0.5) | {f"cin_{mode}": 0.5 for mode in CORE_MODES} | changes
    steps = [dict(step=i, **step) for i in range(STEPS)]
    return [dict(arm=arm, seed=s, config=dict(steps=STEPS), steps=steps) for arm in ("none", "erase") for s in SEEDS]


def every(pattern, end): return {pattern.format(word): end for word in CORE_MODES}


def controls_of(arm, end): return {f"{arm} {control}": end for control in ("random", "shuffled", "nonhack")}


HACKS, HONEST = (0.65, 0.03), (0.03, 0.275)
def short_of(**parts):
    "Runs of erase that were looked into at two steps, each of which falls short by these parts."
    each = {f"{aim}_{part}": parts.get(part, 0.0) for aim in ("odds", "clean") for part in PARTS}
    each |= {f"{aim}_shortfall": sum(parts.values()) for aim in ("odds", "clean")}
    each |= {key: 0.5 for key in ("hack", "solve", "overlap", "overlap_null", "caught", "caught_anew", "cout_update",
                                  "cin_null", "fired", "passed", "silenced", "gain_beside_hacks", "gain_unpaid")}
    steps = [dict(step=i, **each) for i in (0, 1)]
    return [dict(arm="erase", seed=seed, config=dict(steps=2), steps=steps) for seed in SEEDS]


NO_GAIN = {"ceiling": (0.0, BASE[1])}
TURNED = {  # question: what the made-up world answers, runs of the opposite outcome, what they answer
    "balance": ("yes", [runs(NO_GAIN)], "no"),
    "idle": ("no", [runs(NO_GAIN)], "yes"),
    "idle_before": ("no", [runs(NO_GAIN)], "yes"),
    "reaches": ("no", [runs({"advantage": (0.0, 0.47)})], "yes"),
    "below": ("taken", [short_of(adam=1.0, taken=0.2)], "adam"),
    "worlds": ("yes", [runs({"none": HONEST, "erase": HACKS, "advantage": HACKS}), runs()], "in part"),
    "emerges": ("yes", [runs({"none": HONEST})], "no"),
    "direction": ("yes", [runs({"erase": HACKS})], "no"),
    "controls": ("no", [runs(controls_of("erase", HACKS))], "yes"),
    "cost": ("yes", [runs({"erase": (0.04, 0.47)})], "no"),
    "matched": ("yes", [runs({"erase": (0.3, 0.21)})], "no"),
    "routing": ("no", [runs({"route": (0.02, 0.28, 0.6)})], "yes"),
    "unlabelled": ("yes", [runs(every("erase without {}", HACKS))], "no"),
    "labels": ("in part", [runs({"penalty": HACKS, "screen": HACKS})], "no"),
    "simpler": ("yes", [runs({"advantage": HACKS})], "no"),
    "discount": ("no", [runs(controls_of("advantage", HACKS))], "yes"),
    "discount_folds": ("no", [runs(every("advantage without {}", HACKS))], "yes"),
    "keeping": ("no", [runs({"route rollout": HONEST})], "yes"),
    "settings": ("yes", [runs({"erase k 12": HACKS})], "no"),
    "twelve": ("yes", [runs({"erase k 12": HACKS})], "no"),
    "teacher": ("no", [runs({"erase teacher": HONEST})], "yes"),
    "kl": ("no", [runs({"none KL": HONEST})], "yes"),
    "lasts": ("it lasts", [runs({"erase long": HACKS})], "it is a delay"),
    "tells": ("yes", [looked(auroc=0.5)], "no"),
    "by_mode": ("yes", [looked(**{f"cin_{mode}": 0.1 for mode in CORE_MODES})], "no"),
    "turns": ("yes", [looked(overlap=0.08), runs()], "no"),
}


def words(sentence):
    "A sentence without its numbers and names."
    return re.sub(r"`[^`]*`|[-+\d.%\[\]]+", "", sentence)


def test_every_question_is_turned_round():
    assert set(TURNED) == set(QUESTIONS)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_verdict_follows_from_the_runs(name):
    answer, files = QUESTIONS[name]
    world = dict(main=runs(), old_world=runs(), old_diagnostics=looked(), why=short_of(taken=1.0, adam=0.1))
    verdict, opposite, turned = TURNED[name]
    found, other = answer(*(world[file] for file in files)), answer(*opposite)
    assert (found.verdict, other.verdict) == (verdict, turned)
    assert found.question == other.question
    assert words(found.sentence) != words(other.sentence), found.sentence
    if found.table: assert found.table != other.table


@pytest.mark.parametrize("name", ["balance", "idle", "emerges", "cost", "matched", "reaches", "routing", "lasts",
                                  "twelve", "simpler"])
def test_one_seed_decides_nothing(name):
    answer, _ = QUESTIONS[name]
    assert answer([r for r in runs() if r["seed"] == 0]).verdict == "open"


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_stored_runs_answer_every_question(name):
    found = finding(name)
    assert found.question.endswith("?") and found.sentence.endswith(".")
    assert not re.search(r"nan|None|\{|\}", found.answer), found.answer
    numbers = r"\d %|\d points|\d\.\d\d|[-+]\d+\.\d|\d have the same"
    assert re.search(numbers, found.sentence)  # a verdict stands beside them
