"""Reference of :func:`wsolfast.ops.normalize_score_map`."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wsolfast.reference._box_rule import unpack


def normalize_score_map(maps: Tensor, size: Sequence[int], rule: Sequence[float]) -> Tensor:
    """Bring maps [N, h, w] of any real dtype to float64 [N, *size]; ``rule`` is packed."""
    switches = unpack(rule)
    height, width = size
    maps = maps.to(torch.float64)
    if maps.shape[0] == 0:
        return maps.new_empty(0, height, width)
    if switches.normalize_first:
        maps = _normalize(maps, switches.normalization, switches.eps)
    maps = _resize(maps, height, width, switches.interpolation)
    if not switches.normalize_first:
        maps = _normalize(maps, switches.normalization, switches.eps)
    return maps.clone(memory_format=torch.contiguous_format)


def _normalize(maps: Tensor, kind: str, eps: float) -> Tensor:
    if kind == "none":
        return maps
    low = maps.amin((-2, -1), keepdim=True)
    if kind == "max":
        high = maps.amax((-2, -1), keepdim=True)
        scaled = maps.clamp(min=0) / high
    else:
        scaled = maps - low
        high = scaled.amax((-2, -1), keepdim=True)
        if kind == "minmax":
            scaled = scaled / high
        elif kind == "minmax_eps":
            scaled = scaled / (high + eps)
    usable = maps.isfinite().all(-1, keepdim=True).all(-2, keepdim=True) & (high > 0)
    return torch.where(usable, scaled, torch.zeros_like(scaled))


def _resize(maps: Tensor, height: int, width: int, kind: str) -> Tensor:
    if kind == "none":
        return maps
    maps = _resize_last(maps, width, kind)
    return _resize_last(maps.transpose(-2, -1), height, kind).transpose(-2, -1)


def _resize_last(maps: Tensor, size: int, kind: str) -> Tensor:
    """Resize the last dimension; taps are summed one after the other, as an output pixel does it on paper."""
    taps = [_taps(index, maps.shape[-1], size, kind) for index in range(size)]

    def term(k: int) -> Tensor:
        source = torch.tensor([tap[k][0] for tap in taps], device=maps.device)
        weight = torch.tensor([tap[k][1] for tap in taps], dtype=torch.float64, device=maps.device)
        return maps[..., source] * weight

    return functools.reduce(torch.add, map(term, range(len(taps[0]))))


def _taps(index: int, source: int, target: int, kind: str) -> list[tuple[int, float]]:
    """Return (source position, weight) of each pixel that output ``index`` is made of."""
    if kind == "cubic":
        return _cubic_taps(index, source, target)
    if kind == "linear":
        position = (index + 0.5) * (source / target) - 0.5
    else:
        position = index * ((source - 1) / (target - 1)) if target > 1 else 0.0
    position = min(max(position, 0.0), source - 1.0)
    low = math.floor(position)
    fraction = position - low
    return [(low, 1.0 - fraction), (min(low + 1, source - 1), fraction)]


def _cubic_taps(index: int, source: int, target: int) -> list[tuple[int, float]]:
    """Return OpenCV's weights: polynomials in float32 of a coordinate that is rounded to float32 before."""
    scale = 1.0 / (target / source)
    position = torch.tensor((index + 0.5) * scale - 0.5, dtype=torch.float32)
    floor = position.floor()
    x = position - floor
    a = torch.tensor(-0.75, dtype=torch.float32)
    left = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a
    centre = ((a + 2) * x - (a + 3)) * x * x + 1
    y = 1 - x
    right = ((a + 2) * y - (a + 3)) * y * y + 1
    weights = (left, centre, right, 1 - left - centre - right)
    return [(min(max(int(floor) + k - 1, 0), source - 1), float(weight)) for k, weight in enumerate(weights)]
