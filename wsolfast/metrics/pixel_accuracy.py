"""Localisation accuracy by masks: PxAP, pIoU, Peak-IoU and Peak-T."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.metrics import functional
from wsolfast.metrics._accumulator import Accumulator
from wsolfast.metrics._thresholds import place, wanted
from wsolfast.metrics.frames import as_float64, as_score_maps, is_constant, same_sizes
from wsolfast.metrics.protocols import get_protocol
from wsolfast.ops import BoxRule
from wsolfast.ops._checks import as_integer, as_number, as_tensors, as_vector, holds_integers

_LEVELS = 256
# Per-image overlaps are summed as multiples of this, so that no order of summation changes the last bit.
_FIXED_POINT = 1 << 40


class PixelAccuracy(Accumulator):
    """PxAP (wsolevaluation), pIoU (BagCAMs), Peak-IoU and Peak-T (SEM and the LID challenge).

    PxAP and pIoU: maps as MaxBoxAcc has them (bicubic, min-max, not quantised), masks at nearest pixels, pixels pooled
    over all images. Peak-IoU: maps min-max scaled to 0..255 at their own size, truncated, then bilinear to the mask's
    size (rounded: OpenCV's 8-bit resize can be one level away). Whether the original pools pixels or averages images
    is not known, so both are given. An image without any object pixel counts as background, as the benchmark has it,
    and as an overlap of 0 in the mean over images.

    Args:
        size: side of the square that PxAP compares at.
        thresholds: rising score cut-offs in [0, 1), for PxAP and pIoU.

    Example:
        >>> score_map, mask = torch.zeros(1, 8, 8), torch.zeros(8, 8, dtype=torch.uint8)
        >>> score_map[0, 2:6, 2:6], mask[2:6, 2:4] = 1, 1
        >>> accuracy = PixelAccuracy(size=8)
        >>> accuracy.update(score_map, [mask])
        >>> found = accuracy.compute()
        >>> found["px_ap"], found["p_iou"], found["peak_iou"]
        (50.0, 50.0, 50.0)
    """

    def __init__(self, size: int = 224, thresholds: Sequence[float] | float | None = None):
        benchmark = get_protocol("wsolevaluation")
        self.size = size = _side("PixelAccuracy", size)
        given = benchmark.thresholds if thresholds is None else thresholds
        self._thresholds = tuple(as_vector("PixelAccuracy", "thresholds", given).tolist())
        if not all(low < high for low, high in pairwise((*self._thresholds, 1.0))):
            raise ValueError("PixelAccuracy: expected rising thresholds below 1")
        self._edges = as_float64([*self._thresholds, 1.0, 2.0, 3.0])
        self._scores = benchmark.rule
        self._levels = BoxRule(interpolation="none", normalization="minmax_eps", eps=1e-10)
        self._resize = replace(self._levels, interpolation="linear", normalization="none")
        self._config = {"size": size, "thresholds": self._thresholds}
        self.zeros = {
            "images": torch.zeros((), dtype=torch.int64),
            "maps_constant": torch.zeros((), dtype=torch.int64),
            "scores": torch.zeros(2, len(self._edges) - 1, dtype=torch.int64),
            "levels": torch.zeros(2, _LEVELS, dtype=torch.int64),
            "image_ious": torch.zeros(_LEVELS, dtype=torch.int64),
        }
        super().__init__()

    def count(self, score_maps: Tensor | Sequence[Tensor], masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the counters of a batch.

        Args:
            score_maps (Tensor[N, h, w] or list of Tensor[h, w]): as the method leaves them.
            masks: for each image integers [H, W] at the original size: 0 background, 1 object, 255 ignored; or bool.

        Raises:
            TypeError: if an argument holds no numbers.
            ValueError: if the lengths differ or a mask holds other values.
        """
        counts = {name: zero.clone() for name, zero in self.zeros.items()}
        for index, maps, shown in _batches("PixelAccuracy", score_maps, masks, self.size):
            counts["images"] += len(index)
            counts["maps_constant"] += is_constant(maps).sum().cpu()
            # One map for all images is prepared once.
            maps = maps[:1] if maps.stride(0) == 0 else maps
            scores = ops.normalize_score_map(maps, (self.size, self.size), self._scores).expand(len(index), -1, -1)
            small, edges = _nearest(shown, self.size), self._edges.to(maps.device)
            counts["scores"] += ops.pixel_histogram(scores, small, edges).cpu()
            levels = ops.normalize_score_map(maps, None, self._levels).mul_(255).floor_()
            levels = ops.normalize_score_map(levels, (shown.shape[1], shown.shape[2]), self._resize).add_(0.5)
            histograms = _histograms(levels, shown, _LEVELS)
            counts["levels"] += histograms.sum(0)
            ious = torch.from_numpy(functional.iou_curves(histograms[histograms[:, 1].any(1)].numpy()))
            counts["image_ious"] += (ious * _FIXED_POINT).round().to(torch.int64).sum(0)
        return counts

    def summarize(self, state: Mapping[str, Tensor], at: Mapping[str, float] | None = None) -> dict:
        """Return percentages, and the thresholds that they are at.

        Args:
            state: counters.
            at: None: each overlap at its own best threshold on these images. A mapping, such as
                ``compute()["cam_threshold"]`` of another split: each at its own.

        Returns:
            ``px_ap``; ``p_iou`` and its ``p_iou_threshold`` in [0, 1]; ``peak_iou`` and ``peak_t`` (0..255) over pooled
            pixels; ``peak_iou_per_image`` and ``peak_t_per_image`` of the mean over images; ``images``, and
            ``maps_constant`` of them, whose map has one value everywhere; ``cam_threshold``: overlap -> threshold;
            ``curves``.

        Raises:
            ValueError: if nothing was counted, no mask has an object pixel, or ``at`` is not on the grid.
        """
        images = int(state["images"])
        if images == 0:
            raise ValueError("PixelAccuracy: no image was counted; call update first")
        curves = {
            "p_iou": functional.mask_iou_curve(state["scores"]) * 100,
            "peak_iou": functional.mask_iou_curve(state["levels"]) * 100,
            "peak_iou_per_image": state["image_ious"].numpy() / _FIXED_POINT / images * 100,
        }
        grids = {name: range(_LEVELS) for name in curves} | {"p_iou": self._edges[:-1].tolist()}
        places = {name: place(curve, grids[name], wanted(at, name), name) for name, curve in curves.items()}
        chosen = {name: grids[name][index] for name, index in places.items()}
        return {
            "images": images,
            "maps_constant": int(state["maps_constant"]),
            "px_ap": functional.px_ap(state["scores"]),
            **{name: float(curve[places[name]]) for name, curve in curves.items()},
            "p_iou_threshold": chosen["p_iou"],
            "peak_t": chosen["peak_iou"],
            "peak_t_per_image": chosen["peak_iou_per_image"],
            "cam_threshold": chosen,
            "curves": {name: curve.tolist() for name, curve in curves.items()},
        }


def mask_overlaps(
    score_maps: Tensor | Sequence[Tensor], masks: Sequence[Tensor], threshold: float, size: int = 224
) -> list[float]:
    """Return each image's IoU of pixels that score at least ``threshold`` with its object, compared as for pIoU.

    Args:
        score_maps (Tensor[N, h, w] or list of Tensor[h, w]): as the method leaves them.
        masks: as for :meth:`PixelAccuracy.count`.
        threshold: in [0, 1].
        size: side of the square that they are compared at.

    Returns:
        One number in [0, 1] per image; 0 where the mask has no object pixel.

    Raises:
        TypeError: if an argument holds no numbers.
        ValueError: if the lengths differ or a mask holds other values.

    Example:
        >>> score_map, mask = torch.zeros(1, 8, 8), torch.zeros(8, 8, dtype=torch.uint8)
        >>> score_map[0, 2:6, 2:6], mask[2:6, 2:4] = 1, 1
        >>> mask_overlaps(score_map, [mask], threshold=0.5, size=8)
        [0.5]
    """
    size, threshold = _side("mask_overlaps", size), as_number("mask_overlaps", "threshold", threshold)
    if not 0 <= threshold <= 1:
        raise ValueError(f"mask_overlaps: expected a threshold in [0, 1], got {threshold:g}")
    rule, score_maps = get_protocol("wsolevaluation").rule, as_score_maps(score_maps)
    overlaps = torch.zeros(len(score_maps), dtype=torch.float64)
    for index, maps, shown in _batches("mask_overlaps", score_maps, masks, size):
        found = ops.normalize_score_map(maps, (size, size), rule) >= threshold
        histograms = _histograms(found, _nearest(shown, size), 2)
        seen = histograms[:, 1].any(1)
        curves = torch.from_numpy(functional.iou_curves(histograms[seen].numpy()))
        overlaps[torch.tensor(index)[seen]] = curves[:, 1]
    return overlaps.tolist()


def _batches(
    what: str, score_maps: Tensor | Sequence[Tensor], masks: Sequence[Tensor], size: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield positions, maps [n, h, w] and masks uint8 [n, H, W] of images whose maps, and masks, are of one size.

    Raises:
        TypeError, ValueError: as :meth:`PixelAccuracy.count`.
    """
    score_maps, masks = as_score_maps(score_maps), as_tensors(what, "masks", masks)
    if len(masks) != len(score_maps):
        raise ValueError(f"{what}: {len(score_maps)} score maps, but {len(masks)} masks")
    sides = [_sides(what, n, mask) for n, mask in enumerate(masks)]
    for index, maps, _ in same_sizes(score_maps, sides, least=max(size * size, 3 * _LEVELS)):
        device = masks[index[0]].device
        shown = torch.stack([_kinds(masks[n]).to(device) for n in index])
        wrong = (shown > 1) & (shown < 255)
        if wrong.any():
            n = index[int(wrong.flatten(1).any(1).nonzero()[0])]
            raise ValueError(f"{what}: mask {n} holds values other than 0 (background), 1 (object), 255 (ignored)")
        yield index, maps, shown.to(maps.device)


def _sides(what: str, n: int, mask: Tensor) -> tuple[int, int]:
    if mask.dim() != 2 or mask.numel() == 0 or not (holds_integers(mask) or mask.dtype == torch.bool):
        found = f"mask {n} is {mask.dtype} {list(mask.shape)}"
        raise ValueError(f"{what}: expected masks of integers or bool [H, W] with pixels, {found}")
    return mask.shape[0], mask.shape[1]


def _kinds(mask: Tensor) -> Tensor:
    """Return a mask as uint8, 2 in place of what none can hold."""
    if mask.dtype == torch.uint8:
        return mask
    mask = mask.to(torch.int64)
    return torch.where((mask == 0) | (mask == 1) | (mask == 255), mask, 2).to(torch.uint8)


def _side(what: str, size: int) -> int:
    side = as_integer(what, "size", size)
    if side < 1:
        raise ValueError(f"{what}: expected a positive size, got {side}")
    return side


def _histograms(values: Tensor, masks: Tensor, bins: int) -> Tensor:
    """Count values [n, H, W] in [0, bins), truncated, by masks uint8 [n, H, W]: int64 [n, 2, bins] on the CPU.

    Row 0 of each image counts background, row 1 object pixels. One map [1, H, W] serves all images.
    """
    count = len(masks)
    starts = torch.arange(0, 3 * bins * count, 3 * bins, dtype=torch.int32, device=masks.device)
    place = masks.clamp(max=2).to(torch.int32).mul_(bins).add_(starts[:, None, None]).add_(values.to(torch.int32))
    return torch.bincount(place.flatten(), minlength=3 * bins * count).reshape(count, 3, bins)[:, :2].cpu()


def _nearest(masks: Tensor, size: int) -> Tensor:
    """Resize as OpenCV's INTER_NEAREST: from pixel floor(i * source / target), not from the nearest centre."""
    rows, columns = (
        (torch.arange(size, dtype=torch.float64) * (1.0 / (size / source))).floor().long().clamp(max=source - 1)
        for source in masks.shape[1:]
    )
    return masks.index_select(2, columns.to(masks.device)).index_select(1, rows.to(masks.device))
