"""Grad-CAM++: Chattopadhyay et al., "Grad-CAM++: Generalized Gradient-Based Visual Explanations ...", WACV 2018."""

from torch import Tensor

from wsolfast.refinements._gradients import GradientMap, weighted_sum


class GradCAMPlusPlus(GradientMap):
    r"""Features weighted by positive gradients, each by its share :math:`\alpha` in the class's score.

    .. math::

        \alpha_{cp} = \frac{g_{cp}^2}{2 g_{cp}^2 + \sum_q A_{cq} g_{cq}^3 + 10^{-7}}, \quad
        w_c = \sum_p \alpha_{cp} \max(0, g_{cp}), \quad \max(0, \sum_c w_c A_c)

    A denominator of exactly zero counts as one. The score is the logit; the paper's exponential of it is one factor of
    all channels, which scaling undoes.
    """

    @staticmethod
    def of_class(features: Tensor, gradient: Tensor, score: Tensor) -> Tensor:
        square = gradient.square()
        denominator = 2 * square + (features * gradient * square).sum((2, 3), keepdim=True)
        alpha = square / (denominator.masked_fill(denominator == 0, 1) + 1e-7)
        weight = (alpha * gradient.relu()).expand_as(features).sum((2, 3), keepdim=True)
        return weighted_sum(features, weight).relu()


NAME = "Grad-CAM++"
REFINEMENT = GradCAMPlusPlus
