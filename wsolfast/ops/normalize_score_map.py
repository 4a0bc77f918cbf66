"""Resize and normalise a score map in a protocol's own arithmetic."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wsolfast.ops._checks import as_size, as_tensor, check_type
from wsolfast.ops._registry import define_op
from wsolfast.ops.box_rule import BoxRule
from wsolfast.reference import normalize_score_map as reference


def _fake(maps: Tensor, size: Sequence[int], *options: Any) -> Tensor:
    return maps.new_empty((maps.shape[0], *size), dtype=torch.float64)


_OP = define_op(
    "normalize_score_map",
    reference=reference.normalize_score_map,
    fake=_fake,
)


def normalize_score_map(maps: Tensor, size: tuple[int, int] | None, rule: BoxRule) -> Tensor:
    """Bring score maps to ``size`` and to the rule's range, in float64.

    Source: wsolevaluation, which resizes first and normalises second; DANet and SPA do it the other way round. A map
    that holds a NaN or an infinity when it is normalised becomes all zeros, and so does one without range (for "max":
    without a positive value).

    Args:
        maps (Tensor[N, h, w]): any real dtype and stride; converted to float64 before anything else.
        size: (H, W) in pixels, or the side of a square; None keeps (h, w).
        rule: its ``interpolation``, ``normalization``, ``eps`` and ``normalize_first`` are used.

    Returns:
        Tensor[N, H, W]: float64, contiguous. Bicubic is bit-identical to OpenCV's float64 ``INTER_CUBIC``. After
        "minmax" the extremes are exactly 0 and 1. With "none" non-finite values pass through.

    Raises:
        ValueError: if ``maps`` is not 3-d, is empty in h or w, is complex or bool; if ``size`` is not positive or
            asks for a resize that ``interpolation="none"`` forbids.

    Backends: CPU (C++), CUDA (C++), elsewhere the reference. Not differentiable. Deterministic.

    Example:
        >>> normalize_score_map(torch.tensor([[[2.0, 4.0]]]), (1, 4), BoxRule(interpolation="linear")).tolist()
        [[[0.0, 0.25, 0.75, 1.0]]]
    """
    maps = as_tensor("normalize_score_map", "maps", maps)
    check_type("normalize_score_map", "rule", rule, BoxRule)
    check_maps("normalize_score_map", maps)
    height, width = maps.shape[-2:] if size is None else as_size("normalize_score_map", "size", size)
    check_size("normalize_score_map", maps, (height, width), rule)
    return _OP(maps.detach().to(torch.float64), [height, width], rule.pack())


def check_maps(op: str, maps: Tensor) -> None:
    """Raise ValueError unless ``maps`` is [N, h, w] with pixels and real numbers in it."""
    if maps.dim() != 3:
        raise ValueError(f"{op}: expected maps of shape [N, h, w], got {list(maps.shape)}")
    if maps.shape[1] == 0 or maps.shape[2] == 0:
        raise ValueError(f"{op}: maps have no pixels: {list(maps.shape)}")
    if maps.is_complex() or maps.dtype == torch.bool:
        raise ValueError(f"{op}: expected real-valued maps, got {maps.dtype}; call .double() first")


def check_size(op: str, maps: Tensor, size: tuple[int, int], rule: BoxRule) -> None:
    """Raise ValueError unless ``maps`` [N, h, w] can become ``size``."""
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"{op}: expected a positive size (H, W), got ({height}, {width})")
    if rule.interpolation == "none" and (height, width) != tuple(maps.shape[-2:]):
        raise ValueError(
            f"{op}: maps of {tuple(maps.shape[-2:])} cannot become {(height, width)} with "
            f'interpolation="none"; choose "cubic" or "linear"'
        )
