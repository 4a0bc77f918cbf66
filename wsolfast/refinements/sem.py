"""SEM: Zhang et al., "Rethinking Localization Map: Towards Accurate Object Perception with ...", 2020.

The most activated places of a class map are seeds; what looks like one of them belongs to the object.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import StageInfo
from wsolfast.refinements._base import Needs, Refinement, Seen


class SelfEnhancement(Refinement):
    r"""Cosine similarity of every position to the seeds of a class.

    .. math:: s_p = \max_{q \in S} \frac{\langle g_p, g_q \rangle}{\max(|g_p|, 10^{-8}) \max(|g_q|, 10^{-8})}

    S are the positions of the largest values of the class map before any ReLU; of equal ones the first in raster order
    comes first. A method without a linear classifier gives its own map instead. No similarity but those to the seeds is
    computed. Where all positions are alike, or all are seeds, the map is constant: zero.

    Args:
        stages: of the backbone.
        seeds: size of S, at most all positions; 60 in the released code, whatever the size of the map.
        aggregate: ``"max"`` over the seeds (released) or their ``"mean"``.
        features: g, what the linear classifier reads (``"hidden"``, released) or the backbone's last stage
            (``"backbone"``). Without a linear classifier it is that stage.

    Raises:
        ValueError: if ``seeds`` is below 1 or a choice is none of those listed.
    """

    def __init__(
        self,
        stages: Sequence[StageInfo],
        *,
        seeds: int = 60,
        aggregate: Literal["max", "mean"] = "max",
        features: Literal["hidden", "backbone"] = "hidden",
    ):
        if seeds < 1:
            raise ValueError(f"sem: seeds: expected at least 1, got {seeds}")
        self.seeds, self.aggregate, self.features = seeds, aggregate, features
        self.last = stages[-1].name

    def needs(self, has_head: bool) -> Needs:
        own = has_head and self.features == "hidden"
        return Needs(stages=() if own else (self.last,), maps=not has_head, head=has_head)

    def __call__(self, seen: Seen) -> Tensor:
        if seen.head is None:
            assert seen.maps is not None
            maps, features = seen.maps, seen.features[self.last]
        else:
            maps = seen.head.class_maps(seen.classes)
            features = seen.head.features if self.features == "hidden" else seen.features[self.last]
        if maps.shape[2:] != features.shape[2:]:
            maps = functional.interpolate(maps, features.shape[2:], mode="bilinear", align_corners=False)
        # Three digits, which autocast would leave, are too few for the difference of two similarities.
        with torch.autocast(maps.device.type, enabled=False):
            similar = self._similarities(maps, features)
            if similar.numel():
                # Where all positions are alike, cosines differ by rounding, which is no map.
                low, high = similar.aminmax(dim=2, keepdim=True)
                similar = similar.masked_fill(high - low < 100 * torch.finfo(similar.dtype).eps, 0)
            return ops.min_max_normalize(similar.unflatten(2, features.shape[2:]))

    def _similarities(self, maps: Tensor, features: Tensor) -> Tensor:
        """Return the similarities [N, M, P] of ``features`` [N, C, h, w] to the seeds of ``maps`` [N, M, h, w]."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        unit = functional.normalize(features.flatten(2).to(dtype), dim=1, eps=1e-8)
        places = maps.flatten(2).argsort(dim=2, descending=True, stable=True)[:, :, : self.seeds]
        found = []
        for chosen in places.unbind(1):
            of_seeds = unit.gather(2, chosen[:, None].expand(-1, unit.shape[1], -1))
            similar = of_seeds.mT @ unit
            found.append(similar.amax(1) if self.aggregate == "max" else similar.mean(1))
        return torch.stack(found, 1) if found else maps.flatten(2).to(dtype)


NAME = "SEM"
REFINEMENT = SelfEnhancement
