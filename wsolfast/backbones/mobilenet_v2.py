"""MobileNetV2 1.0 (Sandler et al., CVPR 2018) from torchvision.

``stride32`` is the network as it is, 7x7 at 224; ``stride16`` removes the last stride and keeps the weights, 14x14.
``tf_stride32`` and ``tf_stride16`` are for weights that come from TensorFlow: input ``2x - 1``, and SAME padding, which
puts the odd row and column at the bottom and the right.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import IMAGENET_MEAN, IMAGENET_STD, Architecture
from wsolfast.backbones._realize import remove_strides

LAYOUTS = ("stride32", "stride16", "tf_stride32", "tf_stride16")


class StridedConv2d(nn.Conv2d):
    """Strided convolution, depthwise or not, that trains fast under a CPU's bfloat16 autocast.

    oneDNN has no fast bfloat16 gradient of a strided depthwise convolution: at 96 channels of 112x112 it takes 12 times
    as long as in float32, and such layers a quarter of a training step. These run in float32 where they are trained.
    """

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Self:
        """Return a convolution of this class with the geometry and the parameters of ``conv``."""
        geometry: dict[str, Any] = {
            name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "groups")
        }
        own = cls(conv.in_channels, conv.out_channels, bias=conv.bias is not None, **geometry)
        own.weight, own.bias = conv.weight, conv.bias
        return own

    def forward(self, x: Tensor) -> Tensor:
        slow = self.groups > 1 and x.requires_grad and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not slow or self.weight.dtype != torch.float32:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


class SameConv2d(StridedConv2d):
    """Convolution padded as TensorFlow's SAME: output size ceil(input / stride), the odd pixel at the end."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Self:
        """Return a convolution with SAME padding and the parameters of ``conv``."""
        same = super().of(conv)
        same.padding = (0, 0)
        return same

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for size, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding = [total // 2, total - total // 2, *padding]
        return super().forward(functional.pad(x, padding))


def assemble(layout: str) -> Architecture:
    net = import_torchvision().models.mobilenet_v2(weights=None)
    if layout.endswith("stride16"):
        remove_strides(net.features[14])
    tensorflow = layout.startswith("tf_")
    convolution = SameConv2d if tensorflow else StridedConv2d
    strided = [path for path, child in net.named_modules() if isinstance(child, nn.Conv2d) and child.stride[0] > 1]
    for path in strided:
        net.set_submodule(path, convolution.of(net.get_submodule(path)))
    half = (0.5, 0.5, 0.5)
    return Architecture(
        net,
        {"conv2": "features.3", "conv3": "features.6", "conv4": "features.13", "conv5": "features.18"},
        mean=half if tensorflow else IMAGENET_MEAN,
        std=half if tensorflow else IMAGENET_STD,
        head="classifier.1",
    )
