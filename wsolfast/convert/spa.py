"""SPA: the published VGG16, the CAM baseline beside it, and the InceptionV3 of the first upload."""

from wsolfast.convert._layout import Layout
from wsolfast.convert._networks import VGG16_CONVS, inception_v3

ORIGIN = "github.com/Panxjia/SPA_CVPR2021 (MIT)"

# One sequence per block of VGG16: its first layer in torchvision's.
_BLOCKS = {"conv1_2": 0, "conv3": 10, "conv4": 17, "conv5": 24}
_HEAD = {"head.hidden.0": "cls.0", "head.hidden.2": "cls.2", "head.classifier": "cls.4"}


def _in_blocks(index: int) -> str:
    block, start = max((item for item in _BLOCKS.items() if item[1] <= index), key=lambda item: item[1])
    return f"{block}.{index - start}"


LAYOUTS = (
    Layout(
        "SPA, VGG16",
        {200: "spa_cub_vgg16", 1000: "spa_ilsvrc_vgg16"},
        {f"backbone.features.{index}": _in_blocks(index) for index in VGG16_CONVS} | _HEAD,
        dead={"conv5_add": "constructed, never run"},
        output="head.classifier",
    ),
    Layout(
        "CAM baseline, VGG16",
        {200: "cam_cub_vgg16", 1000: "cam_ilsvrc_vgg16"},
        {f"backbone.features.{index}": f"features.{index}" for index in VGG16_CONVS} | _HEAD,
        output="head.classifier",
    ),
    Layout(
        "SPA, InceptionV3 of the first upload",
        {200: "spa_cub_inception", 1000: "spa_ilsvrc_inception"},
        {**inception_v3(), "head.hidden.0": "cls_fc6.0", "head.hidden.2": "cls_fc7.0", "head.classifier": "cls_fc8"},
        output="head.classifier",
    ),
)
