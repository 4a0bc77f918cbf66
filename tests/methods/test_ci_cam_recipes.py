"""The recipes of NL-CCAM and CI-CAM differ where the papers' rows differ."""

from dataclasses import asdict

import pytest
import torch

from wsolfast.engine.assembly.build import build_method
from wsolfast.engine.assembly.optimizer import rate_at
from wsolfast.recipe import list_recipes, load_recipe

RECIPES = [name for name in list_recipes() if load_recipe(name).stage[0].method in ("ci_cam", "nl_ccam")]


def enhances(stage):
    return stage.method == "ci_cam" and stage.model.get("enhance") != "none"


@pytest.mark.parametrize("name", [name for name in RECIPES if enhances(load_recipe(name).stage[0])])
def test_context_pool_has_the_resolution_of_the_features(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        method = build_method(recipe, recipe.stage[0], 30, pretrained=False)
        side = recipe.data.crop or recipe.data.options["size"]
        features = method.features(torch.empty(1, 3, side, side))[method.last_stage]
    assert method.pool.maps.shape[1:] == features.shape[2:]


@pytest.mark.parametrize("name", [name for name in RECIPES if "lambda" in name])
def test_lambda_rows_differ_in_lambda_alone(name):
    row, base = asdict(load_recipe(name)), asdict(load_recipe("cicam_cub_vgg16"))
    assert row["stage"][0]["model"].pop("pool_lambda") == float(name.rpartition("_")[2])
    assert base["stage"][0]["model"].pop("pool_lambda") == 0.01
    for key in ("name", "summary", "paper"):
        row.pop(key), base.pop(key)
    assert row == base


def test_there_is_a_row_for_every_published_lambda():
    found = {float(name.rpartition("_")[2]) for name in RECIPES if "lambda" in name}
    assert found == {0.001, 0.002, 0.005, 0.02, 0.04, 0.08}


def test_inception_rate_falls_twice():
    schedule = load_recipe("cicam_cub_inception").stage[0].schedule
    for epoch, factor in ((0, 1.0), (49, 1.0), (50, 0.5), (85, 0.05)):
        assert rate_at(schedule, epoch, 1, 100) == pytest.approx(factor * (1 - epoch / 100) ** 0.9)


def test_blocks_of_the_two_ilsvrc_variants():
    for name, blocks, channels in (("paper", 4, 512), ("kg", 3, 1024)):
        recipe = load_recipe(f"cicam_ilsvrc_vgg16_{name}")
        with torch.device("meta"):
            method = build_method(recipe, recipe.stage[0], 1000, pretrained=False)
        found = [child for child, _ in method.backbone.named_children() if child.startswith("non_local_")]
        assert len(found) == blocks
        assert method.classifier.in_features == channels
