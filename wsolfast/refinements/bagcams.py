"""BagCAMs: Zhu et al., "Bagging Regional Classification Activation Maps for Weakly Supervised ...", ECCV 2022.

The gradient at every position of an inner layer is a classifier of its region; their maps are added up.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from wsolfast.backbones import StageInfo
from wsolfast.refinements._gradients import GradientMap

_RECTIFIERS = {
    functional.relu,
    functional.relu_,
    functional.relu6,
    functional.hardtanh,
    torch.relu,
    torch.relu_,
    Tensor.relu,
    Tensor.relu_,
}


class BagCAMs(GradientMap):
    r"""Sum of the maps of all regional classifiers, with g the gradient of the logarithm of the class's logit S.

    .. math::

        g = \frac{1}{S} \frac{\partial S}{\partial A}, \quad r_c = 1 + \mathrm{mean}_q(g_{cq} A_{cq}), \quad
        \sum_c \max(0, r_c g_c \odot A_c)

    The logarithm of a logit that is not positive is undefined: its absolute value, at least 1e-6, stands in, with a
    warning.

    Args:
        stages: of the backbone.
        layer: name of the stage; None for the one before the last (released for ResNet50).
        guided: at every rectifier above the layer, negative gradients count as zero (released).

    Raises:
        ValueError: if there is no such stage.
    """

    def __init__(self, stages: Sequence[StageInfo], *, layer: str | None = None, guided: bool = True):
        super().__init__(stages, layer=stages[-2:][0].name if layer is None else layer)
        self.guided = guided

    def watching(self) -> AbstractContextManager:
        return _Guided() if self.guided else nullcontext()

    def of_class(self, features: Tensor, gradient: Tensor, score: Tensor) -> Tensor:
        if (score <= 0).any():
            warnings.warn("bagcams: a logit is not positive; the logarithm of its absolute value is used", stacklevel=2)
        gradient = gradient / score.abs().clamp(min=1e-6)[:, None, None, None]
        product = gradient * features
        regional = 1 + product.mean((2, 3), keepdim=True)
        return (regional * product).relu().sum(1)


class _Guided(TorchFunctionMode):
    """Mode in which what rectifiers return passes on no negative gradient, whichever way they are called."""

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _RECTIFIERS and result.requires_grad:
            result.register_hook(torch.relu)
        return result


NAME = "BagCAMs"
REFINEMENT = BagCAMs
