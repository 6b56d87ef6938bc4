"What the explorer shows of a run is what its files say."
import gc
import weakref

import pytest

pytest.importorskip("anywidget")
from pgrpo.config import preset
from pgrpo.train import RunFolder, train
from pgrpo.widgets.explorer import Explorer, choose, kind
from pgrpo.widgets.frame import alive


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "route"
    train(preset("smoke", arm="route", log_rollouts=16), folder, progress=False)
    return folder


def test_shares_and_texts_are_the_files(run):
    explorer, lines = Explorer(run), RunFolder(run).rollouts()
    explorer.steps.value = 0, 5
    for mode in explorer.mode.options:
        explorer.mode.value = mode
        for what in explorer.what.options:
            explorer.what.value = what
            assert explorer.chosen() == [
                l
                for l in lines
                if mode in ("any", l["mode"])
                and (what == "any" or (l[what] if what in ("attempted", "accidental") else kind(l) == what))
            ]
            assert explorer._texts.value.count("<article") == min(12, len(explorer.chosen()))
        mine = choose(lines, mode)
        hack = next(t for t in explorer._plot.figure["data"] if t["name"] == "hack")
        for step, share in zip(dict.fromkeys(l["step"] for l in mine), hack["y"]):
            here = [l for l in mine if l["step"] == step]
            assert share == pytest.approx(sum(l["exploited"] for l in here) / len(here))
    explorer.close()


def test_one_prompt_over_training(run):
    explorer, probes = Explorer(run), RunFolder(run).probes()
    explorer.view.value = "prompt"
    for _, problem in explorer.problem.options:
        explorer.problem.value = problem
        for deployed in (False, True):
            explorer.deployed.value = deployed
            assert explorer.chosen() == [l for l in probes if l["problem"] == problem and l["deployed"] == deployed]
    explorer.close()


def test_opening_and_closing_leaves_nothing_behind(run):
    gc.collect()
    before = len(alive())
    explorer = Explorer(run)
    explorer.view.value = "prompt"
    gone = weakref.ref(explorer)
    explorer.close()
    del explorer
    gc.collect()
    assert gone() is None and len(alive()) == before
