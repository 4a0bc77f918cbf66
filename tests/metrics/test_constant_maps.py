"""Maps that show nothing: their numbers are the benchmark's, and they are counted."""

import numpy as np
import pytest
import torch
from oracles.published_metrics import max_box_hits
from oracles.random_images import images, masks, part

from wsolfast import metrics
from wsolfast.metrics import BoxAccuracy, is_constant


def test_one_value_everywhere_in_every_dtype():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int64):
        maps = torch.ones(3, 2, 4, dtype=dtype)
        maps[1, 1, 3] = 0
        assert is_constant(maps).tolist() == [True, False, True]
    # The smallest difference there is, however the map lies in memory.
    maps = torch.full((2, 4, 6), 0.7)
    maps[1, 3, 5] = maps[1, 3, 5].nextafter(torch.tensor(1.0))
    assert is_constant(maps).tolist() == is_constant(maps.mT).tolist() == [True, False]
    assert is_constant(maps[:, ::2, ::2]).tolist() == [True, True]


def test_maps_of_several_sizes_and_kinds():
    mixed = [np.zeros((2, 2)), torch.eye(3), [[1.0, 1.0]], torch.zeros(1, 1)]
    assert is_constant(mixed).tolist() == [True, False, True, True]
    assert is_constant(np.zeros((2, 3, 3), dtype=">f4")).tolist() == [True, True]
    assert is_constant([]).shape == is_constant(torch.zeros(0, 3, 3)).shape == (0,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_maps_that_are_not_finite_are_not_constant(value):
    assert not is_constant(torch.full((1, 3, 3), value)).item()
    one = torch.zeros(1, 3, 3)
    one[0, 1, 1] = value
    assert not is_constant(one).item()


@pytest.mark.parametrize("maps", [torch.zeros(1, 0, 3), torch.zeros(1, 2, 2, dtype=torch.complex64)])
def test_what_is_no_map_is_refused(maps):
    with pytest.raises(ValueError, match=r"is_constant: expected real score maps \[N, h, w\]"):
        is_constant(maps)


def test_the_bits_of_a_constant_map_are_the_benchmarks():
    """Of float64, bicubic leaves rounding that min-max stretches into boxes; of float32 nothing is left."""
    truth = torch.tensor([[20.0, 20.0, 200.0, 200.0]])
    grid = [k * 0.05 for k in range(20)]
    found = {}
    for dtype in (torch.float64, torch.float32):
        metric = BoxAccuracy("wsolevaluation", thresholds=grid)
        metric.update(torch.full((1, 14, 14), 0.7, dtype=dtype), torch.tensor([[224, 224]]), [truth])
        found[dtype] = metric.compute()
        assert found[dtype]["maps_constant"] == found[dtype]["images"] == 1
    published = max_box_hits(np.full((14, 14), 0.7), (224, 224), truth.int().tolist(), grid, [0.5], every=False)
    assert published.any()
    assert found[torch.float64]["curves"]["max_box_acc"] == (100.0 * published[:, 0]).tolist()
    assert found[torch.float32]["max_box_acc"] == 0


OPTIONS = {"BoxAccuracy": {"protocol": "spa"}, "ErrorSplit": {"protocol": "spa"}, "PixelAccuracy": {"size": 16}}


def filled(module, name, arguments):
    metric = getattr(module, name)(**OPTIONS[name])
    maps, sizes, boxes, *_ = arguments
    metric.update(*((maps, masks(sizes, boxes)) if name == "PixelAccuracy" else arguments))
    return metric


@pytest.fixture
def arguments():
    maps, *others = images(6, seed=3)
    maps[[1, 4]] = 0.5
    return (maps, *others)


@pytest.mark.parametrize("name", OPTIONS)
def test_accumulators_count_them(name, arguments):
    whole = filled(metrics, name, arguments)
    assert whole.compute()["maps_constant"] == 2
    first, second = (filled(metrics, name, part(arguments, index)) for index in ([0, 1, 2], [3, 4, 5]))
    assert [one.compute()["maps_constant"] for one in (first, second)] == [1, 1]
    restored = getattr(metrics, name)(**OPTIONS[name])
    restored.load_state_dict(second.state_dict())
    first.merge_state(restored)
    assert first.compute() == whole.compute()
    whole.reset()
    assert int(whole.state_dict()["maps_constant"]) == 0


@pytest.mark.parametrize("name", OPTIONS)
def test_so_do_those_of_torchmetrics(name, arguments):
    wrapped = pytest.importorskip("wsolfast.metrics.torchmetrics", exc_type=ImportError)
    assert filled(wrapped, name, arguments).compute()["maps_constant"] == 2


def test_given_boxes_have_no_map():
    metric = BoxAccuracy("spa")
    metric.update_boxes(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])])
    assert metric.compute()["maps_constant"] == 0
