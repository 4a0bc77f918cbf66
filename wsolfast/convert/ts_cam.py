"""TS-CAM: the published DeiT-T, DeiT-S and DeiT-B, whose tensors have the names of timm's DeiT."""

from wsolfast.convert._layout import Layout

ORIGIN = "github.com/vasgaowei/TS-CAM (Apache-2.0)"

_NAMES = ("cls_token", "pos_embed", "patch_embed", "blocks", "norm")
_MODULES = {f"backbone.net.{name}": name for name in _NAMES} | {"head": "head"}

LAYOUTS = tuple(
    Layout(
        f"TS-CAM, {network}",
        recipes,
        _MODULES,
        # All three have the same names.
        rows={"norm.weight": width},
        output="head",
    )
    for network, width, recipes in (
        ("DeiT-T", 192, {200: "ts_cam_cub_deit_tiny"}),
        ("DeiT-S", 384, {200: "ts_cam_cub_deit_small", 1000: "ts_cam_ilsvrc_deit_small"}),
        ("DeiT-B", 768, {200: "ts_cam_cub_deit_base"}),
    )
)
