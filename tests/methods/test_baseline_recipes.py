"""The recipes of CAM and its regularisers stand for the cells they name."""

import pytest

from wsolfast.recipe import as_measured, load_recipe

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


# GT-known Loc, Peak-IoU, Peak-T.
TABLE_3 = {
    "cam": {"plain": (64.09, 53.59, 33), "sem": (62.67, 51.39, 74), "scg": (66.79, 56.38, 79)},
    "has": {"plain": (65.32, 54.99, 50), "sem": (63.06, 51.59, 79), "scg": (68.31, 57.29, 92)},
    "acol": {"plain": (63.28, 50.89, 52), "sem": (59.92, 48.92, 83), "scg": (65.45, 52.45, 132)},
    "cutmix": {"plain": (64.65, 54.54, 34), "sem": (63.84, 52.02, 79), "scg": (68.23, 56.96, 83)},
    "spg": {"plain": (64.19, 53.76, 33), "sem": (63.08, 51.74, 84), "scg": (66.78, 56.40, 89)},
    "adl": {"plain": (63.64, 52.87, 29), "sem": (62.38, 50.01, 72), "scg": (66.08, 56.01, 76)},
}


@pytest.mark.parametrize("method", TABLE_3)
def test_cells_of_spas_table_3(method):
    for name, published in TABLE_3[method].items():
        recipe = as_measured(load_recipe(f"wsolevaluation/{method}_ilsvrc_inception", [f"evaluate.variant={name}"]))
        assert (recipe.evaluate.post, recipe.evaluate.protocol) == (name.replace("plain", "none"), "spa")
        assert recipe.paper.numbers() == dict(
            zip(("gt_known_loc", "peak_iou", "peak_threshold"), published, strict=True)
        )


def test_sem_lowers_and_scg_raises_every_row_of_spas_table_3():
    """The paper's claim, and a guard against a slip in a number."""
    for cells in TABLE_3.values():
        plain, sem, scg = cells["plain"], cells["sem"], cells["scg"]
        for column in (0, 1):
            assert sem[column] < plain[column] < scg[column]
        assert plain[2] < sem[2] < scg[2]
