"""Every combination of switches: the compiled box ops equal their references on random maps."""

import itertools

import pytest
import torch

from wsolfast import ops
from wsolfast.ops import BoxRule
from wsolfast.reference import box_sweep_hits as hits_reference
from wsolfast.reference import score_map_boxes as boxes_reference
from wsolfast.testing import seeded

GRID = torch.arange(25, dtype=torch.float64) / 25
SELECTIONS = [(name, 8) for name in ("contour_area", "all", "union", "box_area", "pixel_area")]
SELECTIONS += [("box_area", 4), ("pixel_area", 4)]


def random_maps(seed, height, width):
    """Noise of few levels, so that plateaus, ties and holes abound; the last map does not reach 1."""
    maps = (seeded((6, height, width), "cpu", torch.float64, seed).sigmoid() * 9).floor() / 8
    maps = maps.clamp(0, 1)
    maps[-1] *= 0.3
    return maps


@pytest.mark.parametrize(("selection", "connectivity"), SELECTIONS, ids=str)
@pytest.mark.parametrize("quantize", [True, False], ids=["uint8", "float64"])
def test_every_cut_rule(selection, connectivity, quantize):
    maps = random_maps(connectivity, 9, 12)
    switches = itertools.product([True, False], [">", ">="], [False] if quantize else [False, True])
    ends = itertools.cycle(["clipped", "exclusive", "inclusive"])
    for relative, comparison, mean_cut in switches:
        rule = BoxRule(
            quantize=quantize,
            relative=relative,
            comparison=comparison,
            mean_cut=mean_cut,
            selection=selection,
            connectivity=connectivity,
            box_end=next(ends),
            empty_box="image",
        )
        found = ops.score_map_boxes(maps, GRID, rule)
        if selection == "all":
            boxes, offsets = boxes_reference.score_map_boxes_all(maps, GRID, [], rule.pack())
            assert torch.equal(found.offsets, offsets)
        else:
            boxes = boxes_reference.score_map_boxes(maps, GRID, [], rule.pack())
        assert torch.equal(found.boxes, boxes), rule


@pytest.mark.parametrize("selection", ["contour_area", "all", "union"])
@pytest.mark.parametrize("plus_one", [True, False], ids=["inclusive", "plain"])
def test_every_hit_rule(selection, plus_one):
    maps = random_maps(1, 10, 8)
    corners = seeded((12, 2, 2), "cpu", torch.float64, 4).sigmoid() * 9
    truths = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    truths[::2] = truths[::2].floor()
    offsets = torch.tensor([0, 2, 2, 5, 6, 9, 12])
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    for hit, gt in itertools.product([">=", ">"], ["any", "first"]):
        rule = BoxRule(selection=selection, iou_plus_one=plus_one, hit=hit, gt=gt)
        expected = hits_reference.box_sweep_hits(maps, GRID, truths, offsets, levels, [], rule.pack())
        assert torch.equal(ops.box_sweep_hits(maps, GRID, truths, offsets, levels, rule), expected)


@pytest.mark.parametrize("selection", ["contour_area", "all", "box_area"])
def test_hundreds_of_float_thresholds_use_the_sweep(selection):
    rule = BoxRule(quantize=False, relative=False, selection=selection)
    maps = seeded((2, 8, 9), "cpu", torch.float64, 2).sigmoid()
    thresholds = torch.cat([torch.arange(300, dtype=torch.float64) / 300, maps.flatten()[:40]])
    found = ops.score_map_boxes(maps, thresholds, rule)
    reference = boxes_reference.score_map_boxes_all if selection == "all" else boxes_reference.score_map_boxes
    boxes = reference(maps, thresholds, [], rule.pack())
    assert torch.equal(found.boxes, boxes[0] if selection == "all" else boxes)
