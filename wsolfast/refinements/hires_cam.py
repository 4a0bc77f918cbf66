"""HiResCAM: Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations ...", 2020."""

from torch import Tensor

from wsolfast.refinements._gradients import GradientMap, weighted_sum


class HiResCAM(GradientMap):
    r"""Features weighted by the gradient at their own position: :math:`\max(0, \sum_c g_c \odot A_c)`."""

    def of_class(self, features: Tensor, gradient: Tensor, score: Tensor) -> Tensor:
        return weighted_sum(features, gradient).relu()


NAME = "HiResCAM"
REFINEMENT = HiResCAM
