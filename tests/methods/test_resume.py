"""Every stage of every method, interrupted between two steps, ends with the bits of an uninterrupted run."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from wsolfast.engine.assembly.stage_refs import fits
from wsolfast.engine.run.errors import Interrupted
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.methods import get_stage, list_methods
from wsolfast.recipe import list_recipes, load_recipe

EPOCHS, STEPS = 2, 2
STOP_AT = 3  # in the middle of the second epoch


def demo_of(method):
    """Return the method's demo recipe; that of "cam-tap" is CAM's with another pooling."""
    method, _, pool = method.partition("-")
    (name,) = (name for name in list_recipes() if name.startswith("demo") and name.rpartition("/")[2] == method)
    pooled = [f"stage.model.pool={pool}"] if pool else []
    return load_recipe(name, ["runtime.workers=0", "runtime.device=cpu", *pooled])


METHODS = [*list_methods(), "cam-tap", "adl-tap"]
STAGES = [(method, stage.name) for method in METHODS for stage in demo_of(method).stage]


def tiny(method):
    """Return the method's demo recipe, every stage for four steps."""
    recipe = demo_of(method)
    batch = 12
    images = {"size": 64, "num_train": STEPS * batch, "num_val": 2, "num_test": 2}
    data = replace(recipe.data, options=recipe.data.options | images)
    # A class has six images.
    stages = tuple(
        replace(stage, batch_size=2) if fits(stage) else replace(stage, epochs=EPOCHS, batch_size=batch)
        for stage in recipe.stage
    )
    return replace(recipe, data=data, stage=stages)


def tensors_of(value, path=""):
    """Every tensor and plain value of a nested checkpoint, by its path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in tensors_of(item, f"{path}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for index, item in enumerate(value) for k, v in tensors_of(item, f"{path}/{index}").items()}
    return {path: value}


def left_by(run, stage):
    """The last checkpoint of a stage; of one that is fitted, which needs none at its end, the weights."""
    weights = run.weights_path(stage.name)
    if fits(stage):
        return load_file(weights)
    return tensors_of(torch.load(weights.with_name("last.ckpt"), weights_only=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs by method."""
    runs = {}

    def of(method):
        if method not in runs:
            runs[method] = RunFolder.create(tmp_path_factory.mktemp(method) / "whole", tiny(method))
            train(runs[method])
        return runs[method]

    return of


@pytest.mark.parametrize(("method", "stage"), STAGES)
def test_a_stopped_stage_continues_bit_for_bit(method, stage, whole, tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "stopped", tiny(method))
    stage_method = get_stage(next(spec.method for spec in run.recipe.stage if spec.name == stage))
    name, stopped = "training_step", f"stopped at step {STOP_AT}"
    if stage_method.fits:
        name, stopped = "fit_batch", "stopped after "
    step, steps = getattr(stage_method, name), []

    def interrupted_step(self, *given):
        steps.append(given)
        if len(steps) == STOP_AT:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *given)

    monkeypatch.setattr(stage_method, name, interrupted_step)
    with pytest.raises(Interrupted, match=stopped):
        train(run)
    torch.rand(7)
    train(RunFolder(run.path))
    for stage in run.recipe.stage:
        expected, found = left_by(whole(method), stage), left_by(run, stage)
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            same = torch.equal(found[path], value) if isinstance(value, torch.Tensor) else found[path] == value
            assert same, f"{stage.name}: {path}"
