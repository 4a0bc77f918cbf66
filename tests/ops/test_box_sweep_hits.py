import numpy as np
import pytest
import torch

from wsolfast import ops
from wsolfast.ops import BoxRule
from wsolfast.testing import published_boxes as oracle

GRID = torch.arange(25, dtype=torch.float64) / 25
LEVELS = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)


def random_truths(rng, width, height):
    corners = np.sort(rng.integers(0, [[[width], [height]]], (rng.integers(0, 4), 2, 2)), axis=-1)
    return corners.transpose(0, 2, 1).reshape(-1, 4).astype(np.float64)


@pytest.mark.parametrize("every", [False, True], ids=["single", "multi"])
def test_hits_are_those_of_the_published_loop(every):
    rng = np.random.default_rng(3)
    maps = rng.random((12, 10, 13))
    maps[::2] = np.sqrt(maps[::2] * np.linspace(0, 1, 13))
    truths = [random_truths(rng, 13, 10) for _ in maps]
    expected = np.zeros((12, 25, 3), dtype=bool)
    for n, one in enumerate(maps):
        for t, boxes in enumerate(oracle.contour_boxes(one, GRID.tolist(), every)):
            if len(truths[n]):
                expected[n, t] = oracle.ious(boxes, truths[n]).max() >= LEVELS.numpy()
    found = ops.box_sweep_hits(
        torch.from_numpy(maps),
        GRID,
        torch.from_numpy(np.concatenate(truths)),
        torch.tensor(np.cumsum([0] + [len(boxes) for boxes in truths])),
        LEVELS,
        BoxRule(selection="all" if every else "contour_area"),
    )
    assert expected.any()
    assert np.array_equal(found.numpy(), expected)


def hit(rule, truths, levels=(0.5,)):
    """The map's one box is (1, 1)-(2, 2), last pixel included."""
    maps = torch.zeros(1, 4, 4, dtype=torch.float64)
    maps[0, 1:3, 1:3] = 1
    boxes = torch.tensor(truths, dtype=torch.float64)
    offsets = torch.tensor([0, len(truths)])
    return ops.box_sweep_hits(maps, GRID[:1], boxes, offsets, torch.tensor(levels, dtype=torch.float64), rule)[0, 0]


def test_reaching_and_exceeding_the_level_differ_at_the_level():
    rule = {"box_end": "inclusive", "selection": "union"}
    half = [[1, 1, 2, 1]]
    assert hit(BoxRule(**rule, hit=">="), half).item()
    assert not hit(BoxRule(**rule, hit=">"), half).item()


def test_plus_one_widens_both_boxes():
    assert hit(BoxRule(box_end="inclusive"), [[1, 1, 2, 2]], [1.0]).item()
    # Half-open boxes of the same pixels overlap fully without it.
    assert hit(BoxRule(box_end="exclusive", iou_plus_one=False), [[1, 1, 3, 3]], [1.0]).item()
    assert not hit(BoxRule(box_end="inclusive", iou_plus_one=False), [[1, 1, 3, 3]], [0.5]).item()


def test_first_ignores_the_other_true_boxes():
    truths = [[0, 0, 0, 0], [1, 1, 2, 2]]
    assert hit(BoxRule(box_end="inclusive", gt="any"), truths).item()
    assert not hit(BoxRule(box_end="inclusive", gt="first"), truths).item()


def test_an_image_without_true_boxes_is_never_hit():
    maps = torch.ones(1, 4, 4)
    none = torch.zeros(0, 4, dtype=torch.float64)
    hits = ops.box_sweep_hits(maps, GRID, none, torch.zeros(2, dtype=torch.int64), LEVELS * 0, BoxRule())
    assert not hits.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gt_boxes": torch.zeros(1, 5, dtype=torch.float64)}, r"gt_boxes as real numbers \[G, 4\], got .* \[1, 5\]"),
        ({"gt_boxes": torch.tensor([[2.0, 0, 1, 1]], dtype=torch.float64)}, r"gt_boxes\[0\] = .* x0 <= x1"),
        ({"gt_offsets": torch.tensor([0, 2])}, "must rise from 0 to 1"),
        ({"gt_offsets": torch.tensor([0, 0, 1])}, r"integers of shape \[2\] for gt_offsets"),
        ({"iou_thresholds": LEVELS[None]}, "iou_thresholds as real numbers"),
        ({"iou_thresholds": LEVELS / 0}, "iou_thresholds hold"),
        ({"maps": torch.full((1, 4, 4), 2.0)}, "box_sweep_hits: expected values in"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "maps": torch.ones(1, 4, 4),
        "thresholds": GRID,
        "gt_boxes": torch.zeros(1, 4, dtype=torch.float64),
        "gt_offsets": torch.tensor([0, 1]),
        "iou_thresholds": LEVELS,
    }
    with pytest.raises(ValueError, match=message):
        ops.box_sweep_hits(**(arguments | change), rule=BoxRule())
