"""Numbers as loggers take them, and how accumulators show themselves."""

import json

import pytest
from oracles.random_images import images, masks

from wsolfast import metrics
from wsolfast.metrics import BoxAccuracy, ErrorSplit, PixelAccuracy

ARGUMENTS = images(6, seed=9)
FILLED = {
    "BoxAccuracy": ({"protocol": "danet"}, ARGUMENTS),
    "ErrorSplit": ({"protocol": "spa"}, ARGUMENTS),
    "PixelAccuracy": ({"size": 16}, (ARGUMENTS[0], masks(*ARGUMENTS[1:3]))),
}


def filled(module, kind):
    options, given = FILLED[kind]
    metric = getattr(module, kind)(**options)
    metric.update(*given)
    return metric


@pytest.mark.parametrize("kind", FILLED)
def test_scalars_are_the_numbers_of_compute_in_one_level(kind):
    metric = filled(metrics, kind)
    found, numbers = metric.scalars(), metric.compute()
    numbers.pop("curves", None)
    chosen = numbers["cam_threshold"]
    if isinstance(chosen, dict):
        numbers.pop("cam_threshold")
        numbers |= {f"cam_threshold/{name}": threshold for name, threshold in chosen.items()}
    assert found == numbers
    assert all(type(value) in (int, float) for value in found.values())
    assert json.loads(json.dumps(found)) == found


def test_scalars_at_a_threshold():
    metric = filled(metrics, "BoxAccuracy")
    at = metric.scalars(at=0.3)
    assert at["cam_threshold/top1_loc"] == at["cam_threshold/max_box_acc"] == 0.3
    assert at["gt_known_loc"] == metric.compute()["curves"]["gt_known_loc"][-1]


@pytest.mark.parametrize("kind", FILLED)
def test_those_of_torchmetrics_are_the_same(kind):
    wrapped = pytest.importorskip("wsolfast.metrics.torchmetrics", exc_type=ImportError)
    theirs, ours = filled(wrapped, kind), filled(metrics, kind)
    assert theirs.scalars() == ours.scalars()
    assert repr(theirs) == repr(ours)


def test_an_accumulator_shows_its_protocol_and_how_many_images_it_has():
    assert repr(BoxAccuracy()) == "BoxAccuracy(protocol='wsolevaluation', images=0)"
    assert repr(ErrorSplit()) == "ErrorSplit(protocol='spa', images=0)"
    assert repr(PixelAccuracy()) == "PixelAccuracy(size=224, images=0)"
    metric = filled(metrics, "BoxAccuracy")
    assert repr(metric) == "BoxAccuracy(protocol='danet', images=6)"
    metric.merge_state(filled(metrics, "BoxAccuracy"))
    assert f"{metric}" == "BoxAccuracy(protocol='danet', images=12)"
