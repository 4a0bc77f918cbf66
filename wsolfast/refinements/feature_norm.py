"""Feature norm: where the backbone sees much, whatever the class; a baseline that every class map should beat."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.backbones import StageInfo
from wsolfast.refinements._base import Needs, Refinement, Seen, check_stage


class FeatureNorm(Refinement):
    r"""Length of the features at every position, one map for all classes.

    .. math:: s_p = \sqrt{\sum_c f_{cp}^2}

    Args:
        stages: of the backbone.
        layer: the backbone stage whose features f are taken; "" takes the last one.

    Raises:
        ValueError: if the backbone has no such stage.
    """

    def __init__(self, stages: Sequence[StageInfo], *, layer: str = ""):
        self.layer = layer or stages[-1].name
        check_stage("feature_norm", "layer", self.layer, stages)

    def needs(self, has_head: bool) -> Needs:
        return Needs(stages=(self.layer,))

    def __call__(self, seen: Seen) -> Tensor:
        features = seen.features[self.layer]
        # The squares of half precision's larger numbers are infinite.
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        return ops.min_max_normalize(torch.linalg.vector_norm(features, dim=1, keepdim=True))


NAME = "Feature norm"
REFINEMENT = FeatureNorm
