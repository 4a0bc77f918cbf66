"""SqueezeNet 1.1 (Iandola et al., 2016) from torchvision: its classifier is a 1x1 convolution, a CAM head as it is."""

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import Architecture

LAYOUTS = ("stride16",)


def assemble(layout: str) -> Architecture:
    net = import_torchvision().models.squeezenet1_1(weights=None)
    taps = {"conv2": "features.4", "conv3": "features.7", "conv4": "features.10", "conv5": "features.12"}
    return Architecture(net, taps, head="classifier.1", relu_maps=True)
