"""KG-CI-CAM: its CI-CAM students and teachers, and its NL-CCAM baselines."""

from wsolfast.convert._layout import Layout
from wsolfast.convert._networks import inception_v3, non_local_block, non_local_vgg16
from wsolfast.convert.ci_cam import BRANCHES, DEAD, DEAD_INCEPTION

ORIGIN = "github.com/shaofeifei11/KG-CI-CAM (no licence published)"

_FOUR = non_local_vgg16("backbone.conv", ("conv2", "conv3", "conv4", "conv5"))
_THREE = non_local_vgg16("backbone.conv", ("conv3", "conv4", "conv5"), widened=True)
_INCEPTION = {
    **inception_v3("backbone."),
    **non_local_block("conv3", "backbone.nonlocal_4"),
    **non_local_block("conv4", "backbone.nonlocal_5"),
    **non_local_block("conv5", "backbone.nonlocal_6"),
}
_BASELINE = {"classifier": "up_classifier.0"}

LAYOUTS = (
    Layout(
        "CI-CAM, VGG16 with four non-local blocks",
        {200: "cicam_cub_vgg16_kg"},
        {**_FOUR, **BRANCHES},
        dead=DEAD,
        pool="pool.maps",
    ),
    Layout(
        "CI-CAM, VGG16 with three non-local blocks and a head of 1024",
        {1000: "cicam_ilsvrc_vgg16_kg"},
        {**_THREE, **BRANCHES},
        dead=DEAD,
        pool="pool.maps",
    ),
    Layout(
        "CI-CAM, InceptionV3 with three non-local blocks",
        {200: "cicam_cub_inception_kg"},
        {**_INCEPTION, **BRANCHES},
        dead=DEAD | DEAD_INCEPTION,
        pool="pool.maps",
    ),
    Layout("NL-CCAM, VGG16 with four non-local blocks", {200: "nlccam_cub_vgg16_kg"}, {**_FOUR, **_BASELINE}),
    Layout(
        "NL-CCAM, VGG16 with three non-local blocks and a head of 1024",
        {1000: "nlccam_ilsvrc_vgg16_kg"},
        {**_THREE, **_BASELINE},
    ),
    Layout(
        "NL-CCAM, InceptionV3 with three non-local blocks",
        {200: "nlccam_cub_inception_kg"},
        {**_INCEPTION, **_BASELINE},
        dead=DEAD_INCEPTION,
    ),
)
