"""The boxes of protocols ``cicam`` and ``nlccam`` against the released procedure, step by step and pixel by pixel."""

import pytest
import torch
from torch.nn.functional import interpolate

from wsolfast import ops
from wsolfast.metrics import get_protocol
from wsolfast.testing import seeded


def largest_rectangle(mask):
    """Bounding rectangle, exclusive ends, of the 4-connected component where it is largest; the first among equals."""
    height, width = mask.shape
    seen = torch.zeros_like(mask)
    best, best_area = (0, 0, 0, 0), 0
    for y, x in mask.nonzero().tolist():
        if seen[y, x]:
            continue
        seen[y, x] = True
        waiting, rows, columns = [(y, x)], [], []
        while waiting:
            r, c = waiting.pop()
            rows.append(r)
            columns.append(c)
            for a, b in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                if 0 <= a < height and 0 <= b < width and mask[a, b] and not seen[a, b]:
                    seen[a, b] = True
                    waiting.append((a, b))
        area = (max(rows) + 1 - min(rows)) * (max(columns) + 1 - min(columns))
        if area > best_area:
            best, best_area = (min(columns), min(rows), max(columns) + 1, max(rows) + 1), area
    return best


def published(cam, side, theta):
    """Minus its minimum, bilinear, cut at theta times the maximum, then at the mean of what is left."""
    cam = cam - cam.min()
    cam = interpolate(cam[None, None], size=(side, side), mode="bilinear", align_corners=False)[0, 0]
    cut = torch.where(cam > theta * cam.max(), cam, 0)
    return largest_rectangle(cut > cut.mean())


@pytest.mark.parametrize("theta", [0.0, 0.12, 0.4])
@pytest.mark.parametrize("shape", [(14, 14), (5, 7)])
def test_boxes_follow_the_released_procedure(shape, theta):
    rule = get_protocol("cicam").rule
    cams = seeded((6, *shape), dtype=torch.float64)
    # Raw combined maps and the same scaled to [0, 1] are cut alike.
    for maps in (cams, ops.min_max_normalize(cams)):
        found = ops.score_map_boxes(
            ops.normalize_score_map(maps, (56, 56), rule), torch.tensor([theta], dtype=torch.float64), rule
        )
        assert found.boxes[:, 0].tolist() == [list(published(cam, 56, theta)) for cam in cams]


def test_the_second_cut_is_what_selects_at_theta_zero():
    cam = torch.zeros(1, 8, 8, dtype=torch.float64)
    cam[0, 1:7, 1:7], cam[0, 3:5, 3:5] = 0.1, 1.0
    rule = get_protocol("cicam").rule
    found = ops.score_map_boxes(cam, torch.tensor([0.0], dtype=torch.float64), rule)
    assert found.boxes[0, 0].tolist() == [3, 3, 5, 5]


@pytest.mark.parametrize(("name", "expected"), [("cicam", [4, 5, 6, 8]), ("spa", [1, 1, 5, 7])])
def test_two_blobs(name, expected):
    """A 2x2 blob and a 3x2 one: CI-CAM takes the larger rectangle, SPA the union, whose ends are inclusive."""
    mask = torch.zeros(1, 8, 8, dtype=torch.float64)
    mask[0, 1:3, 1:3], mask[0, 5:8, 4:6] = 1, 1
    found = ops.score_map_boxes(mask, torch.tensor([0.5], dtype=torch.float64), get_protocol(name).rule)
    assert found.boxes[0, 0].tolist() == expected


def test_constant_map_has_no_box():
    rule = get_protocol("cicam").rule
    maps = ops.normalize_score_map(torch.full((1, 3, 3), 0.7), (8, 8), rule)
    found = ops.score_map_boxes(maps, torch.tensor([0.0, 0.12], dtype=torch.float64), rule)
    assert not found.boxes.any()


def test_published_thresholds_and_frames():
    assert 0.0 in get_protocol("cicam").thresholds
    assert get_protocol("nlccam").thresholds == (0.12,)
    assert get_protocol("cicam").box_scaling == "truncate"
    assert get_protocol("nlccam").box_scaling == "round"
    assert get_protocol("kg_center_crop").frame == "crop"
