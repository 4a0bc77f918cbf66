"""Score maps and rules that the cases of several ops share."""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from wsolfast.ops import BoxRule
from wsolfast.testing._tools import seeded, with_value

RULES = {
    "contour": BoxRule(),
    "multi": BoxRule(selection="all"),
    "danet": BoxRule(quantize=False, relative=False, comparison=">=", selection="union", box_end="inclusive", hit=">"),
    "ci_cam": BoxRule(quantize=False, mean_cut=True, connectivity=4, selection="box_area", box_end="exclusive"),
    "percentile": BoxRule(percentile=85.0),
    "pixels": BoxRule(selection="pixel_area", box_end="exclusive", empty_box="image", iou_plus_one=False, gt="first"),
}


def in_unit_range(maps: Tensor) -> Tensor:
    """Scale each map to [0, 1] in its own dtype."""
    low = maps.amin((-2, -1), keepdim=True)
    return (maps - low) / (maps - low).amax((-2, -1), keepdim=True)


def smooth(shape: tuple[int, int, int], device: str, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Return maps with a few blobs, holes and nested components among them."""
    n, height, width = shape
    coarse = seeded((n, 1, 3, 4), "cpu", torch.float64, seed)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[:, 0]
    return in_unit_range(fine + 0.2 * seeded(shape, "cpu", torch.float64, seed + 1)).to(dtype).to(device)


MAPS = {
    "smooth": lambda device, dtype: smooth((2, 11, 14), device, dtype),
    "noise": lambda device, dtype: in_unit_range(seeded((2, 9, 7), device, dtype, seed=3)),
    "one_pixel": lambda device, dtype: torch.ones((2, 1, 1), device=device, dtype=dtype),
    "empty_batch": lambda device, dtype: torch.zeros((0, 4, 5), device=device, dtype=dtype),
    "zero": lambda device, dtype: torch.zeros((1, 4, 5), device=device, dtype=dtype),
    "constant": lambda device, dtype: torch.full((1, 4, 5), 0.5, device=device, dtype=dtype),
    "not_contiguous": lambda device, dtype: smooth((6, 8, 2), device, dtype).permute(2, 1, 0),
    "levels": lambda device, dtype: (smooth((2, 7, 8), device, torch.float64) * 255).to(torch.uint8),
}


def raw(*shape):
    return lambda device, dtype: 3 * seeded(shape, device, dtype) - 1


# Raw maps, the size they are brought to, and the rule's switches for that.
RAW_MAPS: dict[str, tuple[Callable, tuple[int, int], dict[str, Any]]] = {
    "cubic_up": (raw(2, 5, 4), (13, 37), {}),
    "cubic_down": (raw(2, 9, 12), (4, 5), {"normalization": "minmax_eps", "eps": 1e-10}),
    "linear": (raw(2, 4, 5), (40, 9), {"interpolation": "linear", "normalization": "max"}),
    "linear_corners": (raw(2, 4, 5), (9, 1), {"interpolation": "linear_corners"}),
    "normalize_first": (raw(2, 4, 5), (9, 33), {"interpolation": "linear", "normalize_first": True}),
    "own_size": (raw(2, 7, 6), (7, 6), {"interpolation": "none", "normalize_first": True}),
    "raw_one_pixel": (raw(2, 1, 1), (5, 4), {}),
    "raw_empty_batch": (raw(0, 4, 4), (8, 8), {}),
    "raw_not_contiguous": (lambda device, dtype: raw(6, 5, 2)(device, dtype).permute(2, 1, 0), (7, 8), {}),
    "raw_zero": (lambda device, dtype: torch.zeros((1, 3, 4), device=device, dtype=dtype), (6, 8), {}),
    "raw_constant": (lambda device, dtype: torch.full((1, 3, 4), 0.7, device=device, dtype=dtype), (6, 8), {}),
    "raw_nan": (with_value(raw(2, 3, 4), (0, 1, 2), float("nan")), (6, 8), {}),
    "raw_infinite": (
        with_value(raw(2, 3, 4), (0, 1, 2), float("inf")),
        (6, 8),
        {"interpolation": "linear", "normalize_first": True},
    ),
    "raw_bytes": (lambda device, dtype: (40 * raw(2, 4, 5)(device, dtype).abs()).to(torch.uint8), (9, 8), {}),
}


def thresholds(device: str, count: int = 10) -> Tensor:
    """Return the grid 0, 1/count, ... below 1."""
    return torch.arange(count, dtype=torch.float64, device=device) / count


def ways_of_calling():
    """Yield (name, maps maker, rule, size): normalised maps with every rule, then raw ones with one each."""
    for maps, make in MAPS.items():
        for name, rule in RULES.items():
            if maps != "levels" or rule.quantize:
                yield f"{maps}_{name}", make, rule, None
    for (maps, (make, size, switches)), (name, rule) in zip(RAW_MAPS.items(), cycle(RULES.items()), strict=False):
        yield f"{maps}_{name}", make, replace(rule, **switches), size
