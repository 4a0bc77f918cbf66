"""Pure functions behind the accumulators: hits, overlaps, error kinds, curves."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.metrics.frames import (
    FrameBatch,
    as_float64,
    as_score_maps,
    checked_gt_boxes,
    compared_boxes,
    frames,
    image_boxes,
)
from wsolfast.metrics.protocols import Protocol, as_protocol
from wsolfast.ops import BoxRule
from wsolfast.ops._checks import as_number, as_tensor, as_tensors, as_vector, check_type, holds_reals

ERROR_KINDS = ("cls", "correct", "m_ins", "part", "more", "ot")


def box_iou(boxes: Tensor, gt_boxes: Tensor, *, plus_one: bool = False) -> Tensor:
    r"""Return the intersection over union of every box with every true box.

    .. math:: \mathrm{IoU}(a, b) = \frac{|a \cap b|}{|a| + |b| - |a \cap b|}

    Args:
        boxes (Tensor[N, 4]): xyxy, integers or floating point.
        gt_boxes (Tensor[G, 4]): in the same frame and on the same device.
        plus_one: both contain their last pixel, so a box is x1 - x0 + 1 wide. Otherwise both are half-open.

    Returns:
        Tensor[N, G]: in [0, 1]. It is computed in float64 and is float64, whatever the dtype of the boxes is. It is 0
        where a box has no area or ends before it begins, even if both boxes are the same.

    Raises:
        ValueError: if the boxes are not [N, 4] and [G, 4].

    Example:
        >>> boxes = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 4], [4, 4, 5, 5]])
        >>> box_iou(boxes, torch.tensor([[0, 0, 2, 2]])).tolist()
        [[1.0], [0.5], [0.0]]
    """
    boxes, gt_boxes = as_tensor("box_iou", "boxes", boxes), as_tensor("box_iou", "gt_boxes", gt_boxes)
    for expected, given in (("boxes [N, 4]", boxes), ("gt_boxes [G, 4]", gt_boxes)):
        if given.dim() != 2 or given.shape[1] != 4 or not holds_reals(given):
            raise ValueError(f"box_iou: expected {expected} of real numbers, got {given.dtype} {list(given.shape)}")
    return _iou(boxes.double()[:, None], gt_boxes.double()[None], 1.0 if plus_one else 0.0)


def box_hits(
    score_maps: Tensor | Sequence[Tensor],
    image_sizes: Tensor,
    gt_boxes: Sequence[Tensor],
    protocol: Protocol,
    thresholds: Tensor | None = None,
    iou_thresholds: Tensor | None = None,
) -> Tensor:
    """Return whether each image's box is right, at each threshold and overlap.

    Args:
        score_maps (Tensor[N, h, w] or list of Tensor[h, w]): one map per image, at any size.
        image_sizes (Tensor[N, 2]): (w, h) of the original images, pixels.
        gt_boxes: for each image a float64 [G, 4], xyxy, half-open, original pixels, G >= 1.
        protocol: the way to score, or its name.
        thresholds (Tensor[T]): instead of the protocol's.
        iou_thresholds (Tensor[I]): instead of the protocol's.

    Returns:
        Tensor[N, T, I]: bool, on the device of the maps (of the first, if they are several).

    Raises:
        ValueError: if the lengths differ, an image has no true box, or a map does not suit the protocol.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:6, 2:6] = 1
        >>> sizes, gt_boxes = torch.tensor([[8, 8]]), [torch.tensor([[2.0, 2.0, 6.0, 8.0]])]
        >>> levels = torch.tensor([0.5, 0.9])  # the overlap is 16 / 24
        >>> box_hits(score_map, sizes, gt_boxes, get_protocol("spa"), torch.tensor([0.3]), levels)
        tensor([[[ True, False]]])
    """
    protocol = as_protocol(protocol)
    return rule_hits(score_maps, image_sizes, gt_boxes, protocol, [protocol.rule], thresholds, iou_thresholds)[0]


def rule_hits(
    score_maps: Tensor | Sequence[Tensor],
    image_sizes: Tensor,
    gt_boxes: Sequence[Tensor],
    protocol: Protocol,
    rules: Sequence[BoxRule],
    thresholds: Tensor | None = None,
    iou_thresholds: Tensor | None = None,
) -> list[Tensor]:
    """Return :func:`box_hits` for several rules that normalise maps as the protocol's own does.

    Each normalises them anew in front of its boxes, which takes less time than to keep them.

    Example:
        >>> from dataclasses import replace
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:6, 2:4] = 1
        >>> sizes, gt_boxes = torch.tensor([[8, 8]]), [torch.tensor([[2.0, 2.0, 6.0, 6.0]])]  # the overlap is 1 / 2
        >>> protocol = get_protocol("spa")
        >>> rules = [replace(protocol.rule, hit=hit) for hit in (">", ">=")]
        >>> [hits.item() for hits in rule_hits(score_map, sizes, gt_boxes, protocol, rules, torch.tensor([0.3]))]
        [False, True]
    """
    score_maps, protocol = as_score_maps(score_maps), as_protocol(protocol)
    gt_boxes, thresholds = as_tensors("metrics", "gt_boxes", gt_boxes), _thresholds(protocol, thresholds)
    given = protocol.iou_thresholds if iou_thresholds is None else iou_thresholds
    levels = as_vector("metrics", "iou_thresholds", given)
    shape = (len(score_maps), len(thresholds), len(levels))
    device = score_maps[0].device if len(score_maps) else torch.device("cpu")
    hits = [torch.zeros(shape, dtype=torch.bool, device=device) for _ in rules]
    for batch in frames(score_maps, image_sizes, gt_boxes, protocol):
        for k, rule in enumerate(rules):
            hits[k][batch.index] = _batch_hits(batch, thresholds, levels, rule, protocol).to(device)
    return hits


def best_overlaps(
    score_maps: Tensor | Sequence[Tensor],
    image_sizes: Tensor,
    gt_boxes: Sequence[Tensor],
    protocol: Protocol,
    thresholds: Tensor | None = None,
) -> Tensor:
    """Return the largest IoU of an image's boxes with its true ones, in the protocol's frame and convention.

    Args:
        score_maps, image_sizes, gt_boxes, protocol, thresholds: as for :func:`box_hits`.

    Returns:
        Tensor[N, T]: float64 in [0, 1]; -1 where no true box is left in the frame.

    Raises:
        ValueError: as :func:`box_hits`.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:6, 2:6] = 1
        >>> sizes, gt_boxes = torch.tensor([[8, 8]]), [torch.tensor([[2.0, 0.0, 6.0, 8.0]])]
        >>> best_overlaps(score_map, sizes, gt_boxes, get_protocol("spa"), torch.tensor([0.3])).tolist()
        [[0.5]]
    """
    score_maps, protocol = as_score_maps(score_maps), as_protocol(protocol)
    gt_boxes, thresholds = as_tensors("metrics", "gt_boxes", gt_boxes), _thresholds(protocol, thresholds)
    overlaps = torch.zeros(len(score_maps), len(thresholds), dtype=torch.float64)
    for batch in frames(score_maps, image_sizes, gt_boxes, protocol):
        overlaps[batch.index] = _batch_overlaps(batch, thresholds, protocol.rule, protocol)
    return overlaps


def predicted_boxes(
    score_maps: Tensor | Sequence[Tensor], image_sizes: Tensor, protocol: Protocol, threshold: float
) -> list[Tensor]:
    """Return the boxes that a protocol cuts from each map at one threshold, for pictures.

    Args:
        score_maps (Tensor[N, h, w] or list of Tensor[h, w]): as the method leaves them.
        image_sizes (Tensor[N, 2]): integers, (w, h) of each original image.
        protocol: its frame and the rule that boxes are cut by.
        threshold: in [0, 1].

    Returns:
        For each image a float64 [B, 4], xyxy, half-open, pixels of the original image: the pixels that were found,
        without the protocol's quirks at the ends. In frame "crop" only what the map shows can hold boxes.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:6, 2:6] = 1
        >>> predicted_boxes(score_map, torch.tensor([[16, 32]]), get_protocol("spa"), 0.5)
        [tensor([[ 4.,  8., 12., 24.]], dtype=torch.float64)]
    """
    score_maps, protocol = as_score_maps(score_maps), as_protocol(protocol)
    threshold = as_number("predicted_boxes", "threshold", threshold)
    half_open = replace(protocol.rule, box_end="exclusive")
    boxes: list[Tensor] = [torch.empty(0)] * len(score_maps)
    for batch in frames(score_maps, image_sizes, None, protocol):
        for k, (found, _) in enumerate(_boxes_of(batch, as_float64([threshold]), half_open)):
            boxes[batch.index[k]] = image_boxes(found, batch, k, protocol)
    return boxes


def predicted_masks(
    score_maps: Tensor | Sequence[Tensor], image_sizes: Tensor, protocol: Protocol, threshold: float
) -> list[Tensor]:
    """Return the pixels around which :func:`predicted_boxes` draws: bool [H, W] each, in the protocol's frame.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:6, 2:6] = 1
        >>> mask = predicted_masks(score_map, torch.tensor([[8, 8]]), get_protocol("spa"), 0.5)[0]
        >>> mask.shape, mask.sum()
        (torch.Size([8, 8]), tensor(16))
    """
    score_maps, protocol = as_score_maps(score_maps), as_protocol(protocol)
    threshold = as_number("predicted_masks", "threshold", threshold)
    masks: list[Tensor] = [torch.empty(0)] * len(score_maps)
    for batch in frames(score_maps, image_sizes, None, protocol):
        for k, one in enumerate(batch.normalized(protocol.rule).maps):
            masks[batch.index[k]] = protocol.rule.foreground(one, threshold)
    return masks


def error_kinds(
    score_maps: Tensor | Sequence[Tensor],
    image_sizes: Tensor,
    gt_boxes: Sequence[Tensor],
    class_is_right: Tensor,
    protocol: Protocol,
    thresholds: Tensor | None = None,
) -> Tensor:
    """Return the kind of error of each Top-1 localisation, at each threshold.

    Source: SPA (Pan et al., CVPR 2021), Table 4; the definition is the released code's. With IoG the share of a true
    box that is covered, IoB the share of the predicted box that covers one, and g the true box of the largest overlap
    (the first among equals), the first that holds of: ``cls`` the class is wrong; ``correct``; ``m_ins`` more than one
    true box has IoG > 0.3; ``part`` IoB(g) > 0.5; ``more`` IoG(g) >= 0.7; ``ot`` the rest.

    Args:
        score_maps, image_sizes, gt_boxes, protocol, thresholds: as for :func:`box_hits`.
        class_is_right (Tensor[N]): bool, whether the Top-1 class is the label.

    Returns:
        Tensor[N, T]: int64 index into ``ERROR_KINDS``.

    Raises:
        ValueError: as :func:`box_hits`, and if the protocol cuts several boxes from a map.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:6, 2:6] = 1
        >>> sizes, gt_boxes = torch.tensor([[8, 8]]), [torch.tensor([[0.0, 0.0, 8.0, 8.0]])]
        >>> right, threshold = torch.tensor([True]), torch.tensor([0.3])
        >>> ERROR_KINDS[error_kinds(score_map, sizes, gt_boxes, right, get_protocol("spa"), threshold).item()]
        'part'
    """
    score_maps, protocol = as_score_maps(score_maps), as_protocol(protocol)
    class_is_right = as_tensor("error_kinds", "class_is_right", class_is_right)
    if class_is_right.dtype != torch.bool or tuple(class_is_right.shape) != (len(score_maps),):
        raise ValueError(
            f"error_kinds: expected class_is_right as bool [{len(score_maps)}], got {class_is_right.dtype} "
            f"{list(class_is_right.shape)}"
        )
    rule = protocol.rule
    if rule.selection == "all":
        raise ValueError('error_kinds: needs one box per map, but the rule has selection="all"')
    gt_boxes, thresholds = as_tensors("metrics", "gt_boxes", gt_boxes), _thresholds(protocol, thresholds)
    kinds = torch.zeros(len(score_maps), len(thresholds), dtype=torch.int64)
    for batch in frames(score_maps, image_sizes, gt_boxes, protocol):
        for k, (boxes, _) in enumerate(_boxes_of(batch, thresholds, rule)):
            n = batch.index[k]
            if class_is_right[n]:
                kinds[n] = kinds_of_boxes(compared_boxes(boxes, batch, k, protocol), batch.truths[k], rule)
    return kinds


def kinds_of_boxes(boxes: Tensor, truths: Tensor, rule: BoxRule) -> Tensor:
    """Return the kinds, int64 [T], of boxes [T, 4] for true boxes [G, 4] of one image whose class is right.

    Example:
        >>> boxes, truths = torch.tensor([[2.0, 2.0, 6.0, 6.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]])
        >>> ERROR_KINDS[kinds_of_boxes(boxes, truths, get_protocol("csoa").rule).item()]
        'part'
    """
    correct, m_ins, part, more, ot = range(1, len(ERROR_KINDS))
    if len(truths) == 0:
        return torch.full((len(boxes),), ot)
    iou = box_iou(boxes, truths, plus_one=rule.iou_plus_one)
    best = iou.argmax(1, keepdim=True)
    extra = 1.0 if rule.iou_plus_one else 0.0
    overlap = _intersection(boxes[:, None], truths[None], extra)
    covered = _ratio(overlap, _area(truths, extra)[None])
    used = _ratio(overlap, _area(boxes, extra)[:, None])
    considered = iou[:, :1] if rule.gt == "first" else iou
    right = reaches(considered.amax(1), 0.5, rule)
    kinds = torch.full((len(boxes),), ot)
    kinds[covered.gather(1, best)[:, 0] >= 0.7] = more
    kinds[used.gather(1, best)[:, 0] > 0.5] = part
    kinds[(covered > 0.3).sum(1) > 1] = m_ins
    kinds[right] = correct
    return kinds


def given_box_hits(
    boxes: Tensor, gt_boxes: Sequence[Tensor], rule: BoxRule, iou_thresholds: Sequence[float] | Tensor
) -> Tensor:
    """Return whether boxes that come from no score map (a regressor's, a baseline's) are right.

    Args:
        boxes (Tensor[N, 4]): one per image, xyxy, half-open, pixels of the original image.
        gt_boxes: as for :func:`box_hits`.
        rule: its ``hit`` and ``gt`` are used; without rounding, inclusive boxes overlap as half-open ones do.
        iou_thresholds (Tensor[I]): overlaps.

    Returns:
        Tensor[N, I]: bool.

    Raises:
        TypeError: if an argument holds no numbers.
        ValueError: if shapes do not fit or an image has no true box.

    Example:
        >>> boxes, gt_boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), [torch.tensor([[0.0, 0.0, 4.0, 6.0]])]
        >>> given_box_hits(boxes, gt_boxes, get_protocol("spa").rule, [0.5, 0.7])
        tensor([[ True, False]])
    """
    check_type("given_box_hits", "rule", rule, BoxRule)
    boxes = as_tensor("given_box_hits", "boxes", boxes)
    levels = as_vector("given_box_hits", "iou_thresholds", iou_thresholds)
    checked = checked_gt_boxes(gt_boxes)
    if tuple(boxes.shape) != (len(checked), 4) or not holds_reals(boxes):
        raise ValueError(
            f"given_box_hits: expected boxes [{len(checked)}, 4] of real numbers, got {boxes.dtype} {list(boxes.shape)}"
        )
    truths = [boxes[:1] if rule.gt == "first" else boxes for boxes in checked]
    counts = torch.tensor([len(boxes) for boxes in truths], dtype=torch.int64)
    every = torch.cat([*truths, torch.empty(0, 4, dtype=torch.float64)])
    own = boxes.to("cpu", torch.float64).repeat_interleave(counts, 0)
    ious = _iou(own, every, 0.0)
    return reaches(torch.segment_reduce(ious, "max", lengths=counts)[:, None], levels, rule)


def px_ap(histogram: Tensor) -> float:
    """Return the pixel average precision, percent, of a [2, B] histogram over rising scores (background, object).

    Source: wsolevaluation's MaskEvaluator: rectangles at the right end of each recall step.

    Raises:
        ValueError: if there is no object pixel.

    Example:
        >>> px_ap(torch.tensor([[1, 1, 0], [0, 3, 0]]))  # 1 background and 3 object pixels in a bin
        75.0
    """
    false_positives, true_positives = _checked_histogram(histogram)[:, ::-1].cumsum(1)
    with np.errstate(invalid="ignore"):
        precision = true_positives / (true_positives + false_positives)
    recall = true_positives / true_positives[-1]
    counted = (true_positives + false_positives)[1:] != 0
    return float((precision[1:] * np.diff(recall))[counted].sum() * 100)


def mask_iou_curve(histogram: Tensor) -> np.ndarray:
    """Return the IoU of {score >= lower edge of bin b} with the object, for each bin of a [2, B] histogram.

    Raises:
        ValueError: if there is no object pixel.

    Example:
        >>> mask_iou_curve(torch.tensor([[1, 1, 0], [0, 3, 0]])).tolist()
        [0.6, 0.75, 0.0]
    """
    return iou_curves(_checked_histogram(histogram))


def iou_curves(histograms: np.ndarray) -> np.ndarray:
    """Return the curve of :func:`mask_iou_curve`, [..., B], of every histogram [..., 2, B]; each has an object pixel.

    Example:
        >>> iou_curves(np.array([[[1, 1, 0], [0, 3, 0]], [[0, 0, 0], [0, 0, 2]]])).tolist()
        [[0.6, 0.75, 0.0], [1.0, 1.0, 1.0]]
    """
    counts = histograms[..., ::-1].cumsum(-1)
    true_positives, false_positives = counts[..., 1, :], counts[..., 0, :]
    return (true_positives / (true_positives[..., -1:] + false_positives))[..., ::-1].copy()


def _checked_histogram(histogram: Tensor) -> np.ndarray:
    histogram = as_tensor("pixel metrics", "histogram", histogram)
    if histogram.dim() != 2 or len(histogram) != 2 or not holds_reals(histogram):
        raise ValueError(f"pixel metrics: expected a histogram [2, B], got {histogram.dtype} {list(histogram.shape)}")
    counts = histogram.cpu().numpy()
    if counts[1].sum() == 0:
        raise ValueError("pixel metrics: no object pixel in any mask")
    return counts


def _thresholds(protocol: Protocol, given: Tensor | None) -> Tensor:
    if given is None:
        return torch.tensor(protocol.thresholds, dtype=torch.float64)
    return as_vector("metrics", "thresholds", given)


def _batch_hits(batch: FrameBatch, thresholds: Tensor, levels: Tensor, rule: BoxRule, protocol: Protocol) -> Tensor:
    device = batch.maps.device
    thresholds = thresholds.to(device)
    if protocol.frame != "scaled":
        counts = torch.tensor([0] + [len(truths) for truths in batch.truths])
        truths = torch.cat(batch.truths).to(device)
        offsets = counts.cumsum(0).to(device)
        return ops.box_sweep_hits(batch.maps, thresholds, truths, offsets, levels.to(device), rule, size=batch.size)
    return reaches(_batch_overlaps(batch, thresholds, rule, protocol)[..., None], levels, rule)


def _batch_overlaps(batch: FrameBatch, thresholds: Tensor, rule: BoxRule, protocol: Protocol) -> Tensor:
    """Return the best overlap of each map at each threshold: float64 [n, T]."""
    rows = []
    for k, (boxes, counts) in enumerate(_boxes_of(batch, thresholds, rule)):
        best = best_of_truths(compared_boxes(boxes, batch, k, protocol), batch.truths[k], rule)
        rows.append(torch.segment_reduce(best, "max", lengths=counts))
    return torch.stack(rows)


def _boxes_of(batch: FrameBatch, thresholds: Tensor, rule: BoxRule) -> list[tuple[Tensor, Tensor]]:
    """Return for each map the boxes of all thresholds, float64 [B, 4], and the number at each threshold, int64 [T]."""
    found = ops.score_map_boxes(batch.maps, thresholds.to(batch.maps.device), rule, size=batch.size)
    if found.offsets is None:
        once = torch.ones(len(thresholds), dtype=torch.int64)
        return [(boxes, once) for boxes in found.boxes.cpu().double()]
    counts = found.offsets.cpu().diff().reshape(len(batch.index), len(thresholds))
    parts = found.boxes.cpu().double().split(counts.sum(1).tolist())
    return list(zip(parts, counts, strict=True))


def _iou(a: Tensor, b: Tensor, extra: float) -> Tensor:
    overlap = _intersection(a, b, extra)
    return _ratio(overlap, _area(a, extra) + _area(b, extra) - overlap)


def _intersection(a: Tensor, b: Tensor, extra: float) -> Tensor:
    """Return the area that boxes [..., 4] share; both are broadcast. ``extra`` pixels are added to each width."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + extra
    return sides.clamp(min=0).prod(-1)


def _area(boxes: Tensor, extra: float) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] + extra).prod(-1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.zeros_like(part))


def best_of_truths(boxes: Tensor, truths: Tensor, rule: BoxRule) -> Tensor:
    """Return the largest IoU of each box [B, 4] with true ones, -1 without any: [B].

    Example:
        >>> boxes, truths = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[0.0, 0.0, 4.0, 8.0]])
        >>> best_of_truths(boxes, truths, get_protocol("csoa").rule).tolist()
        [0.5]
    """
    truths = truths[:1] if rule.gt == "first" else truths
    if len(truths) == 0:
        return torch.full((len(boxes),), -1.0, dtype=torch.float64)
    return box_iou(boxes, truths, plus_one=rule.iou_plus_one).amax(1)


def reaches(iou: Tensor, level: Tensor | float, rule: BoxRule) -> Tensor:
    """Return whether overlaps reach a level, as the rule's ``hit`` has it.

    Example:
        >>> reaches(torch.tensor([0.5, 0.6]), 0.5, get_protocol("csoa").rule)  # hit is ">"
        tensor([False,  True])
    """
    return iou >= level if rule.hit == ">=" else iou > level
