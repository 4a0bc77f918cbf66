"""Comparison of the engine with the published way, one OpenCV call per image and threshold."""

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.engine.run.errors import BackendError, CheckError
from wsolfast.metrics import PixelAccuracy, Protocol, box_iou
from wsolfast.metrics.functional import rule_hits
from wsolfast.ops import BoxRule


def import_opencv() -> ModuleType:
    """Import ``cv2``.

    Raises:
        BackendError: if it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise BackendError("comparing with OpenCV needs it; pip install 'wsolfast[fast]'") from None
    return cv2


def compare_boxes(
    image_id: str,
    score_map: Tensor,
    image_size: tuple[int, int],
    gt_boxes: Tensor,
    protocol: Protocol,
    rules: dict[str, BoxRule],
) -> None:
    """Compare the boxes and hits of MaxBoxAcc and MaxBoxAccV2 for one image with those of OpenCV.

    Args:
        score_map (Tensor[h, w]): as it is in its file.
        image_size: (w, h) of the original image.
        gt_boxes (Tensor[G, 4]): in its pixels.
        protocol: wsolevaluation, with any thresholds.
        rules: by what to call them: those of the largest contour and of all contours.

    Raises:
        CheckError: at the first difference, naming image and threshold.
    """
    # wsolevaluation compares at one size.
    assert protocol.input_size is not None
    side, thresholds = protocol.input_size, torch.tensor(protocol.thresholds, dtype=torch.float64)
    scores = ops.normalize_score_map(score_map[None], (side, side), protocol.rule)
    levels = _quantized(_normalized(score_map, side))
    truths = torch.tensor([[_truncated(c, s, side) for c, s in zip(b, image_size * 2, strict=True)] for b in gt_boxes])
    hits = rule_hits([score_map], torch.tensor([image_size]), [gt_boxes], protocol, list(rules.values()))
    for (name, rule), ours in zip(rules.items(), hits, strict=True):
        found = ops.score_map_boxes(scores, thresholds, rule)
        each = found.boxes[0].split(1) if found.offsets is None else found.boxes.split(found.offsets.diff().tolist())
        for t, threshold in enumerate(protocol.thresholds):
            where = f"{image_id}, threshold {threshold:g}, {name}"
            theirs = _boxes(levels, threshold, every=rule.selection == "all")
            if each[t].tolist() != theirs:
                raise CheckError(f"{where}: OpenCV finds boxes {_few(theirs)}, wsolfast {_few(each[t].tolist())}")
            best = float(box_iou(torch.tensor(theirs), truths, plus_one=True).max())
            right = [best >= level for level in protocol.iou_thresholds]
            if ours[0, t].tolist() != right:
                raise CheckError(
                    f"{where}: the loop's best overlap is {best:.6f}, but wsolfast says {ours[0, t].tolist()} for "
                    f"overlaps of {', '.join(f'{level:g}' for level in protocol.iou_thresholds)}"
                )


def compare_pixels(image_id: str, score_map: Tensor, mask: Tensor, thresholds: tuple[float, ...]) -> None:
    """Compare PxAP's histograms of one image with those of OpenCV and NumPy.

    Args:
        score_map (Tensor[h, w]): as it is in its file.
        mask (Tensor[H, W]): uint8, 0 background, 1 object, 255 ignored.

    Raises:
        CheckError: at the first difference, naming image and threshold.
    """
    cv2 = import_opencv()
    accuracy = PixelAccuracy(thresholds=thresholds)
    ours = accuracy.count([score_map], [mask])["scores"].numpy()
    small = cv2.resize(mask.numpy(), (accuracy.size, accuracy.size), interpolation=cv2.INTER_NEAREST)
    edges, scores = np.append(thresholds, [1.0, 2.0, 3.0]), _normalized(score_map, accuracy.size)
    for kind, name in enumerate(("background", "object")):
        theirs = np.histogram(scores[small == kind], edges)[0]
        if (ours[kind] != theirs).any():
            k = int((ours[kind] != theirs).argmax())
            raise CheckError(
                f"{image_id}, threshold {edges[k]:g}: NumPy counts {theirs[k]} {name} pixels up to {edges[k + 1]:g}, "
                f"wsolfast {ours[kind, k]}"
            )


def _normalized(score_map: Tensor, side: int) -> np.ndarray:
    cv2 = import_opencv()
    scores = cv2.resize(score_map.double().numpy(), (side, side), interpolation=cv2.INTER_CUBIC)
    if not np.isfinite(scores).all() or scores.min() == scores.max():
        return np.zeros_like(scores)
    scores -= scores.min()
    return scores / scores.max()


def _quantized(scores: np.ndarray) -> np.ndarray:
    return (scores * 255).astype(np.uint8)


def _truncated(corner: float, size: int, side: int) -> int:
    return int(min(float(corner), size - 1) * side / size)


def _boxes(levels: np.ndarray, threshold: float, every: bool) -> list[list[int]]:
    cv2 = import_opencv()
    height, width = levels.shape
    _, mask = cv2.threshold(levels, int(threshold * levels.max()), 255, cv2.THRESH_BINARY)
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
    if not contours:
        return [[0, 0, 0, 0]]
    rectangles = map(cv2.boundingRect, contours if every else [max(contours, key=cv2.contourArea)])
    return [[x, y, min(x + w, width - 1), min(y + h, height - 1)] for x, y, w, h in rectangles]


def _few(boxes: list[list[int]]) -> str:
    return f"{boxes}" if len(boxes) <= 3 else f"{boxes[:3]} and {len(boxes) - 3} more"
