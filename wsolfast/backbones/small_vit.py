"""A vision transformer of 0.2 million parameters for tests, demos and small images, trained from scratch on a CPU.

A stem of convolutions makes its tokens (Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021):
patches that are projected at once learn too slowly for a demo. A token stands for 8x8 pixels.
"""

from torch import nn

from wsolfast._compat import import_timm
from wsolfast.backbones._transformer import TransformerBackbone

LAYOUTS = ("patch8",)

_WIDTH, _DEPTH, _HEADS, _STEM = 96, 2, 4, (24, 48)


def transformer(layout: str, input_size: int, drop_path: float | None) -> TransformerBackbone:
    """Build the network of ``layout`` for images of ``input_size`` pixels a side; it takes others too."""
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    net = VisionTransformer(
        img_size=input_size,
        patch_size=8,
        num_classes=0,
        embed_dim=_WIDTH,
        depth=_DEPTH,
        num_heads=_HEADS,
        mlp_ratio=2,
        drop_path_rate=drop_path or 0.0,
        dynamic_img_size=True,
    )
    net.patch_embed.proj = _stem()
    return TransformerBackbone(net)


def _stem() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in _STEM:
        conv = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, _WIDTH, 3, stride=2, padding=1))
