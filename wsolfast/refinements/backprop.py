"""Backprop: Simonyan et al., "Deep Inside Convolutional Networks: Visualising Image Classification ...", 2013."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import StageInfo
from wsolfast.refinements._base import IMAGE, Needs, Refinement, Seen
from wsolfast.refinements._gradients import gradients_of


class Backprop(Refinement):
    r"""Largest gradient of a class's logit among the colours of a pixel: :math:`\max_{rgb} |\partial S / \partial x|`.

    The paper cuts the object out of it by GraphCut on colours. Here the map is smoothed, and the protocol cuts it.

    Args:
        stages: of the backbone.
        smooth: deviation of the Gaussian as a share of the longer side; 0 for none.

    Raises:
        ValueError: if ``smooth`` lies outside [0, 0.1].
    """

    def __init__(self, stages: Sequence[StageInfo], *, smooth: float = 0.02):
        if not 0 <= smooth <= 0.1:
            raise ValueError(f"backprop: smooth: expected a share in [0, 0.1], got {smooth}")
        self.smooth = smooth

    def needs(self, has_head: bool) -> Needs:
        return Needs(scores=True, graph_from=IMAGE)

    def __call__(self, seen: Seen) -> Tensor:
        image, gradients = seen.features[IMAGE], gradients_of(seen, IMAGE)
        maps = [gradient.abs().amax(1) for gradient in gradients]
        if not maps:
            return image.new_zeros(len(image), 0, *image.shape[2:])
        return ops.min_max_normalize(smoothed(torch.stack(maps, 1), self.smooth * max(image.shape[2:])))


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Return maps [N, M, H, W] after a Gaussian of deviation ``sigma`` pixels, mirrored at the borders."""
    for dim in (2, 3):
        # Four deviations hold all but 1e-4 of its weight; a border mirrors at most what is there.
        radius = min(round(4 * sigma), maps.shape[dim] - 1)
        if radius < 1:
            continue
        offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
        weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
        weights = (weights / weights.sum()).view(1, 1, -1, 1)
        rows = maps.flatten(0, 1)[:, None] if dim == 2 else maps.mT.flatten(0, 1)[:, None]
        rows = functional.conv2d(functional.pad(rows, (0, 0, radius, radius), mode="reflect"), weights)[:, 0]
        maps = rows.unflatten(0, maps.shape[:2])
        maps = maps if dim == 2 else maps.mT
    return maps


NAME = "Backprop"
REFINEMENT = Backprop
