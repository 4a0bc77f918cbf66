"""Checkpoints of a stage: when one is due, and whose run it continues."""

import time
from dataclasses import replace

import pytest
import torch

from wsolfast.engine.assembly.build import build_method
from wsolfast.engine.assembly.optimizer import build_optimizer
from wsolfast.engine.run import distributed
from wsolfast.engine.training.checkpointer import Checkpointer
from wsolfast.engine.training.order import TrainPosition
from wsolfast.recipe import RecipeError, RuntimeSpec


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the process believes in; set ``clock[0]``."""
    seconds = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    return seconds


def checkpointer(folder, **runtime):
    return Checkpointer(folder, RuntimeSpec(**runtime), identity="a recipe", images=20)


@pytest.fixture
def parts(tiny):
    """The tiny recipe's network and its optimizer, after a step."""
    stage = tiny().stage[0]
    method = build_method(tiny(), stage, 2)
    optimizer = build_optimizer(method, replace(stage.optim, momentum=0.9), "stage.optim")
    sum(parameter.square().sum() for parameter in method.parameters()).backward()
    optimizer.step()
    return method, optimizer


def test_one_is_due_by_steps_and_by_minutes_since_the_last(tmp_path, clock, parts):
    checkpoints = checkpointer(tmp_path, save_every_steps=3, save_every_minutes=2)
    assert [checkpoints.is_due(step) for step in range(1, 7)] == [False, False, True] * 2
    clock[0] += 119.9
    assert not checkpoints.is_due(1)
    clock[0] += 0.1
    assert checkpoints.is_due(1)
    checkpoints.save(TrainPosition(0, 1, 1), *parts)
    assert not checkpoints.is_due(1)


def test_the_first_process_alone_finds_one_due(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert not checkpointer(tmp_path, save_every_steps=1).is_due(1)


def test_what_was_saved_is_restored(tmp_path, parts, tiny):
    saved = TrainPosition(epoch=1, step_in_epoch=2, step=5)
    checkpointer(tmp_path).save(saved, *parts)
    torch.manual_seed(99)
    method = build_method(tiny(), tiny().stage[0], 2)
    optimizer = build_optimizer(method, replace(tiny().stage[0].optim, momentum=0.9), "stage.optim")
    checkpoints = checkpointer(tmp_path)
    assert checkpoints.restore(checkpoints.load(print), method, optimizer) == saved
    for name, tensor in parts[0].state_dict().items():
        assert torch.equal(method.state_dict()[name], tensor), name
    momenta, twins = (one.state_dict()["state"] for one in (parts[1], optimizer))
    assert momenta.keys() == twins.keys() != set()
    assert all(torch.equal(twins[k]["momentum_buffer"], momenta[k]["momentum_buffer"]) for k in momenta)


def test_before_the_first_step_there_is_none(tmp_path):
    assert checkpointer(tmp_path).load(print) is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"identity": "another", "images": 20}, "written under another recipe"),
        ({"identity": "a recipe", "images": 21}, "written with 20 training images, now 21"),
    ],
)
def test_one_of_another_recipe_or_of_other_images_is_refused(tmp_path, parts, other, message):
    checkpointer(tmp_path).save(TrainPosition(), *parts)
    with pytest.raises(RecipeError, match=message):
        Checkpointer(tmp_path, RuntimeSpec(), **other).load(print)
