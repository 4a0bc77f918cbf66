"""Score maps and rules that the cases of several ops share."""

import torch
from torch import Tensor

from wsolfast.ops import BoxRule
from wsolfast.testing._tools import seeded

RULES = {
    "contour": BoxRule(),
    "multi": BoxRule(selection="all"),
    "danet": BoxRule(quantize=False, relative=False, comparison=">=", selection="union", box_end="inclusive", hit=">"),
    "ci_cam": BoxRule(quantize=False, mean_cut=True, connectivity=4, selection="box_area", box_end="exclusive"),
    "pixels": BoxRule(selection="pixel_area", box_end="exclusive", empty_box="image", iou_plus_one=False, gt="first"),
}


def in_unit_range(maps: Tensor) -> Tensor:
    """Each map scaled to [0, 1] in its own dtype."""
    low = maps.amin((-2, -1), keepdim=True)
    return (maps - low) / (maps - low).amax((-2, -1), keepdim=True)


def smooth(shape: tuple[int, int, int], device: str, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Maps with a few blobs, holes and nested components among them."""
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


def thresholds(device: str, count: int = 10) -> Tensor:
    """The grid 0, 1/count, ... below 1."""
    return torch.arange(count, dtype=torch.float64, device=device) / count
