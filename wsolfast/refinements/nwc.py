"""NWC: Bae et al., "Rethinking Class Activation Mapping for Weakly Supervised Object Localization", ECCV 2020.

Negative weights of a class lower its map where the object has features of other classes; they count as zero in the map.
"""

from collections.abc import Sequence

from torch import Tensor

from wsolfast import ops
from wsolfast.backbones import StageInfo
from wsolfast.refinements._base import Needs, Refinement, Seen, project


class NegativeWeightClamping(Refinement):
    r"""Class maps of clamped weights :math:`\sum_c \max(W_{kc}, 0) f_c`; class scores keep the weights as they are.

    Args:
        stages: of the backbone.
    """

    def __init__(self, stages: Sequence[StageInfo]):
        pass

    def needs(self, has_head: bool) -> Needs:
        return Needs(head=True)

    def __call__(self, seen: Seen) -> Tensor:
        assert seen.head is not None
        return ops.min_max_normalize(project(seen.head.weight[seen.classes].clamp(min=0), seen.head.features))


NAME = "NWC"
REFINEMENT = NegativeWeightClamping
