"""Grad-CAM++: Chattopadhyay et al., "Grad-CAM++: Generalized Gradient-Based Visual Explanations ...", WACV 2018."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from wsolfast.backbones import StageInfo
from wsolfast.refinements._gradients import GradientMap, weighted_sum


class GradCAMPlusPlus(GradientMap):
    r"""Features weighted by positive gradients, each by its share :math:`\alpha` in the class's score.

    .. math::

        \alpha_{cp} = \frac{g_{cp}^2}{2 g_{cp}^2 + \sum_q A_{cq} g_{cp}^3 + 10^{-7}}, \quad
        w_c = \sum_p \alpha_{cp} \max(0, g_{cp}), \quad \max(0, \sum_c w_c A_c)

    A denominator of exactly zero counts as one. The score is the logit; the paper's exponential of it is one factor of
    all channels, which scaling undoes. Where the gradient is the same everywhere both cubes are one.

    Args:
        stages: of the backbone.
        layer: as :class:`GradientMap`.
        cube: of the gradient at the position p itself, as Eq 19 and pytorch-grad-cam have it (``"own"``), or of each
            position's own, summed (``"summed"``, the released code of BagCAMs): :math:`\sum_q A_{cq} g_{cq}^3`.

    Raises:
        ValueError: if there is no such stage, or ``cube`` is none of its choices.
    """

    def __init__(
        self, stages: Sequence[StageInfo], *, layer: str | None = None, cube: Literal["own", "summed"] = "own"
    ):
        super().__init__(stages, layer=layer)
        self.cube = cube

    def of_class(self, features: Tensor, gradient: Tensor, score: Tensor) -> Tensor:
        square, cube = gradient.square(), gradient.pow(3)
        if self.cube == "own":
            third = features.sum((2, 3), keepdim=True) * cube
        else:
            third = (features * cube).sum((2, 3), keepdim=True)
        denominator = 2 * square + third
        alpha = square / (denominator.masked_fill(denominator == 0, 1) + 1e-7)
        weight = (alpha * gradient.relu()).expand_as(features).sum((2, 3), keepdim=True)
        return weighted_sum(features, weight).relu()


NAME = "Grad-CAM++"
REFINEMENT = GradCAMPlusPlus
