"""Findings as objects of supervision."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wsolfast.export.findings import Finding


def to_supervision(finding: Finding, class_names: Sequence[str]) -> Any:
    """``supervision.Detections`` of an image; a mask belongs to all boxes of its image, cut to each.

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
    masks = np.zeros((count, *finding.mask.shape), dtype=bool)
    for k, (x0, y0, x1, y1) in enumerate(_pixels(finding)):
        masks[k, y0:y1, x0:x1] = finding.mask[y0:y1, x0:x1]
    return supervision.Detections(
        xyxy=finding.boxes.float().numpy(),
        mask=masks,
        confidence=np.full(count, finding.score, dtype=np.float32),
        class_id=np.full(count, finding.label),
        data={"class_name": np.array([class_names[finding.label]] * count)},
    )


def _pixels(finding: Finding) -> list[list[int]]:
    """The whole pixels that the boxes touch."""
    low, high = finding.boxes[:, :2].floor(), finding.boxes[:, 2:].ceil()
    return [[*map(int, (*start, *end))] for start, end in zip(low.tolist(), high.tolist(), strict=True)]
