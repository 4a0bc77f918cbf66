"""Grad-CAM: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks ...", ICCV 2017."""

from torch import Tensor

from wsolfast.refinements._gradients import GradientMap, weighted_sum


class GradCAM(GradientMap):
    r"""Features weighted by the mean gradient of their channel: :math:`\max(0, \sum_c \mathrm{mean}_p(g_{cp}) A_c)`."""

    def of_class(self, features: Tensor, gradient: Tensor, score: Tensor) -> Tensor:
        return weighted_sum(features, gradient.mean((2, 3), keepdim=True)).relu()


NAME = "Grad-CAM"
REFINEMENT = GradCAM
