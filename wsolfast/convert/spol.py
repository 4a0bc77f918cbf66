"""SPOL: MFF-Net₁, which classifies, and MFF-Net₂, which tells objects from background."""

from wsolfast.convert._layout import Layout

ORIGIN = "github.com/weijun-arc/SPOL (no licence published)"

_BACKBONE = {f"backbone.{name}": f"bkbone.{name}" for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")}
# The code numbers stages 3 to 5, ours are counted from the shallowest that is fused.
_TRUNK = {
    f"fusion.{ours.format(index)}": theirs.format(index + 3)
    for index in range(3)
    for ours, theirs in (
        ("attention.squeeze.{}", "fc{}1"),
        ("attention.norm.{}", "bn{}1"),
        ("attention.excite.{}", "fc{}2"),
        ("reduce.{}.0", "linear{}"),
        ("reduce.{}.1", "bn{}"),
    )
}

LAYOUTS = (
    Layout(
        "MFF-Net₁, ResNet50",
        {200: "spol_cub_resnet50_released", 1000: "spol_ilsvrc_resnet50_released"},
        {**_BACKBONE, **_TRUNK, "head.classifier": "linear"},
        output="head.classifier",
        stage="cam",
    ),
    Layout(
        "MFF-Net₂, ResNet50",
        {200: "spol_cub_resnet50_released", 1000: "spol_ilsvrc_resnet50_released"},
        {**_BACKBONE, **_TRUNK, "head": "linear"},
        output="head",
        stage="seg",
        classless=True,
    ),
)
