"""ResNet50 (He et al., CVPR 2016) from torchvision; SPOL's O2 to O5 are ``conv2`` to ``conv5``.

``stride32`` is the network as it is, 7x7 at 224. ``stride16`` removes the stride of the last block group, ``stride8``
those of the last two; the weights stay, nothing is dilated.
"""

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import Architecture, remove_strides

LAYOUTS = ("stride32", "stride16", "stride8")


def assemble(layout: str) -> Architecture:
    net = import_torchvision().models.resnet50(weights=None)
    if layout != "stride32":
        remove_strides(net.layer4)
    if layout == "stride8":
        remove_strides(net.layer3)
    return Architecture(net, {f"conv{index + 1}": f"layer{index}" for index in range(1, 5)}, head="fc")
