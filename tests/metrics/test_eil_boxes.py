"""Protocol ``eil`` against the released procedure, image by image."""

import cv2
import numpy as np
import pytest
import torch

from wsolfast.metrics import functional, get_protocol
from wsolfast.testing import published_boxes, seeded

PROTOCOL = get_protocol("eil")
WHOLE, SIDE, THRESHOLD = 256, 224, 0.15


def published_box(cam):
    """One inclusive box around all that exceeds 0.15 of the crop's 8-bit map."""
    scores = cv2.resize(cam, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    levels = ((scores - scores.min()) / (scores.max() - scores.min()) * 255).astype(np.uint8)
    rows, columns = (levels > int(THRESHOLD * levels.max())).nonzero()
    return [columns.min(), rows.min(), columns.max(), rows.max()]


def truth(box, size):
    """Corners in the crop of the warped image, within it."""
    scale = np.array([WHOLE / size[0], WHOLE / size[1]] * 2)
    return np.clip(np.array(box) * scale - (WHOLE - SIDE) // 2, 0, SIDE)


@pytest.mark.parametrize("side", [7, 14, 28])
def test_boxes_and_hits_follow_the_procedure(side):
    cams = seeded((24, side, side), "cpu", torch.float64, seed=side).abs()
    # Objects of a growing size, with one spark outside that the box reaches out to.
    for k, cam in enumerate(cams):
        cam[: 1 + k * side // 24, : 1 + k * side // 24] += 20
        cam[-1, 0] += 6 * (k % 2)
    size, boxes = (500, 375), [[30.0, 20.5, 180.0 + 12 * k, 160.0 + 8 * k] for k in range(24)]
    expected = np.array([published_box(cam) for cam in cams.numpy()])
    sizes = torch.tensor([size] * 24)
    found = functional.predicted_boxes(cams, sizes, PROTOCOL, THRESHOLD)
    hits = functional.box_hits(cams, sizes, [torch.tensor([box], dtype=torch.float64) for box in boxes], PROTOCOL)
    shift = (WHOLE - SIDE) // 2
    for k, (box, drawn) in enumerate(zip(expected, found, strict=True)):
        # Drawn boxes are half-open and in pixels of the image.
        outer = (np.array([box[0], box[1], box[2] + 1, box[3] + 1]) + shift) / WHOLE * np.array(size * 2)
        assert drawn[0].tolist() == pytest.approx(outer.tolist(), abs=1e-6)  # a rounding of float32
        overlap = published_boxes.ious(box[None].astype(float), truth(boxes[k], size)[None])
        assert hits[k, 0, 0] == (overlap.item() >= 0.5)
    assert 0 < hits.sum() < len(hits)


def test_the_published_settings():
    assert PROTOCOL.thresholds == (0.15,)
    assert (PROTOCOL.frame, PROTOCOL.resize, PROTOCOL.input_size) == ("crop", WHOLE, SIDE)
    assert (PROTOCOL.rule.selection, PROTOCOL.rule.box_end, PROTOCOL.rule.iou_plus_one) == ("union", "inclusive", True)
