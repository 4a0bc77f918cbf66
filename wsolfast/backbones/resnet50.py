"""ResNet50 (He et al., CVPR 2016) from torchvision; SPOL's O2 to O5 are ``conv2`` to ``conv5``.

``stride32`` is the network as it is, 7x7 at 224. ``stride16`` removes the stride of the last block group, ``stride8``
those of the last two; the weights stay, nothing is dilated. ``bas14`` is ``stride8`` with a 2x2 max pool between the
last two: conv4 is 28x28, conv5 14x14.
"""

from collections import OrderedDict

from torch import nn

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import Architecture
from wsolfast.backbones._realize import remove_strides

LAYOUTS = ("stride32", "stride16", "stride8", "bas14")


def assemble(layout: str) -> Architecture:
    net = import_torchvision().models.resnet50(weights=None)
    if layout != "stride32":
        remove_strides(net.layer4)
    if layout in ("stride8", "bas14"):
        remove_strides(net.layer3)
    if layout == "bas14":
        # Under names of its own, so that the blocks keep theirs.
        net.layer4 = nn.Sequential(OrderedDict(pool=nn.MaxPool2d(2), **dict(net.layer4.named_children())))
    return Architecture(net, {f"conv{index + 1}": f"layer{index}" for index in range(1, 5)}, head="fc")
