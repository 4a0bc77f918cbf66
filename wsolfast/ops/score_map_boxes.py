"""Boxes of score maps at many thresholds."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wsolfast.ops._checks import as_size, as_tensor, as_vector, check_type
from wsolfast.ops._registry import define_op
from wsolfast.ops.box_rule import BoxRule
from wsolfast.ops.normalize_score_map import check_maps, check_size, normalize_score_map
from wsolfast.reference import score_map_boxes as reference


def _fake(maps: Tensor, thresholds: Tensor, *options: Any) -> Tensor:
    return maps.new_empty((maps.shape[0], thresholds.shape[0], 4), dtype=torch.int64)


def _fake_all(maps: Tensor, thresholds: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    boxes = torch.library.get_ctx().new_dynamic_size()
    return (
        maps.new_empty((boxes, 4), dtype=torch.int64),
        maps.new_empty(maps.shape[0] * thresholds.shape[0] + 1, dtype=torch.int64),
    )


_OP = define_op(
    "score_map_boxes",
    reference=reference.score_map_boxes,
    fake=_fake,
)
_OP_ALL = define_op(
    "_score_map_boxes_all",
    reference=reference.score_map_boxes_all,
    fake=_fake_all,
)


@dataclass(frozen=True)
class ScoreMapBoxes:
    """Boxes xyxy in pixels of the map; what x1, y1 mean is the rule's ``box_end``.

    Example:
        >>> maps, thresholds = torch.zeros(1, 8, 8), torch.tensor([0.5], dtype=torch.float64)
        >>> maps[0, 1:3, 1:3], maps[0, 5:8, 5:8] = 1, 1
        >>> found = score_map_boxes(maps, thresholds, BoxRule(selection="all", box_end="exclusive"))
        >>> found.boxes.tolist(), found.offsets.tolist()
        ([[5, 5, 8, 8], [1, 1, 3, 3]], [0, 2])
    """

    boxes: Tensor  # int64 [N, T, 4], or [M, 4] for selection="all"
    offsets: Tensor | None = None  # int64 [N*T + 1]: map n, threshold t has boxes[offsets[n*T+t] : offsets[n*T+t+1]]


def score_map_boxes(
    maps: Tensor, thresholds: Tensor, rule: BoxRule, *, size: tuple[int, int] | None = None
) -> ScoreMapBoxes:
    """Draw boxes around the pixels that exceed each threshold.

    Source: wsolevaluation's ``compute_bboxes_from_scoremaps`` with the default rule, the papers' own code with others;
    see :class:`BoxRule` and :mod:`wsolfast.metrics.protocols`.

    Args:
        maps (Tensor[N, H, W]): score maps as :func:`normalize_score_map` leaves them; any stride. A quantising rule
            wants values in [0, 1], or uint8 levels that are quantised already; other rules want finite values. With
            ``size`` raw maps (Tensor[N, h, w]) of any real dtype.
        thresholds (Tensor[T] or float): real numbers, any order, repetitions allowed; compared in float64.
        rule: the switches from ``quantize`` to ``empty_box`` are used, with ``size`` also those before.
        size: (H, W) in pixels, or the side of a square, that raw maps are resized to and normalised at, as by
            ``normalize_score_map(maps, size, rule)``, without keeping such maps; their own size normalises them only.
            None takes maps as they are.

    Returns:
        ScoreMapBoxes: one box per map and threshold, in pixels of the maps or of ``size``; for ``selection="all"`` at
        least one.

    Raises:
        TypeError: if an argument is of a kind that does not say what it means.
        ValueError: if shapes or dtypes are wrong, a threshold is not finite, ``size`` is none that
            :func:`normalize_score_map` takes, or a (normalised) map holds a NaN, an infinity or, for a quantising
            rule, a value outside [0, 1]; on CUDA, if there are more than 65535 thresholds. Values are
            looked at on a CPU, but not inside ``torch.compile``. On a GPU, where that would be to wait for it, a map
            that cannot be quantised has boxes of -1 and hits nothing.

    Backends: CPU (C++), CUDA (C++), elsewhere the reference. Not differentiable. Deterministic, exact. On CUDA
    ``selection="all"`` waits for the device once, to learn how many boxes there are.

    Example:
        >>> maps, thresholds = torch.zeros(1, 8, 8), torch.tensor([0.5], dtype=torch.float64)
        >>> maps[0, 2:5, 3:7] = 1
        >>> score_map_boxes(maps, thresholds, BoxRule(box_end="exclusive")).boxes
        tensor([[[3, 2, 7, 5]]])
    """
    maps, thresholds, size_list = checked_arguments("score_map_boxes", maps, thresholds, rule, size)
    if rule.selection == "all":
        return ScoreMapBoxes(*_OP_ALL(maps, thresholds, size_list, rule.pack()))
    return ScoreMapBoxes(_OP(maps, thresholds, size_list, rule.pack()))


def checked_arguments(
    op: str, maps: Tensor, thresholds: Tensor, rule: BoxRule, size: tuple[int, int] | None
) -> tuple[Tensor, Tensor, list[int]]:
    """Return checked arguments for kernels: maps float64, float32 or uint8, thresholds float64, size [] or [H, W]."""
    maps = as_tensor(op, "maps", maps)
    check_type(op, "rule", rule, BoxRule)
    check_maps(op, maps)
    thresholds = as_vector(op, "thresholds", thresholds, maps)
    if size is not None:
        size = as_size(op, "size", size)
        check_size(op, maps, size, rule)
        if values_can_be_read(maps) and not is_in_range(rule):
            # Only the normalised maps tell whether the rule can take them.
            maps, size = normalize_score_map(maps, size, rule), None
        elif maps.dtype not in (torch.uint8, torch.float32, torch.float64):
            maps = maps.double()
    if size is None:
        maps = _checked_scores(op, maps, rule)
    if values_can_be_read(maps) and not thresholds.isfinite().all():
        raise ValueError(f"{op}: thresholds hold a NaN or an infinity")
    return maps.detach(), thresholds.detach(), [] if size is None else list(size)


def _checked_scores(op: str, maps: Tensor, rule: BoxRule) -> Tensor:
    if maps.dtype == torch.uint8:
        if not rule.quantize:
            raise ValueError(f"{op}: uint8 maps need a rule that quantises; divide by 255 for this one")
    elif maps.dtype in (torch.float16, torch.bfloat16):
        maps = maps.float()
    elif maps.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{op}: expected floating-point or uint8 maps, got {maps.dtype}; call .double() first")
    if values_can_be_read(maps):
        check_values(op, maps, (0.0, 1.0) if rule.quantize else None)
    return maps


def is_in_range(rule: BoxRule) -> bool:
    """Return True if normalised maps have values that the rule takes, whatever they were before."""
    return rule.normalization != "none" and not (rule.quantize and rule.normalization == "min")


def values_can_be_read(tensor: Tensor) -> bool:
    """Return False inside ``torch.compile`` and on a GPU, which the host would wait for."""
    return not (tensor.is_cuda or torch.compiler.is_compiling())


def check_values(op: str, maps: Tensor, limits: tuple[float, float] | None) -> None:
    """Raise ValueError naming the first map that holds a NaN, an infinity or a value outside ``limits``."""
    if maps.numel() == 0 or maps.dtype == torch.uint8:
        return
    low, high = (-float("inf"), float("inf")) if limits is None else limits
    extremes = torch.stack(torch.aminmax(maps))
    if extremes.isfinite().all() and low <= extremes[0] and extremes[1] <= high:
        return
    flat = maps.flatten(1)
    if limits is not None:
        bad = ~((flat >= low) & (flat <= high)).all(1)
        wanted = f"values in [{low:g}, {high:g}]"
    else:
        bad = ~flat.isfinite().all(1)
        wanted = "finite values"
    index = int(bad.nonzero()[0])
    spread = f"{flat[index].min().item():g} to {flat[index].max().item():g}"
    raise ValueError(f"{op}: expected {wanted}, map {index} has {spread}; normalise it first (normalize_score_map)")
