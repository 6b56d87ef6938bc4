"A new arm is a module of its own and a line in the registry: whatever lists arms has it, and it acts everywhere."
import subprocess
import sys

import pytest
import torch

from pgrpo.config import Config, preset
from pgrpo.experiment.arms import ARM_SETTINGS
from pgrpo.figures.palette import color, dash
from pgrpo.grpo import Intervention
from pgrpo.strategies import OF_ARMS, STRATEGIES, refusal, unprepared
from pgrpo.strategies.strategy import Strategy
from pgrpo.train import Trainer

NEW_ARM = """
from typing import ClassVar

import pgrpo.strategies as room
from pgrpo.figures.palette import register
from pgrpo.strategies.arms import Erase


class Half(Erase):
    name: ClassVar = "half"
    about: ClassVar = "remove half of the hack-ward part"
    color: ClassVar = "#6a5acd"

    def divide(self, whole, kept, removed):
        return {name: (g + kept[name]) / 2 for name, g in whole.items()}, None


room.STRATEGIES["half"] = Half  # the one line
register(Half.name, Half.color)

import torch

from pgrpo.config import Config, preset
from pgrpo.experiment.arms import ARM_SETTINGS
from pgrpo.figures.palette import color
from pgrpo.flags import Parser, train_flags
from pgrpo.train import Trainer
from pgrpo.train.trace import Settings, Trace
from pgrpo.widgets.stepper import Stepper

assert Config(arm="half", control="random").label == "half random"
assert ARM_SETTINGS["half shuffled"] == dict(arm="half", control="shuffled")
assert color("half") == "#6a5acd" and color("half random") == color("random")
parser = Parser()
train_flags(parser)
assert "erase|route" in parser.format_help().replace("\\n", "") and "|half" in parser.format_help()

trainers = {arm: Trainer(preset("smoke", arm=arm, group_size=8), progress=False) for arm in ("none", "erase", "half")}
done = {arm: trainer.update()[0] for arm, trainer in trainers.items()}
found = {arm: update.projected for arm, update in done.items()}
assert found["none"].cin == found["half"].cin > 0
steps = {arm: torch.cat(list(update.step.update.values())) for arm, update in done.items()}
assert not torch.equal(steps["half"], steps["none"]) and not torch.equal(steps["half"], steps["erase"])

trace = Trace.embedded()
s = trace.eventful(Settings(arm="half", group_size=4))
g, kept = trace("backward", s).gradients.total(), trace("project", s)
for name, whole in g.items():
    assert torch.allclose(kept.grad[name], whole - kept.projected.removed[name] / 2, atol=1e-6)
assert "half" in str(Stepper(trace).controls["arm"].options)
"""


def test_a_new_arm_is_a_module_and_a_line():
    done = subprocess.run([sys.executable, "-c", NEW_ARM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_a_strategy_declares_holds(name):
    strategy = STRATEGIES[name]
    assert (color(name), dash(name)) == (strategy.color, strategy.dash)
    assert Config(arm=name).label == name and (name == "none" or ARM_SETTINGS[name] == dict(arm=name))
    for setting in OF_ARMS:
        field = Config.__dataclass_fields__[setting]
        other = {"control": "random", "gate": "no_gate", "project_at": "update", "acts_on": "rollout", "overshoot": 2.0,
                 "preserve_magnitude": True, "rollouts_of": "deployed", "monitor": ("sentinel",)}[setting]
        assert other != field.default
        if setting in strategy.settings:
            assert getattr(Config(arm=name, **{setting: other}), setting) == other
        else:
            with pytest.raises(ValueError) as refused: Config(arm=name, **{setting: other})
            assert str(refused.value) == refusal(strategy, setting, other)


@pytest.mark.parametrize("name", [name for name, s in STRATEGIES.items() if not s.anytime])
def test_an_arm_that_has_to_be_prepared_is_refused_by_name(name):
    with pytest.raises(ValueError, match="has to be prepared"): Intervention(name)
    assert name not in unprepared()


@pytest.mark.parametrize("name", unprepared())
def test_what_a_stepper_may_have_acts_on_gradients_alone(name):
    made = STRATEGIES[name]()
    for place in ("rewards", "flags"): assert getattr(type(made), place) is getattr(Strategy, place)
    assert not made.sets_aside and made.detector is None


@pytest.mark.parametrize("name", STRATEGIES)
def test_labels_go_to_those_alone_that_declare_them(name, monkeypatch):
    trainer, asked = Trainer(preset("smoke", arm=name), progress=False), []
    flags = type(trainer.strategy).flags

    def watched(self, scores, labels):
        asked.append(labels)
        return flags(self, scores, labels)

    monkeypatch.setattr(type(trainer.strategy), "flags", watched)
    torch.manual_seed(0)
    trainer.update()
    [labels] = asked
    assert (labels is not None) == (STRATEGIES[name].needs == "labels")
