"""Overlaps of the boxes of score maps with the true boxes, at many thresholds."""

from typing import Any

import torch
from torch import Tensor

from wsolfast.ops._checks import as_tensor, as_vector, check_classes, holds_reals
from wsolfast.ops._registry import define_op
from wsolfast.ops.box_rule import BoxRule
from wsolfast.ops.score_map_boxes import checked_arguments, values_can_be_read
from wsolfast.reference import box_sweep_hits as reference


def _fake(
    maps: Tensor, thresholds: Tensor, gt_boxes: Tensor, gt_offsets: Tensor, iou_thresholds: Tensor, *options: Any
) -> Tensor:
    return maps.new_empty((maps.shape[0], thresholds.shape[0], iou_thresholds.shape[0]), dtype=torch.bool)


_OP = define_op(
    "box_sweep_hits",
    reference=reference.box_sweep_hits,
    fake=_fake,
)


def box_sweep_hits(
    maps: Tensor,
    thresholds: Tensor,
    gt_boxes: Tensor,
    gt_offsets: Tensor,
    iou_thresholds: Tensor,
    rule: BoxRule,
    *,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Test at each threshold if the best overlap of a map's boxes with its true boxes reaches each level.

    The same as comparing every box of :func:`score_map_boxes` with every true box, without keeping the boxes.

    Args:
        maps (Tensor[N, H, W]): as for :func:`score_map_boxes`; with ``size`` raw (Tensor[N, h, w]).
        thresholds (Tensor[T]): as for :func:`score_map_boxes`.
        gt_boxes (Tensor[G, 4]): xyxy in pixels of the maps or of ``size``, in the convention of
            ``rule.iou_plus_one``.
        gt_offsets (Tensor[N + 1]): integers, from 0 to G, not decreasing; map n has
            ``gt_boxes[gt_offsets[n] : gt_offsets[n + 1]]``. A map without true boxes is never hit.
        iou_thresholds (Tensor[I] or float): overlaps in [0, 1].
        rule: everything from ``quantize`` on is used, with ``size`` everything.
        size: (H, W) in pixels that raw maps are brought to, as for :func:`score_map_boxes`.

    Returns:
        Tensor[N, T, I]: bool.

    Raises:
        ValueError: as :func:`score_map_boxes`, and if the boxes, offsets or levels do not fit together; on a GPU their
            values are not looked at, and offsets outside the boxes are taken for the nearest inside.

    Backends: CPU (C++), CUDA (C++), elsewhere the reference. Not differentiable. Deterministic, exact.

    Example:
        >>> maps, thresholds = torch.zeros(1, 8, 8), torch.tensor([0.5], dtype=torch.float64)
        >>> maps[:, 2:5, 3:7] = 1
        >>> gt_boxes, gt_offsets = torch.tensor([[3, 2, 7, 4]], dtype=torch.float64), torch.tensor([0, 1])
        >>> iou_thresholds = torch.tensor([0.5, 0.7], dtype=torch.float64)  # the overlap is 8 / 12
        >>> rule = BoxRule(box_end="exclusive", iou_plus_one=False)
        >>> box_sweep_hits(maps, thresholds, gt_boxes, gt_offsets, iou_thresholds, rule)
        tensor([[[ True, False]]])
    """
    maps, thresholds, size_list = checked_arguments("box_sweep_hits", maps, thresholds, rule, size)
    gt_boxes = as_tensor("box_sweep_hits", "gt_boxes", gt_boxes, maps)
    if gt_boxes.dim() != 2 or gt_boxes.shape[1] != 4 or not holds_reals(gt_boxes):
        raise ValueError(
            f"box_sweep_hits: expected gt_boxes as real numbers [G, 4], got {gt_boxes.dtype} {list(gt_boxes.shape)}"
        )
    gt_boxes = gt_boxes.to(torch.float64)
    gt_offsets = as_tensor("box_sweep_hits", "gt_offsets", gt_offsets, maps)
    check_classes("box_sweep_hits", "gt_offsets", gt_offsets, maps.shape[0] + 1)
    gt_offsets = gt_offsets.to(torch.int64)
    iou_thresholds = as_vector("box_sweep_hits", "iou_thresholds", iou_thresholds, maps)
    if values_can_be_read(maps):
        _check_values(gt_boxes, gt_offsets, iou_thresholds)
    return _OP(maps, thresholds, gt_boxes.detach(), gt_offsets, iou_thresholds, size_list, rule.pack())


def _check_values(gt_boxes: Tensor, gt_offsets: Tensor, iou_thresholds: Tensor) -> None:
    if gt_offsets[0] != 0 or gt_offsets[-1] != gt_boxes.shape[0] or (gt_offsets.diff() < 0).any():
        raise ValueError(f"box_sweep_hits: gt_offsets must rise from 0 to {gt_boxes.shape[0]} (the number of gt_boxes)")
    proper = gt_boxes.isfinite().all(1) & (gt_boxes[:, 2:] >= gt_boxes[:, :2]).all(1)
    if not proper.all():
        index = int((~proper).nonzero()[0])
        raise ValueError(
            f"box_sweep_hits: gt_boxes[{index}] = {gt_boxes[index].tolist()} is not finite with x0 <= x1, y0 <= y1"
        )
    if not iou_thresholds.isfinite().all():
        raise ValueError("box_sweep_hits: iou_thresholds hold a NaN or an infinity")
