"""CI-CAM on CUB: VGG16 with non-local blocks, InceptionV3 without."""

from wsolfast.convert._layout import Layout
from wsolfast.convert._networks import INCEPTION_V3_REST, inception_v3, non_local_vgg16

ORIGIN = "github.com/shaofeifei11/CI-CAM (no licence published)"

BRANCHES = {"classifier": "up_classifier.0", "down_classifier": "down_classifier.0", "enhance": "mask2attention"}
DEAD = {
    "mask_bn": "standardises with the statistics of the batch, its weights are never trained",
    "down_classifier": "a copy of up_classifier: both branches share it",
}
DEAD_INCEPTION = {f"backbone.{name}": "behind Mixed_6e, never run" for name in INCEPTION_V3_REST}

_DEAD = DEAD | {"regressor": "constructed, never run"}

LAYOUTS = (
    Layout(
        "CI-CAM, VGG16",
        {200: "cicam_cub_vgg16", 1000: "cicam_ilsvrc_vgg16_paper"},
        {**non_local_vgg16("backbone.conv", ("conv2", "conv3", "conv4", "conv5")), **BRANCHES},
        dead=_DEAD,
        marks=("regressor.0",),
        pool="pool.maps",
    ),
    Layout(
        "CI-CAM, InceptionV3",
        {200: "cicam_cub_inception"},
        {**inception_v3("backbone."), **BRANCHES},
        dead=_DEAD | DEAD_INCEPTION,
        marks=("regressor.0",),
        pool="pool.maps",
    ),
)
