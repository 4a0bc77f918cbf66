"""Pure functions behind the accumulators: frames, hits, error kinds, curves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.metrics.protocols import Protocol
from wsolfast.ops import BoxRule

ERROR_KINDS = ("cls", "correct", "m_ins", "part", "more", "ot")

# float64 pixels that one batch of resized maps may hold.
_BATCH_PIXELS = 1 << 22


def box_hits(
    score_maps: Tensor | Sequence[Tensor],
    image_sizes: Tensor,
    gt_boxes: Sequence[Tensor],
    protocol: Protocol,
    thresholds: Tensor | None = None,
    iou_thresholds: Tensor | None = None,
) -> Tensor:
    """Whether each image's box is right, at each threshold and overlap.

    Args:
        score_maps (Tensor[N, h, w] or list of Tensor[h, w]): one map per image, at any size.
        image_sizes (Tensor[N, 2]): (w, h) of the original images, pixels.
        gt_boxes: for each image a float64 [G, 4], xyxy, half-open, original pixels, G >= 1.
        protocol: the way to score.
        thresholds (Tensor[T]): instead of the protocol's.
        iou_thresholds (Tensor[I]): instead of the protocol's.

    Returns:
        Tensor[N, T, I]: bool, on the CPU.

    Raises:
        ValueError: if the lengths differ, an image has no true box, or a map does not suit the protocol.
    """
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
    """:func:`box_hits` for several rules that normalise maps as the protocol's own does, which is done once."""
    thresholds = as_float64(protocol.thresholds if thresholds is None else thresholds)
    levels = as_float64(protocol.iou_thresholds if iou_thresholds is None else iou_thresholds)
    shape = (len(score_maps), len(thresholds), len(levels))
    hits = [torch.zeros(shape, dtype=torch.bool) for _ in rules]
    for batch in _frames(score_maps, image_sizes, gt_boxes, protocol):
        for k, rule in enumerate(rules):
            hits[k][batch.index] = _batch_hits(batch, thresholds, levels, rule, protocol).cpu()
    return hits


def best_overlaps(
    score_maps: Tensor | Sequence[Tensor],
    image_sizes: Tensor,
    gt_boxes: Sequence[Tensor],
    protocol: Protocol,
    thresholds: Tensor | None = None,
) -> Tensor:
    """The largest IoU of an image's boxes with its true ones, in the protocol's frame and convention.

    Args:
        score_maps, image_sizes, gt_boxes, protocol, thresholds: as for :func:`box_hits`.

    Returns:
        Tensor[N, T]: float64 in [0, 1]; -1 where no true box is left in the frame.

    Raises:
        ValueError: as :func:`box_hits`.
    """
    thresholds = as_float64(protocol.thresholds if thresholds is None else thresholds)
    overlaps = torch.zeros(len(score_maps), len(thresholds), dtype=torch.float64)
    for batch in _frames(score_maps, image_sizes, gt_boxes, protocol):
        overlaps[batch.index] = _batch_overlaps(batch, thresholds, protocol.rule, protocol)
    return overlaps


def predicted_boxes(
    score_maps: Tensor | Sequence[Tensor], image_sizes: Tensor, protocol: Protocol, threshold: float
) -> list[Tensor]:
    """The boxes a protocol cuts from each map at one threshold, for looking at.

    Returns:
        For each image a float64 [B, 4], xyxy, half-open, pixels of the original image: the pixels that were found,
        without the protocol's quirks at the ends. In frame "crop" only what the map shows can hold boxes.
    """
    half_open = replace(protocol.rule, box_end="exclusive")
    boxes: list[Tensor] = [torch.empty(0)] * len(score_maps)
    for batch in _frames(score_maps, image_sizes, None, protocol):
        for n, (part,) in zip(batch.index, _boxes_of(batch, as_float64([threshold]), half_open), strict=True):
            boxes[n] = _to_image(part, batch.maps.shape[-2:], image_sizes[n], protocol)
    return boxes


def error_kinds(
    score_maps: Tensor | Sequence[Tensor],
    image_sizes: Tensor,
    gt_boxes: Sequence[Tensor],
    class_is_right: Tensor,
    protocol: Protocol,
    thresholds: Tensor | None = None,
) -> Tensor:
    """What is wrong with each Top-1 localisation, at each threshold.

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
    """
    rule = protocol.rule
    if rule.selection == "all":
        raise ValueError('error_kinds: needs one box per map, but the rule has selection="all"')
    thresholds = as_float64(protocol.thresholds if thresholds is None else thresholds)
    kinds = torch.zeros(len(score_maps), len(thresholds), dtype=torch.int64)
    for batch in _frames(score_maps, image_sizes, gt_boxes, protocol):
        for k, (n, boxes) in enumerate(zip(batch.index, _boxes_of(batch, thresholds, rule), strict=True)):
            if class_is_right[n]:
                predicted = _to_compared(torch.cat(boxes), batch, k, protocol)
                kinds[n] = _kinds_of_boxes(predicted, batch.truths[k], rule)
    return kinds


def _kinds_of_boxes(boxes: Tensor, truths: Tensor, rule: BoxRule) -> Tensor:
    """Boxes [T, 4] against the true boxes [G, 4] of one image; the class is right. Returns int64 [T]."""
    correct, m_ins, part, more, ot = range(1, len(ERROR_KINDS))
    if len(truths) == 0:
        return torch.full((len(boxes),), ot)
    overlap, box_area, truth_area = _overlaps(boxes, truths, rule.iou_plus_one)
    iou = _ratio(overlap, box_area + truth_area - overlap)
    best = iou.argmax(1, keepdim=True)
    covered = _ratio(overlap, truth_area.expand_as(overlap))
    used = _ratio(overlap, box_area.expand_as(overlap))
    considered = iou[:, :1] if rule.gt == "first" else iou
    right = _reaches(considered.amax(1), 0.5, rule)
    kinds = torch.full((len(boxes),), ot)
    kinds[covered.gather(1, best)[:, 0] >= 0.7] = more
    kinds[used.gather(1, best)[:, 0] > 0.5] = part
    kinds[(covered > 0.3).sum(1) > 1] = m_ins
    kinds[right] = correct
    return kinds


def given_box_hits(
    boxes: Tensor, gt_boxes: Sequence[Tensor], rule: BoxRule, iou_thresholds: Sequence[float] | Tensor
) -> Tensor:
    """Whether boxes that come from no score map (a regressor's, a baseline's) are right.

    Args:
        boxes (Tensor[N, 4]): float64, one per image, xyxy, half-open, pixels of the original image.
        gt_boxes: as for :func:`box_hits`.
        rule: its ``hit`` and ``gt`` are used; without rounding, inclusive boxes overlap as half-open ones do.
        iou_thresholds (Tensor[I]): overlaps.

    Returns:
        Tensor[N, I]: bool.
    """
    levels = as_float64(iou_thresholds)
    hits = torch.zeros(len(boxes), len(levels), dtype=torch.bool)
    for n, truths in enumerate(checked_gt_boxes(gt_boxes)):
        hits[n] = _reaches(_best_overlap(boxes[n : n + 1].double(), truths, rule, plus_one=False), levels, rule)
    return hits


def px_ap(histogram: Tensor) -> float:
    """Pixel average precision, percent, of a [2, B] histogram over rising score bins (background, object).

    Source: wsolevaluation's MaskEvaluator: rectangles at the right end of each recall step.

    Raises:
        ValueError: if there is no object pixel.
    """
    true_positives, false_positives, positives = _cumulated(histogram)
    with np.errstate(invalid="ignore"):
        precision = true_positives / (true_positives + false_positives)
    recall = true_positives / positives
    counted = (true_positives + false_positives)[1:] != 0
    return float((precision[1:] * np.diff(recall))[counted].sum() * 100)


def mask_iou_curve(histogram: Tensor) -> np.ndarray:
    """IoU of {score >= lower edge of bin b} with the object pixels, for each bin of a [2, B] histogram.

    Raises:
        ValueError: if there is no object pixel.
    """
    true_positives, false_positives, positives = _cumulated(histogram)
    return (true_positives / (positives + false_positives))[::-1].copy()


def _cumulated(histogram: Tensor) -> tuple[np.ndarray, np.ndarray, int]:
    counts = histogram.cpu().numpy()[:, ::-1].cumsum(1)
    if counts[1, -1] == 0:
        raise ValueError("pixel metrics: no object pixel in any mask")
    return counts[1], counts[0], counts[1, -1]


@dataclass(frozen=True)
class _FrameBatch:
    index: list[int]  # positions in the caller's batch
    maps: Tensor  # float64 [n, H, W], normalised, in the frame
    truths: list[Tensor]  # float64 [G, 4] each, as they are compared
    image_sizes: list[tuple[int, int]]  # (w, h)


def _frames(
    score_maps: Tensor | Sequence[Tensor],
    image_sizes: Tensor,
    gt_boxes: Sequence[Tensor] | None,
    protocol: Protocol,
) -> Iterator[_FrameBatch]:
    """Batches of maps of one size, resized to one frame, with the true boxes in it."""
    sizes = checked_image_sizes(image_sizes, len(score_maps))
    if gt_boxes is None:
        truths = [torch.empty(0, 4, dtype=torch.float64)] * len(score_maps)
    else:
        if len(gt_boxes) != len(score_maps):
            raise ValueError(f"metrics: {len(score_maps)} score maps, but true boxes of {len(gt_boxes)} images")
        truths = [gt_in_frame(b, s, protocol) for b, s in zip(checked_gt_boxes(gt_boxes), sizes, strict=True)]
    groups: dict[tuple, list[int]] = {}
    for n, one in enumerate(score_maps):
        if one.dim() != 2:
            raise ValueError(f"metrics: expected a score map [h, w] per image, map {n} has shape {list(one.shape)}")
        groups.setdefault((tuple(one.shape), _frame_size(sizes[n], protocol)), []).append(n)
    for (_, target), members in groups.items():
        step = max(1, _BATCH_PIXELS // (target[0] * target[1] if target else 1024))
        for start in range(0, len(members), step):
            index = members[start : start + step]
            maps = torch.stack([score_maps[n] for n in index])
            yield _FrameBatch(
                index,
                ops.normalize_score_map(maps, target, protocol.rule),
                [truths[n] for n in index],
                [sizes[n] for n in index],
            )


def _frame_size(image_size: tuple[int, int], protocol: Protocol) -> tuple[int, int] | None:
    if protocol.frame == "image":
        return image_size[1], image_size[0]
    return None if protocol.input_size is None else (protocol.input_size, protocol.input_size)


def gt_in_frame(boxes: Tensor, image_size: tuple[int, int], protocol: Protocol) -> Tensor:
    """True boxes [G, 4] (half-open, original pixels) as the protocol compares them; clipped-away ones are left out."""
    width, height = image_size
    scale = torch.tensor([width, height, width, height], dtype=torch.float64)
    if protocol.frame == "crop":
        offset = (protocol.resize - protocol.input_size) // 2
        moved = torch.minimum(boxes.clamp(min=0), scale - 1) * (protocol.resize / scale) - offset
        moved = moved.clamp(0, protocol.input_size)
        return moved[(moved[:, 2:] > moved[:, :2]).all(1)]
    if protocol.frame == "input":
        inclusive = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil() - 1], 1)
        return (inclusive * protocol.input_size / scale).trunc()
    if protocol.rule.iou_plus_one:
        return boxes - torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    return boxes


def _batch_hits(batch: _FrameBatch, thresholds: Tensor, levels: Tensor, rule: BoxRule, protocol: Protocol) -> Tensor:
    device = batch.maps.device
    thresholds = thresholds.to(device)
    if protocol.frame != "scaled":
        counts = torch.tensor([0] + [len(truths) for truths in batch.truths])
        truths = torch.cat(batch.truths).to(device)
        return ops.box_sweep_hits(batch.maps, thresholds, truths, counts.cumsum(0).to(device), levels.to(device), rule)
    return _reaches(_batch_overlaps(batch, thresholds, rule, protocol)[..., None], levels, rule)


def _batch_overlaps(batch: _FrameBatch, thresholds: Tensor, rule: BoxRule, protocol: Protocol) -> Tensor:
    """Best overlap of each map at each threshold: float64 [n, T]."""
    overlaps = [
        [_best_overlap(_to_compared(b, batch, k, protocol), batch.truths[k], rule, rule.iou_plus_one) for b in boxes]
        for k, boxes in enumerate(_boxes_of(batch, thresholds, rule))
    ]
    return as_float64(overlaps)


def _boxes_of(batch: _FrameBatch, thresholds: Tensor, rule: BoxRule) -> list[list[Tensor]]:
    """For each map and threshold its boxes, float64 [B, 4], as the op gives them."""
    found = ops.score_map_boxes(batch.maps, thresholds.to(batch.maps.device), rule)
    flat = found.boxes.reshape(-1, 4).cpu().double()
    cells = len(batch.index) * len(thresholds)
    sizes = [1] * cells if found.offsets is None else found.offsets.diff().tolist()
    parts = iter(flat.split(sizes))
    return [[next(parts) for _ in thresholds] for _ in batch.index]


def _to_compared(boxes: Tensor, batch: _FrameBatch, k: int, protocol: Protocol) -> Tensor:
    """Boxes of map k as they meet the true ones: those of frame "scaled" go to the original image first."""
    if protocol.frame != "scaled":
        return boxes
    width, height = batch.image_sizes[k]
    map_height, map_width = batch.maps.shape[-2:]
    ratio = [width / map_width, height / map_height] * 2
    if protocol.box_scaling == "exact":
        return boxes * torch.tensor(ratio, dtype=torch.float64)
    # The factor is rounded to float32 before it multiplies: the last column of a full-width box depends on it.
    scaled = boxes.float() * torch.tensor(ratio, dtype=torch.float32)
    if protocol.box_scaling == "round":
        return scaled.round().double()
    limits = torch.tensor([width, height] * 2, dtype=torch.float32)
    return torch.minimum(scaled.clamp(min=0), limits).trunc().double()


def _to_image(boxes: Tensor, map_size: torch.Size, image_size: Tensor, protocol: Protocol) -> Tensor:
    height, width = map_size
    image = torch.tensor([*image_size.tolist()] * 2, dtype=torch.float64)
    if protocol.frame == "crop":
        offset = (protocol.resize - protocol.input_size) // 2
        return (boxes + offset) * (image / protocol.resize)
    return boxes * (image / torch.tensor([width, height] * 2, dtype=torch.float64))


def _overlaps(boxes: Tensor, truths: Tensor, plus_one: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Intersections [P, G], areas [P, 1] and [1, G]."""
    extra = 1.0 if plus_one else 0.0
    low = torch.maximum(boxes[:, None, :2], truths[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], truths[None, :, 2:])
    overlap = (high - low + extra).clamp(min=0).prod(-1)
    return overlap, _area(boxes, extra)[:, None], _area(truths, extra)[None]


def _area(boxes: Tensor, extra: float) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] + extra).prod(-1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.zeros_like(part))


def _best_overlap(boxes: Tensor, truths: Tensor, rule: BoxRule, plus_one: bool) -> float:
    """The largest IoU of boxes [B, 4] with true ones, -1 without any."""
    truths = truths[:1] if rule.gt == "first" else truths
    if len(truths) == 0:
        return -1.0
    overlap, box_area, truth_area = _overlaps(boxes, truths, plus_one)
    return _ratio(overlap, box_area + truth_area - overlap).max().item()


def _reaches(iou: Tensor | float, level: Tensor | float, rule: BoxRule) -> Tensor:
    return iou >= level if rule.hit == ">=" else iou > level


def as_float64(values: Sequence[float] | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Numbers as a float64 vector."""
    return torch.as_tensor(values, dtype=torch.float64, device=device)


def checked_image_sizes(image_sizes: Tensor, count: int) -> list[tuple[int, int]]:
    """(w, h) pairs, or ValueError."""
    sizes = torch.as_tensor(image_sizes)
    if tuple(sizes.shape) != (count, 2) or sizes.is_floating_point() or (sizes < 1).any():
        raise ValueError(f"metrics: expected image_sizes as {count} pairs of positive integers (w, h), got {sizes}")
    return [tuple(pair) for pair in sizes.tolist()]


def checked_gt_boxes(gt_boxes: Sequence[Tensor]) -> list[Tensor]:
    """Each image's boxes as float64 [G, 4], or ValueError naming the image."""
    checked = []
    for n, boxes in enumerate(gt_boxes):
        boxes = torch.as_tensor(boxes, dtype=torch.float64).cpu()
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"metrics: expected true boxes [G, 4], image {n} has {list(boxes.shape)}")
        if len(boxes) == 0:
            raise ValueError(f"metrics: image {n} has no true box; leave it out or annotate it")
        if not (boxes.isfinite().all() and (boxes[:, 2:] > boxes[:, :2]).all()):
            raise ValueError(f"metrics: image {n} has a true box that is empty or not finite: {boxes.tolist()}")
        checked.append(boxes)
    return checked
