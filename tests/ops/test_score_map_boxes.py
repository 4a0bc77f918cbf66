from itertools import pairwise

import numpy as np
import pytest
import torch

from wsolfast import ops
from wsolfast.ops import BoxRule
from wsolfast.reference._box_rule import unpack
from wsolfast.testing import OP_CASES
from wsolfast.testing import published_boxes as oracle

GRID = torch.arange(20, dtype=torch.float64) / 20
ABSOLUTE = {"quantize": False, "relative": False}
IN_FRONT = ("interpolation", "normalization", "eps", "normalize_first")


def random_map(rng, kind):
    """Blobs, noise, few levels (ties), or thin lines and rings, at odd sizes."""
    height, width = rng.integers(1, 16, 2)
    noise = rng.random((height, width))
    if kind == "few_levels":
        return np.floor(noise * 3) / 2
    if kind == "sparse":
        return noise * (rng.random((height, width)) < 0.3)
    if kind == "blobs":
        noise = np.kron(rng.random((height, width)), np.ones((3, 2)))
        noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    return noise


def from_text(text):
    return torch.tensor([[float(c == "#") for c in row] for row in text.split()], dtype=torch.float64)[None]


@pytest.mark.parametrize("kind", ["noise", "few_levels", "sparse", "blobs"])
@pytest.mark.parametrize("every", [False, True], ids=["single", "multi"])
def test_contour_boxes_are_opencvs(kind, every):
    rng = np.random.default_rng(7)
    rule = BoxRule(selection="all" if every else "contour_area")
    for _ in range(60):
        score_map = random_map(rng, kind)
        expected = oracle.contour_boxes(score_map, GRID.tolist(), every)
        found = ops.score_map_boxes(torch.from_numpy(score_map)[None], GRID, rule)
        if every:
            offsets = found.offsets.tolist()
            parts = [found.boxes[a:b] for a, b in pairwise(offsets)]
        else:
            parts = list(found.boxes[0].unsqueeze(1))
        for part, boxes in zip(parts, expected, strict=True):
            assert np.array_equal(part.numpy(), boxes)


@pytest.mark.parametrize("kind", ["noise", "few_levels", "sparse", "blobs"])
@pytest.mark.parametrize(
    ("rule", "box_of_mask"),
    [
        (BoxRule(**ABSOLUTE, comparison=">=", selection="union", box_end="inclusive"), oracle.union_box),
        (
            BoxRule(**ABSOLUTE, comparison=">=", connectivity=4, selection="box_area", box_end="exclusive"),
            oracle.largest_rectangle,
        ),
        (BoxRule(**ABSOLUTE, comparison=">=", selection="pixel_area", box_end="exclusive"), oracle.most_pixels),
    ],
    ids=["union", "box_area", "pixel_area"],
)
def test_other_selections_are_scipys(kind, rule, box_of_mask):
    rng = np.random.default_rng(8)
    for _ in range(40):
        score_map = random_map(rng, kind)
        found = ops.score_map_boxes(torch.from_numpy(score_map)[None], GRID, rule).boxes[0]
        assert found.tolist() == [box_of_mask(score_map >= threshold) for threshold in GRID.tolist()]


def test_mean_cut_drops_what_is_below_the_mean_of_the_cut_map():
    rng = np.random.default_rng(9)
    rule = BoxRule(quantize=False, mean_cut=True, connectivity=4, selection="box_area", box_end="exclusive")
    for _ in range(40):
        score_map = random_map(rng, "blobs")
        found = ops.score_map_boxes(torch.from_numpy(score_map)[None], GRID, rule).boxes[0]
        for threshold, box in zip(GRID.tolist(), found.tolist(), strict=True):
            cut = np.where(score_map > threshold * score_map.max(), score_map, 0)
            assert box == oracle.largest_rectangle(cut > cut.mean())


def test_two_blobs_of_the_spec():
    maps = torch.zeros(1, 8, 8, dtype=torch.float64)
    maps[0, 1:3, 1:3] = maps[0, 5:8, 4:6] = 1
    cut = torch.tensor([0.5], dtype=torch.float64)
    union = BoxRule(**ABSOLUTE, comparison=">=", selection="union", box_end="inclusive")
    largest = BoxRule(quantize=False, mean_cut=True, connectivity=4, selection="box_area", box_end="exclusive")
    assert ops.score_map_boxes(maps, cut, union).boxes.tolist() == [[[1, 1, 5, 7]]]
    assert ops.score_map_boxes(maps, cut, largest).boxes.tolist() == [[[4, 5, 6, 8]]]


def test_nested_contours_come_in_list_order():
    maps = from_text("""
        .........
        .#######.
        .#.....#.
        .#.#.#.#.
        .#.....#.
        .#######.
        .........
        #......#.
    """)
    found = ops.score_map_boxes(maps, torch.zeros(1, dtype=torch.float64), BoxRule(selection="all"))
    assert found.boxes.tolist() == [
        [7, 7, 8, 7],
        [0, 7, 1, 7],
        [1, 1, 8, 6],
        [1, 1, 8, 6],
        [5, 3, 6, 4],
        [3, 3, 4, 4],
    ]
    assert found.offsets.tolist() == [0, 6]


def test_diagonal_neighbours_touch_only_when_8_connected():
    maps = from_text("#... .#.. ...# ...#")
    for connectivity, box in ((8, [0, 0, 2, 2]), (4, [3, 2, 4, 4])):
        rule = BoxRule(**ABSOLUTE, connectivity=connectivity, selection="pixel_area", box_end="exclusive")
        # Two pixels each: the first wins; 4-connected, the diagonal pair is two components of one pixel.
        assert ops.score_map_boxes(maps, GRID[:1], rule).boxes.tolist() == [[box]]


@pytest.mark.parametrize(
    ("end", "box"), [("clipped", [0, 0, 4, 3]), ("exclusive", [0, 0, 5, 4]), ("inclusive", [0, 0, 4, 3])]
)
def test_empty_box_can_be_the_whole_map(end, box):
    rule = BoxRule(box_end=end, empty_box="image")
    assert ops.score_map_boxes(torch.zeros(1, 4, 5), GRID[:1], rule).boxes.tolist() == [[box]]


def test_thresholds_are_relative_to_the_maximum_of_the_map():
    maps = torch.rand(1, 6, 7, dtype=torch.float64).round(decimals=1)
    relative, absolute = (BoxRule(quantize=False, relative=on, selection="union") for on in (True, False))
    assert torch.equal(
        ops.score_map_boxes(maps / 4, GRID, relative).boxes,
        ops.score_map_boxes(maps, GRID * maps.max(), absolute).boxes,
    )


def test_levels_of_255ths_are_what_they_were():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    rule = BoxRule(selection="union")
    assert torch.equal(
        ops.score_map_boxes(levels, GRID, rule).boxes, ops.score_map_boxes(levels.double() / 255, GRID, rule).boxes
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes_are_widened_exactly(dtype):
    maps = torch.rand(2, 9, 9).to(dtype)
    for rule in (BoxRule(), BoxRule(**ABSOLUTE, comparison=">=", selection="union")):
        assert torch.equal(
            ops.score_map_boxes(maps, GRID, rule).boxes, ops.score_map_boxes(maps.double(), GRID, rule).boxes
        )


@pytest.mark.parametrize("case", OP_CASES["score_map_boxes"], ids=lambda case: case.name)
def test_all_boxes_pass_opcheck_and_hold_the_largest(case):
    maps, thresholds, size, packed = case.make_inputs("cpu", torch.float64)
    in_front = {name: getattr(unpack(packed), name) for name in IN_FRONT}
    every = (maps, thresholds, size, BoxRule(selection="all", **in_front).pack())
    torch.library.opcheck(
        torch.ops.wsolfast._score_map_boxes_all.default, every, test_utils=("test_schema", "test_faketensor")
    )
    boxes, offsets = torch.ops.wsolfast._score_map_boxes_all.default(*every)
    largest = torch.ops.wsolfast.score_map_boxes.default(maps, thresholds, size, BoxRule(**in_front).pack())
    assert offsets[-1] == boxes.shape[0]
    for box, (start, end) in zip(largest.reshape(-1, 4), pairwise(offsets.tolist()), strict=True):
        assert (boxes[start:end] == box).all(1).any()


MAPS = torch.rand(2, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("maps", "thresholds", "message"),
    [
        (MAPS[0], GRID, r"expected maps of shape \[N, h, w\], got \[4, 4\]"),
        (MAPS[:, :0], GRID, "no pixels"),
        (MAPS.bool(), GRID, "real-valued"),
        (MAPS.long(), GRID, r"floating-point or uint8 maps, got torch.int64"),
        (MAPS, GRID[None], r"thresholds as real numbers of shape"),
        (MAPS, GRID * float("nan"), "thresholds hold a NaN"),
        (torch.stack([MAPS[0], MAPS[1] + 1]), GRID, r"values in \[0, 1\], map 1 has"),
        (torch.stack([MAPS[0], MAPS[1] * float("nan")]), GRID, r"map 1 has nan"),
        (MAPS * float("inf"), GRID, "map 0 has"),
    ],
)
def test_bad_input_is_named(maps, thresholds, message):
    with pytest.raises(ValueError, match=message):
        ops.score_map_boxes(maps, thresholds, BoxRule())


def test_maps_of_a_rule_that_does_not_quantise_may_exceed_one_but_not_be_infinite():
    rule = BoxRule(quantize=False)
    assert ops.score_map_boxes(MAPS * 9 - 4, GRID, rule).boxes.shape == (2, 20, 4)
    with pytest.raises(ValueError, match="finite values, map 1"):
        ops.score_map_boxes(torch.stack([MAPS[0], MAPS[1] / 0]), GRID, rule)
    with pytest.raises(ValueError, match="need a rule that quantises"):
        ops.score_map_boxes(MAPS.to(torch.uint8), GRID, rule)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"selection": "biggest"}, "selection must be one of 'contour_area'"),
        ({"connectivity": 6}, "connectivity must be one of 8, 4"),
        ({"quantize": 1}, "quantize must be True or False"),
        ({"eps": -1.0}, "eps must be finite"),
        ({"connectivity": 4}, "8-connected"),
        ({"mean_cut": True}, "quantize=False"),
        ({"normalize_first": True}, "overshoots"),
        ({"percentile": -1.0}, r"percentile must be in \[0, 100\], got -1.0"),
        ({"percentile": 100.5}, "percentile must be in"),
        ({"percentile": float("nan")}, "percentile must be in"),
        ({"percentile": 90.0, "quantize": False}, "set quantize=True and relative=True"),
        ({"percentile": 90.0, "relative": False}, "set quantize=True and relative=True"),
        ({"empty_box": (3, 0, 1, 1)}, "empty_box"),
        ({"empty_box": "whole"}, "empty_box"),
    ],
)
def test_bad_rules_are_refused(switches, message):
    with pytest.raises(ValueError, match=message):
        BoxRule(**switches)


def test_boxes_have_no_gradient():
    maps = MAPS.clone().requires_grad_()
    assert not ops.score_map_boxes(maps, GRID, BoxRule()).boxes.requires_grad
