"""Properties of boxes for any map: symmetries of the image, and errors that name any bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wsolfast import ops
from wsolfast.ops import BoxRule

GRID = torch.arange(1, 8, dtype=torch.float64) / 8
UNION = BoxRule(quantize=False, selection="union", box_end="inclusive")
SINGLE = [replace(UNION, selection=kind) for kind in ("contour_area", "box_area", "pixel_area", "union")]

levels = st.integers(0, 8).map(lambda k: k / 8)
score_maps = arrays.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=levels)


def boxes(score_map, rule, thresholds=GRID):
    return ops.score_map_boxes(torch.from_numpy(score_map.copy())[None], thresholds, rule)


@settings(max_examples=60, deadline=None)
@given(score_maps)
def test_union_boxes_shrink_as_the_threshold_rises(score_map):
    found = boxes(score_map, UNION).boxes[0]
    if score_map.any():
        assert (found[1:, :2] >= found[:-1, :2]).all()
        assert (found[1:, 2:] <= found[:-1, 2:]).all()


@settings(max_examples=60, deadline=None)
@given(score_maps)
def test_union_boxes_mirror_with_the_map(score_map):
    width = score_map.shape[1]
    if not score_map.any():
        return
    x0, y0, x1, y1 = boxes(score_map, UNION).boxes[0].unbind(-1)
    mirrored = torch.stack([width - 1 - x1, y0, width - 1 - x0, y1], -1)
    assert torch.equal(boxes(score_map[:, ::-1], UNION).boxes[0], mirrored)
    assert torch.equal(boxes(score_map.T, UNION).boxes[0], torch.stack([y0, x0, y1, x1], -1))


@pytest.mark.parametrize("rule", SINGLE, ids=lambda rule: rule.selection)
@settings(max_examples=40, deadline=None)
@given(score_map=score_maps, pad=st.tuples(*[st.integers(0, 3)] * 4))
def test_background_around_the_map_only_moves_boxes(rule, score_map, pad):
    if not score_map.any():
        return
    top, bottom, left, right = pad
    padded = np.pad(score_map, ((top, bottom), (left, right)))
    assert torch.equal(boxes(padded, rule).boxes, boxes(score_map, rule).boxes + torch.tensor([left, top, left, top]))


@settings(max_examples=40, deadline=None)
@given(score_maps)
def test_every_single_box_is_among_all_of_them(score_map):
    everything = boxes(score_map, replace(UNION, selection="all"))
    for k, box in enumerate(boxes(score_map, SINGLE[0]).boxes[0]):
        of_threshold = everything.boxes[everything.offsets[k] : everything.offsets[k + 1]]
        assert (of_threshold == box).all(1).any()


@settings(max_examples=40, deadline=None)
@given(score_maps, st.sampled_from([0.25, 2.0, 64.0]))
def test_relative_boxes_do_not_depend_on_the_scale(score_map, factor):
    for rule in SINGLE:
        assert torch.equal(boxes(score_map * factor, rule).boxes, boxes(score_map, rule).boxes)


shapes = st.lists(st.integers(0, 3), min_size=0, max_size=4)
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.uint8, torch.int32, torch.bool])
calls = {
    "boxes": lambda maps: ops.score_map_boxes(maps, GRID, BoxRule()),
    "normalize": lambda maps: ops.normalize_score_map(maps, (4, 5), BoxRule()),
    "histogram": lambda maps: ops.pixel_histogram(maps, torch.zeros_like(maps, dtype=torch.uint8), GRID),
    "hits": lambda maps: ops.box_sweep_hits(maps, GRID, BOXES, OFFSETS, GRID, BoxRule()),
    "raw boxes": lambda maps: ops.score_map_boxes(maps, GRID, BoxRule(), size=(4, 5)),
    "raw hits": lambda maps: ops.box_sweep_hits(maps, GRID, BOXES, OFFSETS, GRID, BoxRule(), size=(4, 5)),
}
BOXES = torch.tensor([[0, 0, 2, 2]] * 2, dtype=torch.float64)
OFFSETS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize("call", calls)
@settings(max_examples=60, deadline=None)
@given(shape=shapes, dtype=dtypes, value=st.sampled_from([0.0, 1.0, -1.0, 2.0, float("nan"), float("inf")]))
def test_any_call_works_or_says_what_is_wrong(call, shape, dtype, value):
    maps = torch.full(shape, value if dtype.is_floating_point else int(value == 1.0)).to(dtype)
    try:
        calls[call](maps)
    except ValueError as error:
        message = str(error)
    else:
        return
    assert message.startswith(("score_map_boxes: ", "normalize_score_map: ", "pixel_histogram: ", "box_sweep_hits: "))
    assert "\n" not in message


@pytest.mark.parametrize("call", calls)
def test_ops_compile_without_a_graph_break(call):
    maps = torch.rand(2, 6, 5, dtype=torch.float64)
    expected = calls[call](maps)
    found = torch.compile(calls[call], fullgraph=True, backend="aot_eager")(maps)
    assert torch.equal(getattr(found, "boxes", found), getattr(expected, "boxes", expected))


def test_boxes_of_unknown_number_compile_without_a_graph_break():
    maps = torch.rand(2, 6, 5, dtype=torch.float64)
    rule = BoxRule(selection="all")

    def corners(maps):
        found = ops.score_map_boxes(maps, GRID, rule)
        return found.boxes * 2, found.offsets

    for actual, expected in zip(
        torch.compile(corners, fullgraph=True, backend="aot_eager")(maps), corners(maps), strict=True
    ):
        assert torch.equal(actual, expected)
