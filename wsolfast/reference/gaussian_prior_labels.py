"""Reference of :func:`wsolfast.ops.gaussian_prior_labels`: one mask and one Gaussian map per region, in float64."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from wsolfast.reference._components import label_components

IGNORE = 255
_MAXIMUM_EPS = 1e-6
_LEAST_WEIGHT = 1e-12
_PIXEL_VARIANCE = 1 / 12


def gaussian_prior_labels(
    cam: Tensor,
    height: int,
    width: int,
    weight_low: float,
    weight_high: float,
    per_contour: bool,
    min_area: float,
    covariance_scale: float,
    grid_max: bool,
    object_cam: float,
    object_gaussian: float,
    background_cam: float,
    background_gaussian: float,
    empty_background: bool,
) -> Tensor:
    """Turn maps [N, h, w] into labels uint8 [N, height, width]: 0 background, 1 object, 255 ignored."""
    labels = torch.full((cam.shape[0], height, width), IGNORE, dtype=torch.uint8)
    for one, out in zip(cam.cpu().double().clamp_min(0), labels, strict=True):
        if one.max() == 0:
            out.fill_(0 if empty_background else IGNORE)
            continue
        scaled = one / (one.max() + _MAXIMUM_EPS)
        resized = interpolate(scaled[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]
        band = torch.where((resized >= weight_low) & (resized <= weight_high), resized, 0.0)
        regions = contour_regions(band > 0, min_area) if per_contour else [torch.ones_like(band, dtype=torch.bool)]
        prior = torch.zeros_like(band)
        for region in regions:
            gaussian = region_gaussian(band * region, covariance_scale)
            prior = torch.maximum(prior, gaussian / gaussian.max() if grid_max and gaussian.any() else gaussian)
        out[(resized < background_cam) & (prior < background_gaussian)] = 0
        out[(resized > object_cam) | (prior > object_gaussian)] = 1
    return labels.to(cam.device)


def region_gaussian(weights: Tensor, covariance_scale: float) -> Tensor:
    """Return the Gaussian of the weighted pixel positions [h, w], its peak one; zero without weights."""
    total = weights.sum()
    if total <= _LEAST_WEIGHT:
        return torch.zeros_like(weights)
    height, width = weights.shape
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    offsets = torch.stack([x - (weights * x).sum() / total, y - (weights * y).sum() / total])
    covariance = torch.einsum("hw,ihw,jhw->ij", weights, offsets, offsets) / total
    values, vectors = torch.linalg.eigh(covariance)
    spread = covariance_scale * values.clamp_min(_PIXEL_VARIANCE)
    along = torch.einsum("ij,ihw->jhw", vectors, offsets)
    return torch.exp(-(along.square() / spread[:, None, None]).sum(0) / 2)


def contour_regions(mask: Tensor, min_area: float) -> list[Tensor]:
    """Return the region of each contour of a mask, its own pixels included, if its polygon has the area.

    A hole's contour runs on the pixels that share an edge with the hole. In the cell between four pixel centres lies
    the whole of its polygon's area where two pixels of the filled hole touch the cell, and half of it where one does.
    """
    height, width = mask.shape
    labels, count = label_components(mask, 8)
    # A frame of background around the image joins all that touches the border into one region.
    background, holes = label_components(~pad(mask, (1, 1, 1, 1)), 4)
    regions = []
    for k in range(1, count + 1):
        filled = _filled(labels == k)
        if _doubled_area(filled, 3) >= 2 * min_area:
            regions.append(filled)
    for k in range(2, holes + 1):
        hole = (background == k)[1:-1, 1:-1]
        filled = _filled(hole)
        if _doubled_area(filled, 1) >= 2 * min_area:
            around = pad(hole, (1, 1, 1, 1))
            beside = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
            regions.append(filled | (beside & mask))
    return [region.view(height, width) for region in regions]


def _filled(component: Tensor) -> Tensor:
    outside, _ = label_components(~pad(component, (1, 1, 1, 1)), 4)
    return (outside != outside[0, 0])[1:-1, 1:-1]


def _doubled_area(filled: Tensor, least: int) -> int:
    """Return twice the area of the cells between pixel centres: half a cell at ``least`` pixels, a whole one above."""
    mask = pad(filled, (1, 1, 1, 1)).to(torch.int64)
    inside = mask[:-1, :-1] + mask[:-1, 1:] + mask[1:, :-1] + mask[1:, 1:]
    return int((inside - least + 1).clamp(0, 2).sum())
