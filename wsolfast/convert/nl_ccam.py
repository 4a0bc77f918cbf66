"""NL-CCAM on CUB: VGG16 with four non-local blocks."""

from wsolfast.convert._layout import Layout
from wsolfast.convert._networks import non_local_vgg16

ORIGIN = "github.com/Yangseung/NL-CCAM (no licence published)"

LAYOUTS = (
    Layout(
        "NL-CCAM, VGG16",
        {200: "nlccam_cub_vgg16"},
        {**non_local_vgg16("conv", ("conv2", "conv3", "conv4", "conv5")), "classifier": "classifier.0"},
    ),
)
