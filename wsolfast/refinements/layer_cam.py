"""LayerCAM: Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", TIP 2021."""

from torch import Tensor

from wsolfast.refinements._gradients import GradientMap, weighted_sum


class LayerCAM(GradientMap):
    r"""Features weighted by the positive gradients at their position: :math:`\max(0, \sum_c \max(0, g_c) \odot A_c)`.

    At the last stage before pooling and a linear layer this is NWC.
    """

    def of_class(self, features: Tensor, gradient: Tensor, score: Tensor) -> Tensor:
        return weighted_sum(features, gradient.relu()).relu()


NAME = "LayerCAM"
REFINEMENT = LayerCAM
