"""A cut relative to a percentile: NumPy's of the 8-bit map, bit for bit, however it is found."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from wsolfast import ops
from wsolfast.metrics.protocols import PROTOCOLS
from wsolfast.ops import BoxRule
from wsolfast.reference import box_sweep_hits as hits_reference
from wsolfast.reference import score_map_boxes as reference
from wsolfast.testing import published_boxes, seeded

THRESHOLDS = torch.arange(0, 1.2, 0.05, dtype=torch.float64)
PERCENTILES = [*range(101), 0.1, 1 / 3, 12.5, 66.6, 99.9, float(np.nextafter(100, 0)), 1e-300]


def some_levels(rng, size):
    """Few values and many, ties and none, in any order."""
    levels = rng.integers(0, rng.choice([2, 9, 256]), size)
    return (levels * rng.choice([1, 28, 127]) % 256).astype(np.uint8)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 64, 101, 1000, 224 * 224])
def test_the_reference_is_numpys_percentile(size):
    rng = np.random.default_rng(size)
    for _ in range(3):
        levels = some_levels(rng, size)
        values = torch.from_numpy(levels).double()
        drawn = [*PERCENTILES, *(100 * rng.random(40))] if size < 2000 else PERCENTILES[::9]
        for percentile in drawn:
            assert reference._percentile(values, percentile) == np.percentile(levels, percentile)


def thresholds_around(whole):
    """Return thresholds whose product with ``whole`` is about an integer, so that its last bit decides the cut."""
    exact = np.arange(256) / max(whole, 1e-9)
    return np.concatenate([np.nextafter(exact, 0), exact, np.nextafter(exact, np.inf)])


@pytest.mark.parametrize("size", [1, 2, 5, 40, 300, 5000])
def test_every_cut_is_numpys(size):
    """Found from where the box around everything starts in a row of sorted levels: behind what is not above the cut."""
    rng = np.random.default_rng(size)
    nothing = (size, 0, size, 0)
    for percentile in [*PERCENTILES, *(100 * rng.random(40))]:
        levels = np.sort(some_levels(rng, size))
        whole = np.percentile(levels, percentile)
        thresholds = thresholds_around(whole)
        rule = BoxRule(selection="union", percentile=percentile, box_end="inclusive", empty_box=nothing)
        maps = torch.from_numpy(levels)[None, None]
        found = ops.score_map_boxes(maps, torch.from_numpy(thresholds), rule).boxes[0, :, 0].numpy()
        expected = np.searchsorted(levels, [int(threshold * whole) for threshold in thresholds.tolist()], side="right")
        np.testing.assert_array_equal(found, expected)


def test_the_product_is_truncated():
    """0.35 times 180 is a little less than 63."""
    levels = np.repeat(np.array([62, 63, 180, 255], dtype=np.uint8), [50, 20, 30, 1])
    assert np.percentile(levels, 90) == 180
    rule = BoxRule(percentile=90, selection="union", box_end="inclusive")
    cut = torch.tensor([0.35], dtype=torch.float64)
    assert ops.score_map_boxes(torch.from_numpy(levels)[None, None], cut, rule).boxes.tolist() == [[[50, 0, 100, 0]]]


def random_maps(seed, height, width):
    """Noise of many and of few levels, one that does not reach 1, one that is nearly empty, zeros and a constant."""
    maps = seeded((6, height, width), "cpu", torch.float64, seed).sigmoid()
    maps[1] = (maps[1] * 5).floor() / 4
    maps[2] *= 0.3
    maps[3] *= maps[3] > 0.8
    maps[4], maps[5] = 0.0, 0.7
    return maps.clamp(0, 1)


@pytest.mark.parametrize("selection", ["contour_area", "all", "box_area", "pixel_area", "union"])
@pytest.mark.parametrize("percentile", [0, 33.3, 50, 80, 90, 97.5, 100])
def test_compiled_boxes_are_the_references(selection, percentile):
    comparison = ">=" if selection == "pixel_area" else ">"
    rule = BoxRule(selection=selection, percentile=percentile, comparison=comparison, empty_box="image")
    maps = random_maps(int(percentile), 11, 9)
    truths, offsets = torch.tensor([[1.0, 1, 6, 7]] * 6, dtype=torch.float64), torch.arange(7)
    levels = torch.tensor([0.1, 0.5], dtype=torch.float64)
    found = ops.score_map_boxes(maps, THRESHOLDS, rule)
    if selection == "all":
        boxes, begins = reference.score_map_boxes_all(maps, THRESHOLDS, [], rule.pack())
        assert torch.equal(found.offsets, begins)
    else:
        boxes = reference.score_map_boxes(maps, THRESHOLDS, [], rule.pack())
    assert torch.equal(found.boxes, boxes)
    expected = hits_reference.box_sweep_hits(maps, THRESHOLDS, truths, offsets, levels, [], rule.pack())
    assert torch.equal(ops.box_sweep_hits(maps, THRESHOLDS, truths, offsets, levels, rule), expected)


@pytest.mark.parametrize("every", [False, True], ids=["single", "multi"])
def test_contour_boxes_are_opencvs(every):
    rng = np.random.default_rng(4)
    grid = np.arange(0, 1.1, 0.04)
    for percentile in (95, 90, 85, 80, 12.5):
        for score_map in (rng.random((13, 17)), np.kron(rng.random((3, 5)), np.ones((6, 4))), np.zeros((3, 4))):
            rule = BoxRule(selection="all" if every else "contour_area", percentile=percentile)
            found = ops.score_map_boxes(torch.from_numpy(score_map)[None], torch.from_numpy(grid), rule)
            expected = published_boxes.contour_boxes(score_map, grid.tolist(), every, percentile)
            if every:
                parts = [found.boxes[a:b] for a, b in pairwise(found.offsets.tolist())]
            else:
                parts = list(found.boxes[0].unsqueeze(1))
            for part, boxes in zip(parts, expected, strict=True):
                np.testing.assert_array_equal(part.numpy(), boxes)


@pytest.mark.parametrize("name", [name for name, protocol in PROTOCOLS.items() if protocol.rule.percentile == 100])
def test_the_maximum_is_what_a_rule_without_percentile_cuts_at(name):
    """Numbers and integers alike; the packed rule, which is all that kernels see, is the same."""
    fields = {key: value for key, value in vars(PROTOCOLS[name].rule).items() if key != "percentile"}
    assert BoxRule(**fields, percentile=100).pack() == BoxRule(**fields).pack() == PROTOCOLS[name].rule.pack()


def test_foreground_is_cut_at_the_percentile():
    score_map = torch.arange(100, dtype=torch.uint8).reshape(10, 10)
    cut = int(0.5 * np.percentile(score_map.numpy(), 80))
    assert torch.equal(BoxRule(percentile=80).foreground(score_map, 0.5), score_map > cut)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.5])
def test_a_map_that_cannot_be_quantised_is_named(bad):
    maps = random_maps(1, 4, 5)
    maps[2, 1, 1] = bad
    with pytest.raises(ValueError, match="map 2 has"):
        ops.score_map_boxes(maps, THRESHOLDS, BoxRule(percentile=90))


def test_a_raw_map_that_is_not_finite_has_the_empty_box():
    maps = seeded((2, 4, 5), "cpu", torch.float64)
    rule, cut = BoxRule(percentile=90, empty_box="image", box_end="exclusive"), torch.tensor([0.8], dtype=torch.float64)
    before = ops.score_map_boxes(maps, cut, rule, size=(8, 9)).boxes
    maps[0, 1, 1] = float("nan")
    found = ops.score_map_boxes(maps, cut, rule, size=(8, 9)).boxes
    assert found[0].tolist() == [[0, 0, 9, 8]]
    assert torch.equal(found[1], before[1])
    assert found[1].tolist() != [[0, 0, 9, 8]]
