"""EfficientNet-B7 (Tan and Le, ICML 2019) from torchvision, made for 600 pixels: the classifier of PSOL and SPOL."""

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import Architecture

LAYOUTS = ("stride32",)


def assemble(layout: str) -> Architecture:
    net = import_torchvision().models.efficientnet_b7(weights=None)
    taps = {"conv2": "features.2", "conv3": "features.3", "conv4": "features.5", "conv5": "features.8"}
    return Architecture(net, taps, head="classifier.1")
