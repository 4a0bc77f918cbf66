"""The published metrics, image by image and threshold by threshold, on NumPy and OpenCV."""

import cv2
import numpy as np

from wsolfast.testing import published_boxes


def max_box_hits(score_map, image_size, truths, thresholds, levels, every, side=224):
    """wsolevaluation's loop over one image: bool [T, I]. ``truths`` are inclusive integers of the original image."""
    width, height = image_size
    resized = cv2.resize(score_map.astype(np.float64), (side, side), interpolation=cv2.INTER_CUBIC)
    resized = resized - resized.min()
    resized = resized / resized.max()
    scale = np.array([width, height, width, height])
    truths = np.array([[int(c * float(side) / s) for c, s in zip(box, scale, strict=True)] for box in truths])
    hits = np.zeros((len(thresholds), len(levels)), dtype=bool)
    for t, boxes in enumerate(published_boxes.contour_boxes(resized, thresholds, every)):
        best = published_boxes.ious(boxes, truths).max()
        hits[t] = [best >= level for level in levels]
    return hits


def spa_error(mask, truths, class_is_right):
    """Kind of error of one union box; ``truths`` inclusive, pixels of the mask."""
    if not class_is_right:
        return "cls"
    box = np.array([published_boxes.union_box(mask)])
    ious = published_boxes.ious(box, truths)[0]
    if ious.max() > 0.5:
        return "correct"
    shares = []
    for truth in truths:
        width = min(box[0][2], truth[2]) - max(box[0][0], truth[0]) + 1
        height = min(box[0][3], truth[3]) - max(box[0][1], truth[1]) + 1
        overlap = max(0, width) * max(0, height)
        areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (truth, box[0])]
        shares.append((overlap / areas[0], overlap / areas[1]))
    if sum(of_truth > 0.3 for of_truth, _ in shares) > 1:
        return "m_ins"
    of_truth, of_box = shares[int(np.argmax(ious))]
    if of_box > 0.5:
        return "part"
    return "more" if of_truth >= 0.7 else "ot"


def px_ap(score_maps, masks, step, side):
    """wsolevaluation's mask evaluator over a data set; masks 0, 1, 255 at their own sizes."""
    edges = np.append(np.arange(0, 1, step), [1.0, 2.0, 3.0])
    histograms = np.zeros((2, len(edges) - 1))
    for score_map, mask in zip(score_maps, masks, strict=True):
        resized = cv2.resize(score_map.astype(np.float64), (side, side), interpolation=cv2.INTER_CUBIC)
        resized = resized - resized.min()
        resized = resized / resized.max()
        small = cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST)
        for kind in (0, 1):
            histograms[kind] += np.histogram(resized[small == kind], edges)[0]
    true_positives = histograms[1][::-1].cumsum()
    false_positives = histograms[0][::-1].cumsum()
    used = (true_positives + false_positives) != 0
    precision = true_positives[used] / (true_positives + false_positives)[used]
    recall = true_positives[used] / histograms[1].sum()
    steps = np.diff(recall, prepend=0.0)
    ious = true_positives / (histograms[1].sum() + false_positives)
    return 100 * float((precision * steps).sum()), 100 * ious.max()


def peak_iou(score_maps, masks):
    """Pooled IoU curve of 8-bit maps at the masks' sizes: (peak, threshold, mean-over-images peak)."""
    pooled, curves = np.zeros((256, 2)), []
    for score_map, mask in zip(score_maps, masks, strict=True):
        score_map = score_map.astype(np.float64)
        scaled = (score_map - score_map.min()) / (score_map.max() - score_map.min() + 1e-10)
        levels = np.floor(scaled * 255)
        levels = np.floor(cv2.resize(levels, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) + 0.5)
        above = [levels >= t for t in range(256)]
        pair = np.array([[(part & (mask == 1)).sum(), (part & (mask == 0)).sum()] for part in above])
        positives = (mask == 1).sum()
        curves.append(pair[:, 0] / (positives + pair[:, 1]))
        pooled += pair
    total = sum((mask == 1).sum() for mask in masks)
    curve = pooled[:, 0] / (total + pooled[:, 1])
    return curve.max() * 100, int(curve.argmax()), np.mean(curves, 0).max() * 100
