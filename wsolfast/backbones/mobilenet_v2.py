"""MobileNetV2 1.0 (Sandler et al., CVPR 2018) from torchvision.

``stride32`` is the network as it is, 7x7 at 224; ``stride16`` removes the last stride and keeps the weights, 14x14.
``tf_stride32`` and ``tf_stride16`` are for weights that come from TensorFlow: input ``2x - 1``, and SAME padding, which
puts the odd row and column at the bottom and the right.
"""

from torch import Tensor, nn
from torch.nn import functional

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import IMAGENET_MEAN, IMAGENET_STD, Architecture, remove_strides

LAYOUTS = ("stride32", "stride16", "tf_stride32", "tf_stride16")


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: output size ceil(input / stride), the odd pixel at the end."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "SameConv2d":
        """``conv`` with its own parameters and SAME padding."""
        same = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        same.weight, same.bias = conv.weight, conv.bias
        return same

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for size, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding = [total // 2, total - total // 2, *padding]
        return super().forward(functional.pad(x, padding))


def assemble(layout: str) -> Architecture:
    net = import_torchvision().models.mobilenet_v2(weights=None)
    if layout.endswith("stride16"):
        remove_strides(net.features[14])
    tensorflow = layout.startswith("tf_")
    if tensorflow:
        strided = [path for path, child in net.named_modules() if isinstance(child, nn.Conv2d) and child.stride[0] > 1]
        for path in strided:
            net.set_submodule(path, SameConv2d.of(net.get_submodule(path)))
    half = (0.5, 0.5, 0.5)
    return Architecture(
        net,
        {"conv2": "features.3", "conv3": "features.6", "conv4": "features.13", "conv5": "features.18"},
        mean=half if tensorflow else IMAGENET_MEAN,
        std=half if tensorflow else IMAGENET_STD,
        head="classifier.1",
    )
