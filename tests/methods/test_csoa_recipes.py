"""The recipes of CSoA differ where the paper's rows differ."""

from dataclasses import asdict

import pytest
import torch

from wsolfast.engine.assembly.build import build_method
from wsolfast.engine.assembly.optimizer import rate_at
from wsolfast.recipe import RecipeError, list_recipes, load_recipe

RECIPES = [name for name in list_recipes() if load_recipe(name).stage[0].method == "csoa"]
# Table 1 and 2: options that a row sets apart from the whole method.
ROWS = {
    "base": {"conf_seg": False, "co_aug": False},
    "confseg": {"co_aug": False},
    "coaug": {"conf_seg": False},
    "3_5": {"early": "conv3"},
    "5_5": {"early": "conv5"},
}


@pytest.mark.parametrize("name", [name for name in RECIPES if load_recipe(name).stage[0].backbone.layout == "csoa28"])
def test_maps_are_as_fine_as_the_layout_says(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        method = build_method(recipe, recipe.stage[0], 30, pretrained=False)
        found = method.localize(torch.empty(1, 3, 224, 224), topk=2)
    assert found.localization_map.shape == (1, 2, 28, 28)


@pytest.mark.parametrize("row", ROWS)
def test_rows_differ_in_their_options_alone(row):
    other, whole = asdict(load_recipe(f"ablation/csoa_cub_vgg16_{row}")), asdict(load_recipe("csoa_cub_vgg16"))
    models = [recipe["stage"][0].pop("model") for recipe in (other, whole)]
    assert models[1] | ROWS[row] | models[0] == models[1] | ROWS[row]
    assert {key: models[0].get(key) for key in ROWS[row]} == ROWS[row]
    for key in ("name", "summary", "paper"):
        other.pop(key), whole.pop(key)
    assert other == whole


def test_rate_falls_every_epoch():
    schedule = load_recipe("csoa_cub_vgg16").stage[0].schedule
    for step, epoch in ((0, 0), (124, 0), (125, 1), (1250, 10)):
        assert rate_at(schedule, step, 125, 100) == pytest.approx(0.95**epoch)
    with pytest.raises(RecipeError, match="exponential takes one gamma"):
        load_recipe("csoa_cub_vgg16", ["stage.schedule.milestones=[3]"])
