"""Each layout against torchvision's network with the same weights, up to and at the layer that was changed."""

import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast._compat import import_timm, import_torchvision
from wsolfast.backbones.mobilenet_v2 import SameConv2d, StridedConv2d


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def with_weights_of(original, name, layout):
    """Our backbone with the weights of ``original``: both float64, in eval mode, with lively batch norms."""
    for module in original.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    backbone = backbones.build(name, layout=layout).eval()
    backbone.load_state_dict({key: original.state_dict()[key] for key in backbone.state_dict()})
    return backbone.double(), original.double().eval()


@pytest.fixture(scope="module")
def vgg_features():
    vgg = import_torchvision().models.vgg
    return vgg.make_layers(vgg.cfgs["D"]).eval()


def vgg_backbone(features, layout):
    backbone = backbones.build("vgg16", layout=layout).eval()
    backbone.features.load_state_dict(features.state_dict())
    return backbone


def test_vgg16_spa14_is_torchvision_without_its_last_pool(vgg_features):
    backbone = vgg_backbone(vgg_features, "spa14")
    x = torch.randn(1, 3, 64, 48)
    features = backbone.extract(x)
    for stage, end in (("conv2", 10), ("conv3", 17), ("conv4", 24), ("conv5", 30)):
        assert torch.equal(features[stage], vgg_features[:end](x)), stage


def test_vgg16_bas14_reads_conv4_before_its_pool(vgg_features):
    backbone = vgg_backbone(vgg_features, "bas14")
    x = torch.randn(1, 3, 64, 48)
    features = backbone.extract(x)
    for stage, end in (("conv3", 17), ("conv4", 23), ("conv5", 30)):
        assert torch.equal(features[stage], vgg_features[:end](x)), stage


def test_vgg16_acol28_changes_the_pools_only(vgg_features):
    backbone = vgg_backbone(vgg_features, "acol28")
    x = torch.randn(1, 3, 64, 48)
    features = backbone.extract(x)
    expected = {}
    for block, (start, end, stride) in enumerate(((0, 4, 2), (5, 9, 2), (10, 16, 2), (17, 23, 1), (24, 30, 1)), 1):
        x = functional.max_pool2d(vgg_features[start:end](x), 3, stride=stride, padding=1)
        expected[f"conv{block}"] = x
    expected["conv5"] = functional.avg_pool2d(x, 3, stride=1, padding=1)
    for stage, values in features.items():
        assert torch.equal(values, expected[stage]), stage


def test_inception_v3_pads_the_stem_and_keeps_the_blocks():
    original = import_torchvision().models.inception_v3(weights=None, init_weights=False)
    backbone, original = with_weights_of(original, "inception_v3", "spg28")
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    stem = original.Conv2d_2b_3x3(original.Conv2d_2a_3x3(original.Conv2d_1a_3x3(functional.pad(x, (1, 1, 1, 1)))))
    # ceil_mode pads by -inf, which max pooling does not see; zeros do as well after a ReLU.
    assert stem.shape[2:] == (30, 30)
    conv2 = functional.max_pool2d(functional.pad(stem, (1, 2, 1, 2)), 3, stride=2)
    features = backbone.extract(x)
    torch.testing.assert_close(features["conv2"], conv2)
    conv3 = original.Conv2d_4a_3x3(original.Conv2d_3b_1x1(conv2))
    conv3 = functional.max_pool2d(functional.pad(conv3, (1, 2, 1, 2)), 3, stride=2)
    torch.testing.assert_close(features["conv3"], conv3)
    conv4 = original.Mixed_5d(original.Mixed_5c(original.Mixed_5b(conv3)))
    torch.testing.assert_close(features["conv4"], conv4)
    # The dense block holds the original's values at the centres that a stride of two visits.
    dense, strided = backbone.Mixed_6a(conv4), original.Mixed_6a(conv4)
    assert dense.shape[2:] == conv4.shape[2:]
    rows, columns = strided.shape[2:]
    torch.testing.assert_close(dense[:, :, 1::2, 1::2][:, :, :rows, :columns], strided)
    conv5 = original.Mixed_6e(original.Mixed_6d(original.Mixed_6c(original.Mixed_6b(dense))))
    torch.testing.assert_close(features["conv5"], conv5)


@pytest.mark.parametrize("size", [(28, 28), (9, 12)])
def test_inception_v3_bas14_pads_the_strided_layers_of_mixed_7a(size):
    original = import_torchvision().models.inception_v3(weights=None, init_weights=False)
    backbone, original = with_weights_of(original, "inception_v3", "bas14")
    x = torch.rand(1, 768, *size, dtype=torch.float64)
    found, block = backbone.extract_from("conv4", x)["conv5"], original.Mixed_7a
    seven = block.branch7x7x3_3(block.branch7x7x3_2(block.branch7x7x3_1(x)))
    border = (1, 1, 1, 1)
    padded = [
        block.branch3x3_2(functional.pad(block.branch3x3_1(x), border)),
        block.branch7x7x3_4(functional.pad(seven, border)),
        # Features are not negative, so zeros are never the maximum.
        functional.max_pool2d(functional.pad(x, border), 3, stride=2),
    ]
    assert found.shape[2:] == tuple(-(-side // 2) for side in size)
    torch.testing.assert_close(found, original.Mixed_7c(original.Mixed_7b(torch.cat(padded, 1))))


@pytest.mark.parametrize("layout", ["stride32", "stride16", "stride8"])
def test_resnet50_removes_strides_and_nothing_else(layout):
    backbone, original = with_weights_of(import_torchvision().models.resnet50(weights=None), "resnet50", layout)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    features = backbone.extract(x)
    expected = original.layer1(original.maxpool(original.relu(original.bn1(original.conv1(x)))))
    assert torch.equal(features["conv2"], expected)
    expected = original.layer2(expected)
    assert torch.equal(features["conv3"], expected)
    for stage, name, dense in (("conv4", "layer3", layout == "stride8"), ("conv5", "layer4", layout != "stride32")):
        first, strided = getattr(backbone, name)[0](expected), getattr(original, name)[0](expected)
        if dense:
            assert first.shape[2:] == expected.shape[2:]
            first_at_stride = first[:, :, ::2, ::2]
        else:
            first_at_stride = first
        torch.testing.assert_close(first_at_stride, strided)
        expected = getattr(original, name)[1:](first)
        torch.testing.assert_close(features[stage], expected)


def test_resnet50_bas14_pools_between_the_last_block_groups():
    backbone, original = with_weights_of(import_torchvision().models.resnet50(weights=None), "resnet50", "bas14")
    x = torch.randn(1, 1024, 8, 6, dtype=torch.float64)
    found = backbone.extract_from("conv4", x)["conv5"]
    original.layer4[0].conv2.stride = original.layer4[0].downsample[0].stride = (1, 1)
    torch.testing.assert_close(found, original.layer4(functional.max_pool2d(x, 2)))


@pytest.mark.parametrize("layout", ["stride32", "bas14"])
def test_mobilenet_v1_removes_one_stride_and_nothing_else(layout):
    backbone, original = with_weights_of(import_timm().create_model("mobilenetv1_100"), "mobilenet_v1", layout)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    features = backbone.extract(x)
    stem = original.bn1(original.conv_stem(x))
    for stage, end in (("conv2", 2), ("conv3", 3)):
        assert torch.equal(features[stage], original.blocks[:end](stem)), stage
    dense, strided = backbone.blocks[3][0](features["conv3"]), original.blocks[3][0](features["conv3"])
    torch.testing.assert_close(dense[:, :, ::2, ::2] if layout == "bas14" else dense, strided)
    torch.testing.assert_close(features["conv4"], original.blocks[3][1:](dense))
    torch.testing.assert_close(features["conv5"], original.blocks[4](features["conv4"]))
    assert torch.equal(backbone.input_mean, backbone.input_std)
    assert backbone.input_mean.unique().tolist() == list(set(original.pretrained_cfg["mean"])) == [0.5]


@pytest.mark.parametrize("layout", ["stride32", "stride16"])
def test_mobilenet_v2_removes_one_stride_and_nothing_else(layout):
    backbone, original = with_weights_of(import_torchvision().models.mobilenet_v2(weights=None), "mobilenet_v2", layout)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    features = backbone.extract(x)
    for stage, end in (("conv2", 4), ("conv3", 7), ("conv4", 14)):
        assert torch.equal(features[stage], original.features[:end](x)), stage
    dense, strided = backbone.features[14](features["conv4"]), original.features[14](features["conv4"])
    torch.testing.assert_close(dense[:, :, ::2, ::2] if layout == "stride16" else dense, strided)
    torch.testing.assert_close(features["conv5"], original.features[15:](dense))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (8, 5), (1, 1)])
def test_same_padding_puts_the_odd_pixel_at_the_end(size):
    conv = torch.nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False)
    same = SameConv2d.of(conv)
    x = torch.randn(1, 2, *size)
    result = same(x)
    assert result.shape[2:] == tuple(-(-side // 2) for side in size)
    # Even sides: nothing in front, one pixel behind. Odd sides: one on either side, as ordinary padding.
    before = [side % 2 for side in size]
    padded = functional.pad(x, (before[1], 1, before[0], 1))
    expected = functional.conv2d(padded, conv.weight, stride=2, groups=2)
    torch.testing.assert_close(result, expected)
    assert same.weight is conv.weight


@pytest.mark.parametrize("kind", [StridedConv2d, SameConv2d])
def test_strided_depthwise_convolutions_train_in_float32(kind):
    conv = kind.of(torch.nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=False))
    image = torch.randn(2, 6, 9, 8, dtype=torch.bfloat16)
    with torch.enable_grad():
        exact = conv(image.float())
        (expected,) = torch.autograd.grad(exact.sum(), conv.weight)
        with torch.autocast("cpu", torch.bfloat16):
            trained = conv(image.requires_grad_())
        (found,) = torch.autograd.grad(trained.sum(), conv.weight)
    assert trained.dtype == torch.bfloat16
    assert torch.equal(trained, exact.bfloat16())
    # Only the output is rounded, and its gradient is one.
    assert torch.equal(found, expected)


def test_tensorflow_layouts_pad_every_strided_convolution():
    with torch.device("meta"):
        strided = {
            layout: [
                path
                for path, module in backbones.build("mobilenet_v2", layout=layout).named_modules()
                if isinstance(module, SameConv2d)
            ]
            for layout in backbones.list_layouts("mobilenet_v2")
        }
    assert strided["stride32"] == strided["stride16"] == []
    assert len(strided["tf_stride32"]) == 5
    assert strided["tf_stride16"] == strided["tf_stride32"][:4]


def test_squeezenet1_1_is_torchvision_as_it_is():
    original = import_torchvision().models.squeezenet1_1(weights=None)
    backbone, original = with_weights_of(original, "squeezenet1_1", None)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    for (stage, features), end in zip(backbone.extract(x).items(), (5, 8, 11, 13), strict=True):
        assert torch.equal(features, original.features[:end](x)), stage
