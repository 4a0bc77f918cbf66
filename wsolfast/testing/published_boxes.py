"""Boxes and overlaps the published way: one OpenCV or SciPy call per threshold. Slow, independent of the library."""

from collections.abc import Iterable

import cv2
import numpy as np
from scipy import ndimage


def contour_boxes(
    score_map: np.ndarray, thresholds: Iterable[float], every: bool, percentile: float = 100
) -> list[np.ndarray]:
    """Return wsolevaluation's boxes at each threshold: of the 8-bit map's largest contour, or of every contour.

    Thresholds are parts of a percentile of the map, 100 its maximum.
    """
    levels = (score_map * 255).astype(np.uint8)
    height, width = levels.shape
    whole = levels.max() if percentile == 100 else np.percentile(levels, percentile)
    found = []
    for threshold in thresholds:
        _, binary = cv2.threshold(levels, int(threshold * whole), 255, cv2.THRESH_BINARY)
        contours = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
        if not contours:
            found.append(np.array([[0, 0, 0, 0]]))
            continue
        kept = contours if every else [max(contours, key=cv2.contourArea)]
        boxes = []
        for contour in kept:
            x, y, w, h = cv2.boundingRect(contour)
            boxes.append([x, y, min(x + w, width - 1), min(y + h, height - 1)])
        found.append(np.array(boxes))
    return found


def union_box(mask: np.ndarray) -> list[int]:
    """Return the box of DANet and SPA: around everything, last pixel included."""
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max(), rows.max()] if rows.size else [0, 0, 0, 0]


def largest_rectangle(mask: np.ndarray) -> list[int]:
    """Return the box of CI-CAM and DANet's "max": the largest one around a 4-connected component, ends exclusive."""
    slices = ndimage.find_objects(ndimage.label(mask)[0])
    if not slices:
        return [0, 0, 0, 0]
    areas = [(y.stop - y.start) * (x.stop - x.start) for y, x in slices]
    y, x = slices[int(np.argmax(areas))]
    return [x.start, y.start, x.stop, y.stop]


def most_pixels(mask: np.ndarray) -> list[int]:
    """Return the box of PSOL: around the 8-connected component with most pixels, ends exclusive."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return [0, 0, 0, 0]
    y, x = ndimage.find_objects(labels)[int(np.argmax(np.bincount(labels.ravel())[1:]))]
    return [x.start, y.start, x.stop, y.stop]


def ious(boxes: np.ndarray, truths: np.ndarray, extra: int = 1) -> np.ndarray:
    """Return the IoU [P, G] of boxes that contain their last pixel, or of half-open ones with ``extra=0``.

    NumPy's own arithmetic and not :func:`wsolfast.metrics.box_iou`, which is compared with it.
    """
    a, b = boxes[:, None], truths[None]
    width = np.maximum(0, np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + extra)
    height = np.maximum(0, np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + extra)
    shared = width * height
    areas = [(c[..., 2] - c[..., 0] + extra) * (c[..., 3] - c[..., 1] + extra) for c in (a, b)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros(union.shape), where=union > 0)
