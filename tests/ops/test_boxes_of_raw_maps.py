"""With a size the box ops do what normalize_score_map and they do one after the other."""

import pytest
import torch

from wsolfast import ops
from wsolfast.metrics.protocols import PROTOCOLS
from wsolfast.ops import BoxRule
from wsolfast.testing import seeded

GRID = torch.arange(20, dtype=torch.float64) / 20
LEVELS = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
RULES = {
    "all": BoxRule(selection="all"),
    "float bicubic": BoxRule(quantize=False),
    "corners": BoxRule(interpolation="linear_corners", normalization="max"),
    "first": BoxRule(interpolation="linear", normalization="minmax_eps", eps=1e-10, normalize_first=True),
    "shifted": BoxRule(quantize=False, normalization="min"),
    "as they are": BoxRule(quantize=False, normalization="none"),
    "percentile": BoxRule(percentile=62.5, interpolation="linear", selection="box_area"),
    "quantised as they are": BoxRule(interpolation="linear", normalization="none"),
} | {name: protocol.rule for name, protocol in PROTOCOLS.items()}


def boxes(maps, rule, size=None):
    return ops.score_map_boxes(maps, GRID, rule, size=size)


def hits(maps, rule, size=None):
    truths = torch.tensor([[1.0, 0, 5, 4], [0, 2, 9, 9]], dtype=torch.float64)[: len(maps)]
    return ops.box_sweep_hits(maps, GRID, truths, torch.arange(len(maps) + 1), LEVELS, rule, size=size)


def maps_for(rule, h, w, dtype):
    """Scaled where the rule does not scale them."""
    maps = seeded((2, h, w), "cpu", torch.float64, seed=h)
    maps = maps.sigmoid() if rule.normalization in ("none", "min") else 40 * maps
    return maps.abs().to(dtype) if dtype == torch.uint8 else maps.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8, torch.int32], ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_one_step_gives_what_two_give(rule, dtype):
    for (h, w), size in [((4, 5), (13, 10)), ((12, 9), (5, 7)), ((1, 1), (3, 4)), ((6, 1), (6, 9)), ((7, 8), (7, 8))]:
        maps = maps_for(rule, h, w, dtype)
        size = (h, w) if rule.interpolation == "none" else size
        normalized = ops.normalize_score_map(maps, size, rule)
        expected, found = boxes(normalized, rule), boxes(maps, rule, size)
        assert torch.equal(found.boxes, expected.boxes)
        if rule.selection == "all":
            assert torch.equal(found.offsets, expected.offsets)
        assert torch.equal(hits(maps, rule, size), hits(normalized, rule))


def test_their_own_size_normalises_maps_only():
    maps = 3 * seeded((2, 6, 5), "cpu", torch.float64) - 1
    assert torch.equal(
        boxes(maps, BoxRule(), (6, 5)).boxes, boxes(ops.normalize_score_map(maps, None, BoxRule()), BoxRule()).boxes
    )
    with pytest.raises(ValueError, match=r"score_map_boxes: expected values in \[0, 1\]"):
        boxes(maps, BoxRule())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("quantize", [True, False])
def test_a_map_that_is_not_finite_has_the_empty_box_and_spoils_no_other(bad, quantize):
    maps = seeded((2, 4, 4), "cpu", torch.float64)
    rule = BoxRule(quantize=quantize, empty_box=(0, 0, 3, 3))
    expected = boxes(maps, rule, (8, 9)).boxes
    maps[0, 2, 1] = bad
    found = boxes(maps, rule, (8, 9)).boxes
    assert (found[0] == torch.tensor([0, 0, 3, 3])).all()
    assert torch.equal(found[1], expected[1])


def test_no_maps_have_no_boxes():
    none = torch.zeros(0, 4, 4)
    assert boxes(none, BoxRule(), (8, 8)).boxes.shape == (0, 20, 4)
    assert boxes(none, BoxRule(selection="all"), (8, 8)).offsets.tolist() == [0]
    assert hits(none, BoxRule(), (8, 8)).shape == (0, 20, 3)


def test_bytes_are_values_with_a_size_and_levels_without():
    levels = torch.tensor([[[10, 10], [110, 10]]], dtype=torch.uint8)
    rule = BoxRule(interpolation="none", relative=False, box_end="inclusive")
    cut = torch.tensor([0.03], dtype=torch.float64)
    assert ops.score_map_boxes(levels, cut, rule).boxes.tolist() == [[[0, 0, 1, 1]]]
    assert ops.score_map_boxes(levels, cut, rule, size=(2, 2)).boxes.tolist() == [[[0, 1, 0, 1]]]


@pytest.mark.parametrize("call", [boxes, hits])
@pytest.mark.parametrize(
    ("maps", "size", "rule", "message"),
    [
        (torch.zeros(3, 4), (4, 4), BoxRule(), r"expected maps of shape \[N, h, w\], got \[3, 4\]"),
        (torch.zeros(1, 2, 2, dtype=torch.cfloat), (4, 4), BoxRule(), "real-valued"),
        (torch.zeros(1, 2, 2), (0, 4), BoxRule(), r"expected a positive size \(H, W\), got \(0, 4\)"),
        (torch.zeros(1, 2, 2), (4, 4), BoxRule(interpolation="none"), 'interpolation="none"'),
        (torch.full((1, 2, 2), 2.0), (4, 4), BoxRule(normalization="none"), r"values in \[0, 1\], map 0 has"),
        (
            torch.full((1, 2, 2), torch.nan),
            (4, 4),
            BoxRule(normalization="none", quantize=False),
            "finite values, map 0",
        ),
    ],
)
def test_bad_input_is_named(call, maps, size, rule, message):
    name = {boxes: "score_map_boxes", hits: "box_sweep_hits"}[call]
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        call(maps, rule, size)
