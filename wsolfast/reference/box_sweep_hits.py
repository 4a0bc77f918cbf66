"""Reference of :func:`wsolfast.ops.box_sweep_hits`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wsolfast.reference._box_rule import unpack
from wsolfast.reference.score_map_boxes import boxes_of_map, maps_to_cut


def box_sweep_hits(
    maps: Tensor,
    thresholds: Tensor,
    gt_boxes: Tensor,
    gt_offsets: Tensor,
    iou_thresholds: Tensor,
    size: Sequence[int],
    rule: Sequence[float],
) -> Tensor:
    """Return bool [N, T, I]: the best overlap reaches the level. ``size`` is [] or [H, W], ``rule`` is packed."""
    switches = unpack(rule)
    offsets = gt_offsets.tolist()
    hits = torch.zeros(maps.shape[0], thresholds.shape[0], iou_thresholds.shape[0], dtype=torch.bool)
    for n, one in enumerate(maps_to_cut(maps, size, rule).cpu()):
        truths = gt_boxes[offsets[n] : offsets[n + 1]].tolist()
        if switches.gt == "first":
            truths = truths[:1]
        if not truths:
            continue
        best_of: dict[int, float] = {}
        for t, boxes in enumerate(boxes_of_map(one, thresholds.tolist(), switches)):
            if id(boxes) not in best_of:
                best_of[id(boxes)] = max(_iou(box, truth, switches.iou_plus_one) for box in boxes for truth in truths)
            best = best_of[id(boxes)]
            for i, level in enumerate(iou_thresholds.tolist()):
                hits[n, t, i] = best >= level if switches.hit == ">=" else best > level
    return hits.to(maps.device)


def _iou(a: Sequence[float], b: Sequence[float], plus_one: bool) -> float:
    extra = 1.0 if plus_one else 0.0
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + extra)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + extra)
    overlap = width * height
    area_a = (a[2] - a[0] + extra) * (a[3] - a[1] + extra)
    area_b = (b[2] - b[0] + extra) * (b[3] - b[1] + extra)
    union = area_a + area_b - overlap
    return overlap / union if union > 0 else 0.0
