"""The recipes of CAM and its regularisers can be built, and stand for the cells they name."""

import pytest
import torch

from wsolfast.engine.build import build_method, build_optimizer, eval_protocol, refine
from wsolfast.recipe import list_recipes, load_recipe

METHODS = ("cam", "has", "cutmix", "adl", "acol", "spg")
RECIPES = [name for name in list_recipes() if all(stage.method in METHODS for stage in load_recipe(name).stage)]
NETWORKS = {"vgg16": "vgg16", "inception": "inception_v3", "resnet50": "resnet50"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds(name):
    recipe = load_recipe(name)
    if recipe.stage[-1].backbone.name.startswith("timm:"):
        pytest.importorskip("timm", reason="the recipe's network comes from timm")
    (stage,) = recipe.stage
    if stage.model.get("head") == "pretrained":
        # Its head comes with the weights, which are not here.
        stage.model["head"] = "linear"
    with torch.device("meta"):
        method = build_method(recipe, stage, 30, pretrained=False)
    build_optimizer(method, stage.optim, "stage.optim")
    refine(method, recipe.evaluate)
    eval_protocol(recipe)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", ["cub", "ilsvrc", "openimages"])
@pytest.mark.parametrize("network", NETWORKS)
def test_benchmark_has_every_cell(method, dataset, network):
    recipe = load_recipe(f"wsolevaluation/{method}_{dataset}_{network}")
    assert (recipe.stage[0].method, recipe.data.name) == (method, dataset)
    assert recipe.stage[0].backbone.name == NETWORKS[network]
    assert recipe.evaluate.protocol == "wsolevaluation"
    (published,) = recipe.paper.numbers().items()
    assert published[0] == ("px_ap" if dataset == "openimages" else "max_box_acc_v2")
    assert published[1] > 50


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("cam_cub_vgg16", {"max_box_acc_v2": 63.7}),
        ("acol_cub_vgg16", {"max_box_acc_v2": 57.4}),
        ("has_ilsvrc_vgg16", {"max_box_acc_v2": 60.6}),
        ("cutmix_cub_inception", {"max_box_acc_v2": 57.5}),
        ("cam_openimages_vgg16", {"px_ap": 58.3}),
        ("spg_openimages_inception", {"px_ap": 62.3}),
        ("acol_openimages_resnet50", {"px_ap": 57.3}),
    ],
)
def test_cells_of_the_benchmark(name, published):
    assert load_recipe(f"wsolevaluation/{name}").paper.numbers() == published
