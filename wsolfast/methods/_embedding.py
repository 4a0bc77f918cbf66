"""Vectors of the foreground and background of images, by which CoAug compares them."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import interpolate

from wsolfast import backbones
from wsolfast.backbones import Backbone

Embedding = Literal["alexnet", "alexnet_conv5", "alexnet_flat", "backbone", "features"]
_ALEXNET_LAYERS: dict[Embedding, str] = {"alexnet": "fc7", "alexnet_conv5": "conv5", "alexnet_flat": "conv5_flat"}
# Added to the area of a region, which may be empty.
EPS = 1e-6


class MaskedEmbedding:
    """Vectors of an image's foreground, background and confident background. Gradients reach the map alone.

    Not a Module: nothing here is trained, so no checkpoint needs to hold it, and what runs no training never loads it.

    Args:
        kind: ``"alexnet"`` (fc7, the paper's network), ``"alexnet_conv5"`` or ``"alexnet_flat"``, see
            :class:`wsolfast.backbones.AlexNetEmbedding`; ``"backbone"``, the mean of the last stage that the method's
            own backbone, as it stands, gives for the masked images; ``"features"``, the mean of its features of the
            whole image in each region, which takes no second pass.
        weights: of AlexNet.
    """

    def __init__(self, kind: Embedding, weights: str):
        self.kind, self.weights = kind, weights
        self._alexnet: backbones.AlexNetEmbedding | None = None

    def __call__(self, backbone: Backbone, image: Tensor, features: Tensor, soft: Tensor, mask: Tensor) -> Tensor:
        """Return vectors [N, 3, D].

        Args:
            backbone: of the method.
            image (Tensor[N, 3, H, W]): uint8, or floating point in [0, 1].
            features (Tensor[N, C, h, w]): its last stage.
            soft (Tensor[N, h, w]): foreground, in [0, 1].
            mask (Tensor[N, h, w]): the confident positions, 0 or 1.
        """
        if self.kind == "features":
            return embed_features(features.detach(), soft, mask)
        if self.kind == "backbone":
            return embed_images(partial(_pooled_features, backbone), backbone.input_mean, image, soft, mask)
        if self._alexnet is None:
            self._alexnet = backbones.AlexNetEmbedding(_ALEXNET_LAYERS[self.kind], self.weights).to(image.device)
        return embed_images(self._alexnet, self._alexnet.input_mean, image, soft, mask)


def embed_features(features: Tensor, soft: Tensor, mask: Tensor) -> Tensor:
    """Return the mean feature of each region [N, 3, C]: the feature map takes the image's place.

    Each mean is over its own region. Over the whole map it would grow with the region, and since features are not
    negative, foreground and background would differ most where the foreground is everything.
    """
    masks = _three_masks(soft, mask).flatten(2)
    return masks @ features.to(masks.dtype).flatten(2).mT / (masks.sum(2, keepdim=True) + EPS)


def embed_images(embed: Callable[[Tensor], Tensor], mean: Tensor, image: Tensor, soft: Tensor, mask: Tensor) -> Tensor:
    """Return what ``embed`` makes of masked images [N, 3, D]; what is masked out has the colour ``mean``."""
    size = image.shape[-2:]
    soft = interpolate(soft[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    mask = interpolate(mask[:, None], size, mode="nearest")[:, 0]
    scale = 255 if image.dtype == torch.uint8 else 1
    mean = mean.to(soft.dtype)
    masked = mean + _three_masks(soft, mask)[:, :, None] * (image / scale - mean)[:, None]
    return embed(masked.flatten(0, 1)).unflatten(0, (-1, 3))


def _three_masks(soft: Tensor, mask: Tensor) -> Tensor:
    return torch.stack((soft, 1 - soft, (1 - soft) * mask), dim=1)


def _pooled_features(backbone: Backbone, image: Tensor) -> Tensor:
    """Return the mean of the last stage in eval mode; parameters take no gradient and statistics stay as they are."""
    frozen = {name: value.detach() for name, value in chain(backbone.named_parameters(), backbone.named_buffers())}
    training = backbone.training
    backbone.eval()
    try:
        return functional_call(backbone, frozen, (image,))[backbone.stages[-1].name].mean((2, 3))
    finally:
        backbone.train(training)
