"""Class maps of patch tokens by one convolution, coupled with the class token's attention."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import CLASS_ATTENTION, Backbone
from wsolfast.methods._base import Method, bias_of, wanted_classes
from wsolfast.refinements import LinearHead
from wsolfast.types import Features, Localization

_KERNEL = 3

Layers = Literal["all", "last"]


class CoupledMaps(Method):
    r"""A transformer whose logits are the means of maps F that a 3×3 convolution makes of its patch tokens.

    .. math:: a_p = \sum_\ell \mathrm{mean}_h\, \mathrm{softmax}(q k^\top / \sqrt{d})_{\text{class}, p},
        \qquad M_k = a \odot F_k

    No map is computed for a logit, and of wanted classes only for a localization map.

    Args:
        backbone: a transformer with a class token.
        num_classes: K.
        layers: layers whose attention makes a: the sum over ``"all"``, as published, or the ``"last"`` one alone.

    Raises:
        BackboneError: if the backbone has no class token's attention.
    """

    has_linear_head = True
    # a is scaled to [0, 1] before the product.
    scaled_attention = False

    def __init__(self, backbone: Backbone, num_classes: int, *, layers: Layers = "all"):
        super().__init__()
        backbone.require_class_attention("evaluation")
        self.backbone, self.layers = backbone, layers
        self.head = nn.Conv2d(backbone.stages[-1].channels, num_classes, _KERNEL, padding=1)

    @property
    def feature_stages(self) -> tuple[str, ...]:
        # Training computes no attention.
        watched = self.backbone.gives_class_attention
        return (self.last_stage, CLASS_ATTENTION) if watched else (self.last_stage,)

    def classify_features(self, features: Features) -> Tensor:
        return mean_of_convolution(features[self.last_stage], self.head.weight, bias_of(self.head))

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        logits = self.classify_features(features)
        classes = wanted_classes(logits, label, topk)
        maps = maps_of_classes(features[self.last_stage], self.head.weight, bias_of(self.head), classes)
        return Localization(logits, classes, ops.min_max_normalize(maps * self.attention(features)[:, None]))

    def attention(self, features: Features) -> Tensor:
        """Return a, [N, h, w], of what :meth:`features` returned."""
        summed = attention_of(features, self.layers)
        return ops.min_max_normalize(summed) if self.scaled_attention else summed

    def linear_head(self, features: Features) -> LinearHead:
        tokens = features[self.last_stage]
        windows = functional.unfold(tokens, _KERNEL, padding=1).unflatten(2, tokens.shape[2:])
        return LinearHead(windows, self.head.weight.flatten(1), bias_of(self.head))

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        return {"class attention": ops.min_max_normalize(self.attention(self.features(image)))}


def attention_of(features: Features, layers: Layers) -> Tensor:
    """Return the class token's attention [N, h, w], the mean over heads, of the last layer or summed over all."""
    heads = features[CLASS_ATTENTION].mean(2)  # [N, L, h, w]
    return heads.sum(1) if layers == "all" else heads[:, -1]


def mean_of_convolution(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the means [N, K] of a zero-padded 3×3 convolution's maps, without the maps.

    Every tap of the kernel sees the features but for a row, a column or both at the border, and the mean is linear in
    the nine sums of what the taps see.

    Args:
        features (Tensor[N, D, h, w]): what is convolved.
        weight (Tensor[K, D, 3, 3]): of the convolution.
        bias (Tensor[K]): of the convolution.
    """
    height, width = features.shape[2:]
    seen_across = torch.stack([features[..., :-1].sum(3), features.sum(3), features[..., 1:].sum(3)], -1)
    seen = torch.stack([seen_across[:, :, :-1].sum(2), seen_across.sum(2), seen_across[:, :, 1:].sum(2)], 2)
    return functional.linear(seen.flatten(1) / (height * width), weight.flatten(1), bias)


def maps_of_classes(features: Tensor, weight: Tensor, bias: Tensor, classes: Tensor) -> Tensor:
    """Return the maps [N, M, h, w] of ``classes`` [N, M] of a zero-padded 3×3 convolution.

    Args:
        features, weight, bias: as for :func:`mean_of_convolution`.
        classes (Tensor[N, M]): of each image.
    """
    # Each tap's product with the features is added where the tap stands: "fold" adds, and turns the kernel.
    taps = weight.flip(2, 3)[classes].permute(0, 1, 3, 4, 2).flatten(1, 3)  # [N, M * 9, D]
    products = taps @ features.flatten(2).to(taps.dtype)
    maps = functional.fold(products, features.shape[2:], _KERNEL, padding=1)
    return maps + bias[classes][:, :, None, None]
