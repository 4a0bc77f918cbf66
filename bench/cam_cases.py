"""Gradient maps of whole networks that are timed, and the speed and memory that are wanted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Times the plain forward pass that a map may take: at the last stage, and where it costs more than a layer's gradient.
LAST_STAGE, BAGGED = 1.15, 1.3
# Share of the packages' memory above that of the forward pass.
MEMORY = 0.5


@dataclass(frozen=True)
class CamCase:
    """Maps of one class per image, brought to the images' size, at a layer of a network of torchvision's.

    ``targets`` say how many times a contender's time is allowed; of ``memory``, how large a share of that which the
    thriftiest package takes above the forward pass.
    """

    network: str
    kind: str
    layer: str
    images: int
    side: int = 224
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind} {self.network}.{self.layer} {self.side}x{self.side}, N={self.images}"


def _cases(network: str, layers: tuple[str, ...], images: int, side: int = 224) -> list[CamCase]:
    *inner, last = layers
    at_last, at_inner = {"forward": LAST_STAGE, "memory": MEMORY}, {"forward and backward": 1.0, "memory": MEMORY}
    return [
        *(CamCase(network, kind, last, images, side, at_last) for kind in ("grad_cam", "layer_cam")),
        *(CamCase(network, "layer_cam", layer, images, side, at_inner) for layer in inner),
        CamCase(network, "bagcams", layers[-2], images, side, {"forward": BAGGED}),
        CamCase(network, "sem", last, images, side, {"forward": BAGGED}),
    ]


# What the CPU's cases want is wanted of a GPU, too.
CASES = {
    "cpu": _cases("resnet50", ("layer2", "layer3", "layer4"), 8),
    "cuda": _cases("resnet50", ("layer2", "layer3", "layer4"), 128),
    "quick": _cases("resnet18", ("layer3", "layer4"), 2, 64),
}
