"""A network of 0.24 million parameters for tests, demos and small images, trained from scratch in a minute on a CPU.

Only the first convolution of a stage is wider than a pixel (two in conv2): a last feature sees 55 pixels of the image,
about half an object, so maps stay local and objects are not smeared.

``stride16`` and ``stride8`` differ in the stride of conv4 alone: at 112 pixels the last maps are 7x7 or 14x14.
"""

from collections import OrderedDict

from torch import nn

from wsolfast.backbones._base import Architecture

LAYOUTS = ("stride16", "stride8")

_WIDTHS = (16, 32, 64, 96, 128)


def assemble(layout: str) -> Architecture:
    stem, *widths = _WIDTHS
    strides = (2, 2, 2 if layout == "stride16" else 1, 1)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(*_layer(3, stem, stride=2)))
    channels = stem
    for stage, width, stride in zip(("conv2", "conv3", "conv4", "conv5"), widths, strides, strict=True):
        second = _layer(width, width, kernel=3 if stage == "conv2" else 1)
        blocks[stage] = nn.Sequential(*_layer(channels, width, stride), *second)
        channels = width
    return Architecture(nn.Sequential(blocks), {stage: stage for stage in blocks if stage != "stem"})


def _layer(channels: int, width: int, stride: int = 1, kernel: int = 3) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)
