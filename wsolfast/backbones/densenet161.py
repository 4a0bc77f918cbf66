"""DenseNet161 (Huang et al., CVPR 2017) from torchvision: the classifier of PSOL and SPOL."""

import re

from torch import nn

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import Architecture

LAYOUTS = ("stride32",)


def assemble(layout: str) -> Architecture:
    net = import_torchvision().models.densenet161(weights=None)
    # torchvision calls this ReLU as a function.
    net.features.add_module("relu5", nn.ReLU(inplace=True))
    taps = {f"conv{index + 1}": f"features.denseblock{index}" for index in (1, 2, 3)}
    # The published weights are older than the names of a dense layer's modules.
    published_names = {
        path: re.sub(r"(denselayer\d+\.(?:norm|relu|conv))(\d)$", r"\1.\2", path) for path, _ in net.named_modules()
    }
    return Architecture(net, taps | {"conv5": "features.relu5"}, head="classifier", published_names=published_names)
