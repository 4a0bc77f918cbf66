"""GoogLeNet (Szegedy et al., CVPR 2015) from torchvision, 7x7 at 224.

Its weights were trained on inputs in [-1, 1]: torchvision's network computes them from normalised ones, here the images
are scaled so at once.
"""

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import Architecture

LAYOUTS = ("stride32",)


def assemble(layout: str) -> Architecture:
    net = import_torchvision().models.googlenet(weights=None, aux_logits=False, init_weights=False)
    taps = {"conv2": "conv3", "conv3": "inception3b", "conv4": "inception4e", "conv5": "inception5b"}
    return Architecture(net, taps, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), head="fc")
