"""Findings as objects of supervision and of FiftyOne."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wsolfast.export.findings import Finding


def to_supervision(finding: Finding, class_names: Sequence[str]) -> Any:
    """Make ``supervision.Detections`` of an image; its mask, if it has one, belongs to all of its boxes, cut to each.

    Args:
        finding: of an image.
        class_names: one per class.

    Returns:
        The detections: a box each.

    Raises:
        ImportError: if supervision is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise ImportError("supervision is not installed; pip install 'wsolfast[export]'") from None
    count = len(finding.boxes)
    if count == 0:
        return supervision.Detections.empty()
    masks = None if finding.mask is None else np.zeros((count, *finding.mask.shape), dtype=bool)
    for k, (x0, y0, x1, y1) in enumerate(_pixels(finding)):
        if masks is not None and finding.mask is not None:
            masks[k, y0:y1, x0:x1] = finding.mask[y0:y1, x0:x1]
    return supervision.Detections(
        xyxy=finding.boxes.float().numpy(),
        mask=masks,
        confidence=np.full(count, finding.score, dtype=np.float32),
        class_id=np.full(count, finding.label),
        data={"class_name": np.array([class_names[finding.label]] * count)},
    )


def to_fiftyone(finding: Finding, class_names: Sequence[str]) -> dict[str, Any]:
    """Make the fields of a ``fiftyone.Sample`` of an image: its boxes with their part of the mask, and the score map.

    No database is touched: ``fiftyone.Sample(filepath=..., **to_fiftyone(finding, names))`` is a sample of one's own.

    Args:
        finding: of an image.
        class_names: one per class.

    Returns:
        ``localization``, ``fiftyone.Detections``, whose boxes are x, y, width, height as shares of the image; and
        ``score_map``, a ``fiftyone.Heatmap``, which a method that gives boxes has not.

    Raises:
        ImportError: if fiftyone is not installed.
    """
    try:
        import fiftyone
    except ImportError:
        raise ImportError("fiftyone is not installed; pip install fiftyone") from None
    width, height = finding.size
    found = []
    for (left, top, right, bottom), (x0, y0, x1, y1) in zip(finding.boxes.tolist(), _pixels(finding), strict=True):
        shares = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        masked = {} if finding.mask is None else {"mask": finding.mask[y0:y1, x0:x1].numpy()}
        name = class_names[finding.label]
        found.append(fiftyone.Detection(label=name, bounding_box=shares, confidence=finding.score, **masked))
    fields = {"localization": fiftyone.Detections(detections=found)}
    if finding.score_map is not None:
        fields["score_map"] = fiftyone.Heatmap(map=finding.score_map.float().numpy(), range=[0, 1])
    return fields


def _pixels(finding: Finding) -> list[list[int]]:
    """Return the whole pixels that the boxes touch."""
    low, high = finding.boxes[:, :2].floor(), finding.boxes[:, 2:].ceil()
    return [[*map(int, (*start, *end))] for start, end in zip(low.tolist(), high.tolist(), strict=True)]
