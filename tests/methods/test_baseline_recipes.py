"""The recipes of CAM and its regularisers stand for the cells they name."""

import pytest

from wsolfast.recipe import load_recipe

METHODS = ("cam", "has", "cutmix", "adl", "acol", "spg")
NETWORKS = {"vgg16": "vgg16", "inception": "inception_v3", "resnet50": "resnet50"}


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
