import os
import signal
from dataclasses import replace

import pytest

from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.metrics import PROTOCOLS
from wsolfast.recipe import parse_recipe

TINY = """
summary = "a recipe that trains in a second"
[data]
name = "synthetic"
resize = 40
crop = 32
[data.options]
num_classes = 2
size = 48
num_train = 20
num_val = 6
num_test = 10
[[stage]]
name = "localizer"
method = "cam"
epochs = 2
batch_size = 8
[stage.backbone]
name = "small"
[stage.optim]
lr = 0.01
nesterov = true
[stage.optim.lr_factors]
head_weight = 2.0
[stage.schedule]
name = "step"
milestones = [1]
[evaluate]
protocol = "wsolevaluation"
batch_size = 4
[runtime]
workers = 0
device = "cpu"
"""


@pytest.fixture
def tiny():
    """Makes the tiny recipe with overrides."""
    return lambda *overrides: parse_recipe(TINY, "tiny", overrides)


@pytest.fixture
def tiny_file(tmp_path):
    """The tiny recipe as a file."""
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return file


@pytest.fixture
def coarse_sweep(monkeypatch):
    """The benchmark's sweep in steps of 0.05 instead of 0.001: as good for testing what is done with it."""
    full = PROTOCOLS["wsolevaluation"]
    coarse = replace(full, thresholds=tuple(k * 0.05 for k in range(20)))
    monkeypatch.setitem(PROTOCOLS, "wsolevaluation", coarse)


@pytest.fixture
def trained(tiny, tmp_path, coarse_sweep):
    """A finished run of the tiny recipe."""
    run = RunFolder.create(tmp_path / "run", tiny())
    train(run)
    return run


@pytest.fixture
def interrupt(monkeypatch):
    """Sends a SIGTERM in one call of a class's method, counted from 1; returns the arguments of every call."""

    def at(owner, name, count):
        calls, original = [], getattr(owner, name)

        def counted(self, *arguments):
            calls.append(arguments)
            if len(calls) == count:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, *arguments)

        monkeypatch.setattr(owner, name, counted)
        return calls

    return at
