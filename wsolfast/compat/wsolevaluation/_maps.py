"""Score maps and boxes: checks, scaling, boxes of a map, overlap."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from wsolfast import _numpy

_FLOATS = (np.float64, np.float32, np.float16)


def t2n(tensor: Any) -> np.ndarray:
    """Return a tensor of any device and floating type as a float64 array."""
    return tensor.detach().cpu().double().numpy()


def normalize_scoremap(cam: np.ndarray) -> np.ndarray:
    """Return the map ``cam`` scaled to [0, 1] in place, or zeros if it is constant or holds a NaN."""
    if np.isnan(cam).any() or cam.min() == cam.max():
        return np.zeros_like(cam)
    cam -= cam.min()
    cam /= cam.max()
    return cam


def check_scoremap_validity(scoremap: Any) -> None:
    """Raise an error that says what is wrong with ``scoremap``, if anything is.

    Raises:
        TypeError: if it is no array of floating point numbers.
        ValueError: if it is not 2-d, or holds a NaN or a value outside [0, 1].
    """
    if not isinstance(scoremap, np.ndarray):
        raise TypeError(f"score map: expected a numpy array, got {type(scoremap)}")
    if scoremap.dtype not in _FLOATS:
        raise TypeError(f"score map: expected float64, float32 or float16 values, got {scoremap.dtype}")
    if scoremap.ndim != 2:
        raise ValueError(f"score map: expected a 2-d array, got {scoremap.ndim} dimensions")
    if np.isnan(scoremap).any():
        raise ValueError("score map: holds a NaN")
    if (scoremap > 1).any() or (scoremap < 0).any():
        raise ValueError(f"score map: expected values in [0, 1], got {scoremap.min()} to {scoremap.max()}")


def check_box_convention(boxes: np.ndarray, convention: str) -> None:
    """Raise an error if boxes, an array [4] or [N, 4], cannot be of a convention.

    Raises:
        RuntimeError: if a coordinate, width or height is negative, or the shape is another one.
        ValueError: if ``convention`` is neither "x0y0x1y1" nor "xywh".
    """
    if (boxes < 0).any():
        raise RuntimeError("boxes: a coordinate is negative")
    if boxes.ndim == 1:
        boxes = boxes[None]
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise RuntimeError(f"boxes: expected an array [4] or [N, 4], got shape {list(boxes.shape)}")
    if convention not in ("x0y0x1y1", "xywh"):
        raise ValueError(f"boxes: expected convention 'x0y0x1y1' or 'xywh', got {convention!r}")
    if convention == "x0y0x1y1" and (boxes[:, 2:] < boxes[:, :2]).any():
        raise RuntimeError("boxes: x1 < x0 or y1 < y0, not of convention x0y0x1y1")


def resize_bbox(
    box: Iterable[int], image_size: tuple[int, int], resize_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return a box in pixels of the resized image, coordinates truncated.

    Args:
        box: x0, y0, x1, y1.
        image_size: (width, height), as ``resize_size``.

    Raises:
        RuntimeError: if the box is not x0y0x1y1.
    """
    check_box_convention(np.array(box), "x0y0x1y1")
    x0, y0, x1, y1 = (
        int(corner * float(resized) / original)
        for corner, resized, original in zip(box, [*resize_size] * 2, [*image_size] * 2, strict=True)
    )
    return x0, y0, x1, y1


def calculate_multiple_iou(box_a: np.ndarray, box_b: np.ndarray) -> np.ndarray:
    """Return the IoU of every two boxes, both of which contain their last pixel.

    Args:
        box_a: [A, 4], x0y0x1y1.
        box_b: [B, 4].

    Returns:
        [A, B]: float64.

    Raises:
        RuntimeError: if a box is not x0y0x1y1.
    """
    check_box_convention(box_a, "x0y0x1y1")
    check_box_convention(box_b, "x0y0x1y1")
    # The drop-in imports no torch, which metrics.box_iou does.
    a, b = box_a[:, None], box_b[None]
    shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    intersection = np.maximum(shared, 0).prod(-1)
    union = (a[..., 2:] - a[..., :2] + 1).prod(-1) + (b[..., 2:] - b[..., :2] + 1).prod(-1) - intersection
    return np.divide(intersection, union, out=np.zeros(union.shape), where=union > 0)


def compute_bboxes_from_scoremaps(
    scoremap: np.ndarray, scoremap_threshold_list: Sequence[float], multi_contour_eval: bool = False
) -> tuple[list[np.ndarray], list[int]]:
    """Return the boxes of a score map at each threshold: of the largest contour, or of every one, holes included.

    Args:
        scoremap: [H, W], values in [0, 1].
        scoremap_threshold_list: shares of the maximum.
        multi_contour_eval: every contour gives a box.

    Returns:
        int64 [n_t, 4] per threshold, x0y0x1y1, in OpenCV's order of contours; and every n_t. Without foreground there
        is one box, 0, 0, 0, 0.

    Raises:
        TypeError, ValueError: see :func:`check_scoremap_validity`.
    """
    check_scoremap_validity(scoremap)
    thresholds = np.asarray(scoremap_threshold_list, dtype=np.float64)
    boxes, counts = _numpy.compute_bboxes(scoremap, thresholds, bool(multi_contour_eval))
    ends = np.cumsum(counts)
    return [boxes[end - count : end] for count, end in zip(counts, ends, strict=True)], counts.tolist()


class CamDataset:
    """Score maps on disk: item i is the map ``<scoremap_path>/<image id>.npy`` of ``image_ids[i]``, and that id."""

    def __init__(self, scoremap_path: str, image_ids: Sequence[str]):
        self.scoremap_path = scoremap_path
        self.image_ids = image_ids

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        image_id = self.image_ids[index]
        return np.load(os.path.join(self.scoremap_path, f"{image_id}.npy")), image_id

    def __len__(self) -> int:
        return len(self.image_ids)
