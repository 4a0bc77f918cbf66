"""The recipes of SPOL differ where the paper's rows differ."""

from dataclasses import asdict

import pytest

from wsolfast.engine.assembly.build import classifier_view
from wsolfast.engine.assembly.optimizer import rate_at
from wsolfast.engine.assembly.stage_refs import classifier_of, localizer_of
from wsolfast.metrics import get_protocol
from wsolfast.recipe import load_recipe

ABLATION = "ablation/spol_cub_resnet50_"
# Tables 3 and 4: stage and options that a row sets apart from the whole method.
ROWS = {
    "no_aux": ("cam", {"loss": "cls_only"}),
    "no_mca": ("cam", {"mca": False}),
    "no_gauss": ("seg", {"prior_options": {"source": "cam"}}),
    "no_threshold": ("seg", {"prior_options": {"source": "gaussian"}}),
}
TABLE_2 = {
    "add": (55.76, 55.19, 55.00, 55.10),
    "concat": (55.76, 53.14, 53.40, 53.32),
    "multiply": (55.76, 79.05, 88.30, 84.04),
}


@pytest.mark.parametrize("row", ROWS)
def test_rows_differ_in_their_options_alone(row):
    stage_name, options = ROWS[row]
    whole = ABLATION + ("whole" if stage_name == "seg" else "no_seg")
    mine, theirs = (asdict(load_recipe(name)) for name in (ABLATION + row, whole))
    for stage, other in zip(mine["stage"], theirs["stage"], strict=True):
        changed = options if stage["name"] == stage_name else {}
        shared = other["model"] | changed
        assert stage["model"] | changed == {key: shared[key] for key in stage["model"]}
        assert {key: stage["model"].get(key) for key in changed} == changed
        stage.pop("model"), other.pop("model")
    for key in ("name", "summary", "paper"):
        mine.pop(key), theirs.pop(key)
    assert mine == theirs


def test_the_row_without_masks_is_the_whole_method_without_its_second_stage():
    whole, no_seg = load_recipe(ABLATION + "whole"), load_recipe(ABLATION + "no_seg")
    assert [stage for stage in whole.stage if stage.name != "seg"] == list(no_seg.stage)
    assert [localizer_of(recipe).stage.name for recipe in (whole, no_seg)] == ["seg", "cam"]


@pytest.mark.parametrize("fuse_op", TABLE_2)
@pytest.mark.parametrize("fuse_stages", [1, 2, 3, 4])
def test_cells_of_table_2(fuse_op, fuse_stages):
    name = "fuse1" if fuse_stages == 1 else f"fuse{fuse_stages}_{fuse_op}"
    recipe = load_recipe(ABLATION + name)
    (stage,) = recipe.stage
    assert recipe.paper.gt_known_loc == TABLE_2[fuse_op][fuse_stages - 1]
    assert stage.model["fuse_stages"] == fuse_stages
    assert stage.model["fuse_op"] == fuse_op or fuse_stages == 1


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("spol_cub_resnet50", (80.12, 93.44, 96.46)),
        ("spol_cub_resnet50_densenet161", (79.74, 93.69, 96.46)),
        ("spol_ilsvrc_resnet50", (59.14, 67.15, 69.02)),
        ("spol_ilsvrc_resnet50_densenet161", (56.40, 66.48, 69.02)),
        (ABLATION + "whole", (78.94, 92.84, 96.46)),
        (ABLATION + "no_seg", (75.82, 89.13, 92.25)),
        (ABLATION + "no_aux", (73.42, 86.21, 89.45)),
        (ABLATION + "no_mca", (72.83, 85.55, 88.52)),
        (ABLATION + "no_gauss", (78.08, 91.82, 95.41)),
        (ABLATION + "no_threshold", (60.39, 71.38, 73.97)),
    ],
)
def test_published_cells(name, numbers):
    recipe = load_recipe(name)
    assert recipe.paper.numbers() == dict(zip(("top1_loc", "top5_loc", "gt_known_loc"), numbers, strict=True))
    assert recipe.evaluate.protocol == "spol"
    assert {0.2, 0.8} < set(get_protocol("spol").thresholds)


def test_the_classifier_sees_its_own_view():
    efficient, dense = load_recipe("spol_cub_resnet50"), load_recipe("spol_cub_resnet50_densenet161")
    assert classifier_of(efficient).stage.backbone.name == "efficientnet_b7"
    assert (classifier_view(efficient).resize, classifier_view(efficient).crop) == (685, None)
    assert (classifier_view(dense).resize, classifier_view(dense).crop) == (256, 224)


def test_the_released_classifier_slows_down_by_epochs():
    schedule = load_recipe("spol_cub_resnet50").stage[-1].schedule
    for step, epoch in ((0, 0), (9, 0), (10, 1), (195, 19)):
        assert rate_at(schedule, step, 10, 20) == pytest.approx(1 - epoch / 20)
