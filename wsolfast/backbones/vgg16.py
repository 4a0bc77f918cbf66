"""VGG16 (Simonyan and Zisserman, ICLR 2015) from torchvision, without its fully connected layers.

``spa14`` is the layout of the released SPA model: conv4 includes its pool, the last pool is gone; 14x14 at 224.
``acol28`` is that of ACoL and of SPA's text: pools 1-3 are 3x3 with stride 2, pools 4 and 5 keep the resolution, and a
3x3 average pool closes; 28x28. ``csoa28`` has the same pools 1-4 and ends at conv5_3, without the fifth: conv3, conv4
and conv5 are all 28x28. ``stride32`` is torchvision's, in which conv5 includes the last pool; DDT reads its
14x14 at 448. ``bas14`` is ``spa14`` with conv4 read before its pool: conv4 is 28x28, conv5 14x14.
"""

from torch import nn

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import Architecture

LAYOUTS = ("spa14", "acol28", "csoa28", "stride32", "bas14")

_POOLS = ("4", "9", "16", "23", "30")
# The released SPA and ACoL models hold one Sequential per block: name -> index of its first layer in torchvision's.
_PUBLISHED_BLOCKS = {"conv1_2": 0, "conv3": 10, "conv4": 17, "conv5": 24}


def assemble(layout: str) -> Architecture:
    net = import_torchvision().models.vgg16(weights=None, init_weights=False)
    taps = {"conv2": "features.9", "conv3": "features.16", "conv4": "features.23", "conv5": "features.29"}
    if layout in ("acol28", "csoa28"):
        for pool, stride in zip(_POOLS, (2, 2, 2, 1, 1), strict=True):
            setattr(net.features, pool, nn.MaxPool2d(3, stride=stride, padding=1))
    if layout == "bas14":
        taps["conv4"] = "features.22"
    if layout == "stride32":
        taps["conv5"] = "features.30"
    if layout == "acol28":
        net.features.append(nn.AvgPool2d(3, stride=1, padding=1))
        taps["conv5"] = "features.31"
    starts = [*_PUBLISHED_BLOCKS.values(), 31]
    published_names = {
        f"features.{index}": f"{block}.{index - start}"
        for (block, start), end in zip(_PUBLISHED_BLOCKS.items(), starts[1:], strict=True)
        for index in range(start, end)
    }
    return Architecture(net, taps, published_names=published_names)
