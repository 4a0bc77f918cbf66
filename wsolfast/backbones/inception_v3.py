"""InceptionV3 (Szegedy et al., CVPR 2016) from torchvision, up to Mixed_6e in all layouts but one.

``spg28``, the resolution of SPG and SPA: a padded stem, padded pools that round up, and Mixed_6a without stride:
Mixed_5d (``conv4``) and Mixed_6e (``conv5``) are both 28x28 at 224. ``stock17``, that of CI-CAM: the network as it is,
35x35 and 17x17 at 299. ``csoa28`` and ``csoa17`` are the two with Mixed_6b as ``conv4``, which has the resolution of
Mixed_6e in both, and with inputs in [-1, 1], as the weights were trained. ``bas14`` is ``spg28`` with Mixed_6e as
``conv4`` and the blocks above it, whose strided layers are padded: Mixed_7c (``conv5``) is 14x14.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import Architecture
from wsolfast.backbones._realize import remove_strides

LAYOUTS = ("spg28", "stock17", "csoa28", "csoa17", "bas14")


class DenseMixed6a(nn.Module):
    """Mixed_6a without strides. Its pool is no module, so the concatenation of the branches is written out here."""

    branch3x3: Any
    branch3x3dbl_1: Any
    branch3x3dbl_2: Any
    branch3x3dbl_3: Any

    def __init__(self, block: nn.Module):
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        for branch in (self.branch3x3, self.branch3x3dbl_3):
            remove_strides(branch)
            branch.conv.padding = (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, stride=1, padding=1)], dim=1)


class PaddedMixed7a(nn.Module):
    """Mixed_7a that pads where it strides: half as many rows and columns, rounded up."""

    branch3x3_1: Any
    branch3x3_2: Any
    branch7x7x3_1: Any
    branch7x7x3_2: Any
    branch7x7x3_3: Any
    branch7x7x3_4: Any

    def __init__(self, block: nn.Module):
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        for branch in (self.branch3x3_2, self.branch7x7x3_4):
            branch.conv.padding = (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        pooled = functional.max_pool2d(x, 3, stride=2, padding=1)
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, pooled], dim=1)


def assemble(layout: str) -> Architecture:
    net = import_torchvision().models.inception_v3(weights=None, init_weights=False, aux_logits=False)
    taps = {"conv2": "maxpool1", "conv3": "maxpool2", "conv4": "Mixed_5d", "conv5": "Mixed_6e"}
    if layout in ("spg28", "csoa28", "bas14"):
        net.Conv2d_1a_3x3.conv.padding = (1, 1)
        for pool in (net.maxpool1, net.maxpool2):
            pool.padding, pool.ceil_mode = 1, True
        net.Mixed_6a = DenseMixed6a(net.Mixed_6a)
    if layout.startswith("csoa"):
        return Architecture(net, taps | {"conv4": "Mixed_6b"}, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    if layout == "bas14":
        net.Mixed_7a = PaddedMixed7a(net.Mixed_7a)
        return Architecture(net, taps | {"conv4": "Mixed_6e", "conv5": "Mixed_7c"}, head="fc")
    return Architecture(net, taps)
