"""A stage that starts from an earlier one takes over what its method says."""

import pytest
import torch

from wsolfast.engine.assembly.network import load_method
from wsolfast.engine.assembly.preflight import check_stages
from wsolfast.engine.assembly.stage_refs import StageRef
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.stage import build_method
from wsolfast.engine.training.train import train
from wsolfast.recipe import RecipeError, load_recipe

SMALL = [f"data.options.num_{split}=4" for split in ("train", "val", "test")]
SMALL += ["data.resize=64", "data.options.size=64", "runtime.workers=0", "runtime.device=cpu"]


def recipe_of(*overrides):
    """I2C after CAM on a few images; each stage takes one step, I2C none."""
    stages = [
        "stage.localizer.epochs=1",
        "stage.localizer.batch_size=4",
        "stage.i2c.epochs=0",
        "stage.i2c.batch_size=4",
    ]
    return load_recipe("demo_baselines/i2c", [*SMALL, *stages, *overrides])


def test_i2c_starts_from_the_backbone_and_the_head_of_cam(tmp_path):
    run = RunFolder.create(tmp_path / "run", recipe_of())
    train(run)
    run.weights_path("i2c").unlink()
    cam, i2c = (load_method(run, StageRef(run.recipe, stage), 8).state_dict() for stage in run.recipe.stage)
    assert set(i2c) - set(cam) == {"bank", "count"}
    assert all(torch.equal(i2c[name], value) for name, value in cam.items())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "stage.localizer.model.head=conv2",
            r"the head of stage 'localizer' does not fit at \d tensors, first 'hidden",
        ),
        ("stage.localizer.num_classes=9", "the head of stage 'localizer' does not fit at 2 tensors, first 'classifier"),
    ],
)
def test_a_head_that_does_not_fit_is_told_before_the_first_stage_is_trained(change, told):
    recipe = recipe_of(change)
    first = recipe.stage[0]
    with pytest.raises(RecipeError, match=f"stage.i2c.backbone.weights: {told}.*; give both stages the same"):
        check_stages(recipe, 8, first, build_method(recipe, first, 8))


def test_a_batch_size_that_the_method_refuses_is_a_mistake_in_the_recipe(tmp_path):
    recipe = recipe_of("stage.i2c.epochs=1", "stage.i2c.batch_size=3", "stage.localizer.epochs=0")
    with pytest.raises(RecipeError, match=r"stage\.i2c: i2c: batch_size: expected an even number, for pairs, got 3"):
        train(RunFolder.create(tmp_path / "run", recipe))
