"""A network of 0.46 million parameters for tests, demos and small images, trained from scratch in a minute on a CPU.

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
    blocks = OrderedDict(stem=nn.Sequential(*_layer(3, stem, stride=2)))
    channels = stem
    for stage, width, stride in zip(("conv2", "conv3", "conv4", "conv5"), widths, strides, strict=True):
        blocks[stage] = nn.Sequential(*_layer(channels, width, stride), *_layer(width, width, stride=1))
        channels = width
    return Architecture(nn.Sequential(blocks), {stage: stage for stage in blocks if stage != "stem"})


def _layer(channels: int, width: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)
