"""Protocol ``rethinking_cam`` against the released procedure, image by image, on drawn maps and on real ones."""

import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast import backbones, ops
from wsolfast.metrics import frames, functional, get_protocol
from wsolfast.testing import published_boxes, seeded

PROTOCOL = get_protocol("rethinking_cam")
WHOLE, SIDE = 256, 224
WEIGHTS = "squeezenet1_1_imagenet.pt"
# The paper's percentiles and the maximum, which is its baseline, with the released thresholds.
CUTS = [(80, 0.35), (85, 0.35), (90, 0.35), (95, 0.35), (100, 0.2)]


def published_box(cam, percentile, threshold):
    """The largest contour of what exceeds a part of a percentile of the crop's 8-bit map; the crop without any."""
    scores = cv2.resize(cam, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    spread = scores.max() - scores.min()
    levels = ((scores - scores.min()) / spread * 255 if spread > 0 else 0 * scores).astype(np.uint8)
    cut = int(threshold * np.percentile(levels, q=percentile))
    mask = cv2.threshold(levels, cut, 255, cv2.THRESH_BINARY)[1]
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
    if not contours:
        return [0, 0, SIDE, SIDE]
    x, y, width, height = cv2.boundingRect(max(contours, key=cv2.contourArea))
    return [x, y, x + width, y + height]


def published_truth(box, size):
    """Corners of x, y, w, h, as CUB lists them, in the crop of the warped image."""
    x, y, width, height = box
    shift = float((WHOLE - SIDE) // 2)
    first = [max(int(at / side * WHOLE - shift), 0) for at, side in zip((x, y), size, strict=True)]
    ends = (x + width - 1, y + height - 1)
    last = [min(int(at / side * WHOLE - shift), SIDE - 1) for at, side in zip(ends, size, strict=True)]
    return [*first, *last]


def as_truth(box):
    x, y, width, height = box
    return torch.tensor([[x, y, x + width, y + height]], dtype=torch.float64)


def drawn_boxes(count, size, seed):
    """Whole pixels and tenths, at borders and outside the crop as well: x, y, w, h."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(-2, 1.02 * np.array(size), (count, 2, 2)), axis=1)
    corners[::2] = np.round(corners[::2])
    boxes = np.concatenate([corners[:, 0], np.maximum(corners[:, 1] - corners[:, 0], 1)], 1)
    return np.round(boxes, 1).tolist()


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (224, 256), (61, 97)])
def test_true_boxes_go_to_the_crop_as_released(size):
    boxes = drawn_boxes(400, size, seed=size[0])
    found = frames.gt_in_frame(list(map(as_truth, boxes)), [size] * len(boxes), PROTOCOL)
    outside = 0
    for box, ours in zip(boxes, found, strict=True):
        theirs = published_truth(box, size)
        if theirs[2] < theirs[0] or theirs[3] < theirs[1]:
            assert len(ours) == 0
            outside += 1
        else:
            assert ours.tolist() == [theirs]
    assert 0 < outside < 100


def assert_boxes_and_hits_follow_the_procedure(cams, boxes, sizes, percentile, threshold):
    """Some hit and some do not."""
    protocol = replace(PROTOCOL, rule=replace(PROTOCOL.rule, percentile=percentile), thresholds=(threshold,))
    cut = torch.tensor([threshold], dtype=torch.float64)
    expected = [published_box(cam, percentile, threshold) for cam in cams.double().numpy()]
    assert ops.score_map_boxes(cams, cut, protocol.rule, size=SIDE).boxes[:, 0].tolist() == expected
    hits = functional.box_hits(cams, torch.tensor(sizes), list(map(as_truth, boxes)), protocol)[:, 0, 0].tolist()
    for found, box, size, hit in zip(expected, boxes, sizes, hits, strict=True):
        overlap = published_boxes.ious(np.array([found]), np.array([published_truth(box, size)]))
        assert hit == (overlap.item() >= 0.5)
    assert 0 < sum(hits) < len(hits)


@pytest.mark.parametrize(("percentile", "threshold"), CUTS)
@pytest.mark.parametrize("side", [7, 14, 28])
def test_boxes_and_hits_of_drawn_maps(side, percentile, threshold):
    cams = seeded((24, side, side), "cpu", torch.float64, seed=side).abs()
    cams[1] = cams[1].round()
    cams[2] = 0.0
    cams[3, 0, 0] = 90.0
    boxes = [(40, 30, 410 - 15 * k, 300) for k in range(24)]
    assert_boxes_and_hits_follow_the_procedure(cams, boxes, [(500, 375)] * 24, percentile, threshold)


@pytest.mark.realdata
def test_boxes_and_hits_of_real_maps(real_data):
    """Of the labels, by a pretrained network, each over its whole image."""
    folder = real_data / "ilsvrc_val400_227"
    with (folder / "annotations.csv").open() as file:
        rows = list(csv.DictReader(file))[::13]
    backbone = backbones.build("squeezenet1_1", layout="stride16", weights=str(real_data / "weights" / WEIGHTS)).eval()
    images = np.stack([np.asarray(Image.open(folder / row["image"]).convert("RGB")) for row in rows])
    with torch.no_grad():
        features = backbone(torch.from_numpy(images).permute(0, 3, 1, 2)[:, :, 1:225, 1:225])["conv5"]
    weights = backbone.classifier.weight[[int(row["class_id"]) for row in rows]].detach()
    cams = torch.einsum("nc,nchw->nhw", weights, features)
    corners = [[int(row[f"orig_{name}"]) for name in ("x0", "y0", "x1", "y1")] for row in rows]
    boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in corners]
    sizes = [(int(row["orig_width"]), int(row["orig_height"])) for row in rows]
    for percentile, threshold in CUTS:
        assert_boxes_and_hits_follow_the_procedure(cams, boxes, sizes, percentile, threshold)


def test_the_published_settings():
    assert (PROTOCOL.rule.percentile, PROTOCOL.thresholds) == (90, (0.35,))
    assert (PROTOCOL.frame, PROTOCOL.resize, PROTOCOL.input_size) == ("crop", WHOLE, SIDE)
