"""The class-activation head that CAM-style methods share."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast.backbones import Backbone
from wsolfast.methods._base import bias_of
from wsolfast.refinements import LinearHead, thresholded_mean

HeadKind = Literal["conv3", "conv2", "linear", "pretrained"]
# How many 3×3 convolutions stand before the classifier.
_HIDDEN: dict[HeadKind, int] = {"conv3": 2, "conv2": 1, "linear": 0, "pretrained": 0}


class CamHead(nn.Module):
    """A head from features to class maps and, by global average pooling, to logits.

    Args:
        backbone: one of its stages feeds the head; with ``kind="pretrained"`` its classifier becomes the head.
        num_classes: number of class maps.
        kind: ``"conv3"`` (3×3, 3×3, 1×1 convolutions, as ACoL and SPA use), ``"conv2"`` (3×3, 1×1, VGG-GAP),
            ``"linear"`` (one 1×1 convolution, the original CAM) or ``"pretrained"`` (the ImageNet classifier that came
            with the backbone's weights).
        hidden_channels: width of the 3×3 convolutions.
        stage: name of the stage that feeds the head; the last one if None.
        dropout: share of values dropped before every convolution.
        tap_threshold: pool by :func:`wsolfast.refinements.thresholded_mean` before the classifier; None for the mean.

    Raises:
        ValueError: if the threshold lies outside [0, 1), or the head rectifies class maps before their mean.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        kind: HeadKind = "linear",
        hidden_channels: int = 1024,
        stage: str | None = None,
        dropout: float = 0.0,
        tap_threshold: float | None = None,
    ):
        super().__init__()
        if tap_threshold is not None and not 0 <= tap_threshold < 1:
            raise ValueError(f"tap_threshold: expected a value in [0, 1), got {tap_threshold}")
        channels = {info.name: info.channels for info in backbone.stages}[stage or backbone.stages[-1].name]
        self.relu_maps, self.tap_threshold = False, tap_threshold
        layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
        for _ in range(_HIDDEN[kind]):
            layers += [nn.Conv2d(channels, hidden_channels, 3, padding=1), nn.ReLU(inplace=True)]
            layers += [nn.Dropout(dropout)] if dropout else []
            channels = hidden_channels
        self.hidden = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(bias_of(module))
        if kind == "pretrained":
            self._take_classifier(backbone, num_classes)

    def class_maps(self, features: Tensor) -> Tensor:
        """Return class maps [N, K, h, w], before pooling."""
        return self.classifier(self.hidden(features))

    def pool(self, class_maps: Tensor) -> Tensor:
        """Return logits [N, K]: the mean of each class map."""
        return (class_maps.relu() if self.relu_maps else class_maps).mean((2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """Return logits [N, K] without keeping class maps where the head allows it."""
        return self.pooled_logits(self.hidden(features))

    def localize(self, features: Tensor, label: Tensor | None, topk: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [N, K], classes [N, M] (the label, then the top-k) and class maps [N, M, h, w] of those."""
        hidden = self.hidden(features)
        logits = self.pooled_logits(hidden)
        predicted = logits.topk(min(topk, logits.shape[1]), dim=1).indices
        classes = predicted if label is None else torch.cat([label[:, None], predicted], dim=1)
        return logits, classes, self.maps_of(hidden, classes)

    def maps_of(self, hidden: Tensor, classes: Tensor, *, constant: bool = False) -> Tensor:
        """Return class maps [N, M, h, w] of ``classes`` [N, M] alone, from what :attr:`hidden` gave.

        Args:
            hidden (Tensor[N, C, h, w]): features.
            classes (Tensor[N, M]): int64.
            constant: the classifier takes no gradient from them.
        """
        weight, bias = self.classifier.weight.flatten(1), bias_of(self.classifier)
        weight, bias = (weight.detach(), bias.detach()) if constant else (weight, bias)
        maps = torch.baddbmm(bias[classes][:, :, None], weight[classes], hidden.flatten(2))
        return maps.unflatten(2, hidden.shape[2:])

    def pooled_logits(self, hidden: Tensor) -> Tensor:
        """Return logits [N, K] from what :attr:`hidden` gave."""
        if self.relu_maps:
            return self.pool(self.classifier(hidden))
        # Without a ReLU, the mean commutes with the 1×1 convolution.
        mean = hidden.mean((2, 3)) if self.tap_threshold is None else thresholded_mean(hidden, self.tap_threshold)
        return functional.linear(mean, self.classifier.weight.flatten(1), self.classifier.bias)

    def linear(self, hidden: Tensor) -> LinearHead:
        """Return the classifier with what :attr:`hidden` gave, which it reads."""
        weight, bias = self.classifier.weight.flatten(1), bias_of(self.classifier)
        return LinearHead(hidden, weight, bias, self.relu_maps, self.tap_threshold)

    def _take_classifier(self, backbone: Backbone, num_classes: int) -> None:
        given = backbone.classifier
        if given is None:
            raise ValueError("head 'pretrained': these weights bring no classifier; choose head 'linear' or 'conv3'")
        if given.of_class_token:
            raise ValueError(
                "head 'pretrained': the classifier of these weights reads the class token and gives no class maps; "
                "choose the method class_attention, or head 'linear'"
            )
        if len(given.weight) != num_classes:
            raise ValueError(f"head 'pretrained': the classifier has {len(given.weight)} classes, not {num_classes}")
        with torch.no_grad():
            self.classifier.weight.copy_(given.weight[:, :, None, None])
            bias_of(self.classifier).copy_(given.bias)
        self.relu_maps = given.relu_maps
        if self.relu_maps and self.tap_threshold is not None:
            raise ValueError("head 'pretrained': these weights rectify class maps, tap_threshold does not go with them")
