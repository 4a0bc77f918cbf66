"""Shapes, strides and state_dict keys of every layout, without memory for weights."""

import pytest
import torch

from wsolfast import backbones
from wsolfast._compat import import_torchvision
from wsolfast.backbones import BackboneError, StageInfo

# (name, layout) -> (channels, stride, side at 224) of conv2 to conv5.
LAYOUTS = {
    ("vgg16", "spa14"): ((128, 4, 56), (256, 8, 28), (512, 16, 14), (512, 16, 14)),
    ("vgg16", "acol28"): ((128, 4, 56), (256, 8, 28), (512, 8, 28), (512, 8, 28)),
    ("vgg16", "csoa28"): ((128, 4, 56), (256, 8, 28), (512, 8, 28), (512, 8, 28)),
    ("vgg16", "stride32"): ((128, 4, 56), (256, 8, 28), (512, 16, 14), (512, 32, 7)),
    ("vgg16", "bas14"): ((128, 4, 56), (256, 8, 28), (512, 8, 28), (512, 16, 14)),
    ("googlenet", "stride32"): ((192, 4, 56), (480, 8, 28), (832, 16, 14), (1024, 32, 7)),
    ("inception_v3", "spg28"): ((64, 4, 56), (192, 8, 28), (288, 8, 28), (768, 8, 28)),
    ("inception_v3", "stock17"): ((64, 4, 54), (192, 8, 25), (288, 8, 25), (768, 16, 12)),
    ("inception_v3", "csoa28"): ((64, 4, 56), (192, 8, 28), (768, 8, 28), (768, 8, 28)),
    ("inception_v3", "csoa17"): ((64, 4, 54), (192, 8, 25), (768, 16, 12), (768, 16, 12)),
    ("inception_v3", "bas14"): ((64, 4, 56), (192, 8, 28), (768, 8, 28), (2048, 16, 14)),
    ("resnet50", "stride32"): ((256, 4, 56), (512, 8, 28), (1024, 16, 14), (2048, 32, 7)),
    ("resnet50", "stride16"): ((256, 4, 56), (512, 8, 28), (1024, 16, 14), (2048, 16, 14)),
    ("resnet50", "stride8"): ((256, 4, 56), (512, 8, 28), (1024, 8, 28), (2048, 8, 28)),
    ("resnet50", "bas14"): ((256, 4, 56), (512, 8, 28), (1024, 8, 28), (2048, 16, 14)),
    ("mobilenet_v1", "stride32"): ((128, 4, 56), (256, 8, 28), (512, 16, 14), (1024, 32, 7)),
    ("mobilenet_v1", "bas14"): ((128, 4, 56), (256, 8, 28), (512, 8, 28), (1024, 16, 14)),
    ("mobilenet_v2", "stride32"): ((24, 4, 56), (32, 8, 28), (96, 16, 14), (1280, 32, 7)),
    ("mobilenet_v2", "stride16"): ((24, 4, 56), (32, 8, 28), (96, 16, 14), (1280, 16, 14)),
    ("mobilenet_v2", "tf_stride32"): ((24, 4, 56), (32, 8, 28), (96, 16, 14), (1280, 32, 7)),
    ("mobilenet_v2", "tf_stride16"): ((24, 4, 56), (32, 8, 28), (96, 16, 14), (1280, 16, 14)),
    ("squeezenet1_1", "stride16"): ((128, 4, 55), (256, 8, 27), (384, 16, 13), (512, 16, 13)),
    ("densenet161", "stride32"): ((384, 4, 56), (768, 8, 28), (2112, 16, 14), (2208, 32, 7)),
    ("efficientnet_b7", "stride32"): ((48, 4, 56), (80, 8, 28), (224, 16, 14), (2560, 32, 7)),
    ("small", "stride16"): ((32, 4, 56), (64, 8, 28), (96, 16, 14), (128, 16, 14)),
    ("small", "stride8"): ((32, 4, 56), (64, 8, 28), (96, 8, 28), (128, 8, 28)),
}
# Rows that layouts without padding lose of 160 / stride.
ROWS_LOST = {("squeezenet1_1", "stride16"): (1, 1, 1, 1), ("inception_v3", "stock17"): (2, 3, 3, 2)}
ROWS_LOST["inception_v3", "csoa17"] = (2, 3, 2, 2)
STAGES = ("conv2", "conv3", "conv4", "conv5")
# torchvision's modules that no layout runs.
DROPPED = ("classifier.", "fc.", "AuxLogits.", "aux1.", "aux2.")
# What one layout alone runs.
ABOVE_MIXED_6E = "Mixed_7"


def build_without_memory(name, layout, **options):
    with torch.device("meta"):
        return backbones.build(name, layout=layout, **options)


def test_every_layout_is_in_the_table():
    listed = {(name, layout) for name in backbones.list_backbones() for layout in backbones.list_layouts(name)}
    # A transformer's stages are blocks of one resolution: test_transformer.py.
    assert listed - {("small_vit", "patch8")} == set(LAYOUTS)


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_stages_and_shapes(name, layout):
    backbone = build_without_memory(name, layout)
    expected = LAYOUTS[name, layout]
    assert backbone.stages == tuple(
        StageInfo(stage, channels, stride) for stage, (channels, stride, _) in zip(STAGES, expected, strict=True)
    )
    square = backbone(torch.empty(2, 3, 224, 224, dtype=torch.uint8, device="meta"))
    assert list(square) == list(STAGES)
    assert [tuple(x.shape) for x in square.values()] == [(2, channels, side, side) for channels, _, side in expected]

    oblong = backbone(torch.empty(0, 3, 160, 224, device="meta"))
    lost = ROWS_LOST.get((name, layout), (0, 0, 0, 0))
    for features, (channels, stride, side), rows in zip(oblong.values(), expected, lost, strict=True):
        assert features.shape == (0, channels, 160 // stride - rows, side)


def test_stock_inception_is_17x17_at_its_own_size():
    features = build_without_memory("inception_v3", "stock17")(torch.empty(1, 3, 299, 299, device="meta"))
    assert [x.shape[2] for x in features.values()] == [73, 35, 35, 17]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg16", {"init_weights": False}),
        ("googlenet", {"init_weights": False}),
        ("inception_v3", {"init_weights": False}),
        ("resnet50", {}),
        ("mobilenet_v2", {}),
        ("squeezenet1_1", {}),
    ],
)
def test_state_dict_has_the_keys_and_shapes_of_torchvision(name, options):
    with torch.device("meta"):
        original = getattr(import_torchvision().models, name)(weights=None, **options).state_dict()
    for layout in backbones.list_layouts(name):
        dropped = DROPPED if layout == "bas14" else (*DROPPED, ABOVE_MIXED_6E)
        expected = {key: value.shape for key, value in original.items() if not key.startswith(dropped)}
        state = build_without_memory(name, layout).state_dict()
        assert {key: value.shape for key, value in state.items()} == expected


def test_small_is_small_and_has_normalisation_layers():
    backbone = backbones.build("small")
    assert sum(parameter.numel() for parameter in backbone.parameters()) <= 500_000
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.modules())


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        ("vgg61", None, "no backbone named 'vgg61'; did you mean 'vgg16'?"),
        ("zzz", None, "no backbone named 'zzz'; there are densenet161, "),
        ("vgg16", "spa41", "backbone 'vgg16' has no layout 'spa41'; there are spa14, acol28"),
        ("timm:resnet18", "stride16", "backbone 'timm:resnet18' has no layout 'stride16'; there are features, whole"),
    ],
)
def test_an_unknown_name_or_layout_says_what_there_is(name, layout, message):
    with pytest.raises(BackboneError) as raised:
        backbones.build(name, layout=layout)
    assert str(raised.value).startswith(message)
    assert raised.value.exit_code == 2
