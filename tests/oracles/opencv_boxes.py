"""wsolevaluation's box extraction, written box by box with OpenCV: the truth that the engine is held against."""

import cv2
import numpy as np

from wsolfast.testing import published_boxes


def contours_of(mask: np.ndarray) -> list[np.ndarray]:
    """Return the contours of a uint8 mask in OpenCV's order, those of holes included."""
    return list(cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2])


def clipped_box(contour: np.ndarray, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(contour)
    return x, y, min(x + width, shape[1] - 1), min(y + height, shape[0] - 1)


def largest_and_all(mask: np.ndarray) -> tuple[tuple[int, int, int, int], list[tuple[int, int, int, int]]]:
    """Return the box of the first contour of largest area, and every contour's; (0, 0, 0, 0) for an empty mask."""
    contours = contours_of(mask)
    if not contours:
        return (0, 0, 0, 0), [(0, 0, 0, 0)]
    boxes = [clipped_box(contour, mask.shape) for contour in contours]
    areas = [cv2.contourArea(contour) for contour in contours] if len(contours) > 1 else [0.0]
    return boxes[areas.index(max(areas))], boxes


def boxes_of_mask(mask: np.ndarray, multi: bool) -> list[tuple[int, int, int, int]]:
    """Return every contour's box, or that of the first contour of largest area; (0, 0, 0, 0) for an empty mask."""
    largest, boxes = largest_and_all(mask)
    return boxes if multi else [largest]


def cuts_of(levels: np.ndarray, thresholds, percentile: float | None = None) -> list[int]:
    """Return the integer cut of each threshold, relative to the map's maximum or to NumPy's percentile of it."""
    top = int(levels.max()) if percentile is None else np.percentile(levels, percentile)
    return [int(threshold * top) for threshold in thresholds]


def quantized(score_map: np.ndarray) -> np.ndarray:
    return (score_map * 255).astype(np.uint8)


def compute_boxes(
    score_map: np.ndarray, thresholds, multi: bool, percentile: float | None = None
) -> tuple[list[tuple], list[int]]:
    """Return the boxes of all thresholds and how many each has; one search per distinct cut."""
    levels = quantized(score_map)
    found: dict[int, list] = {}
    boxes, counts = [], []
    for cut in cuts_of(levels, thresholds, percentile):
        if cut not in found:
            found[cut] = boxes_of_mask(cv2.threshold(levels, cut, 255, cv2.THRESH_BINARY)[1], multi)
        boxes += found[cut]
        counts.append(len(found[cut]))
    return boxes, counts


def best_overlap(boxes, truths: np.ndarray) -> float:
    """Best inclusive (+1) IoU between two sets of integer boxes."""
    return float(published_boxes.ious(np.asarray(boxes), truths).max())
