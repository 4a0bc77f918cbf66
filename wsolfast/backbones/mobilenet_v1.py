"""MobileNetV1 1.0 (Howard et al., 2017) from timm, whose ImageNet weights are ``weights = "pretrained"``.

``stride32`` is the network as it is, 7x7 at 224. ``bas14`` removes the fourth of its five strides: conv4, after twelve
of the fourteen layers, is 28x28, and conv5 14x14. Inputs are in [-1, 1], as timm's weights were trained.
"""

from wsolfast._compat import import_timm
from wsolfast.backbones._base import Architecture
from wsolfast.backbones._realize import remove_strides

LAYOUTS = ("stride32", "bas14")


def assemble(layout: str) -> Architecture:
    net = import_timm().create_model("mobilenetv1_100", pretrained=False)
    if layout == "bas14":
        remove_strides(net.blocks[3])
    taps = {f"conv{index + 1}": f"blocks.{index}" for index in range(1, 5)}
    half = (0.5, 0.5, 0.5)
    origin = "timm/mobilenetv1_100.ra4_e3600_r224_in1k"
    return Architecture(net, taps, mean=half, std=half, head="classifier", origin=origin)
