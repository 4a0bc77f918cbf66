"""Whole networks of timm: where their features are found, and what of their heads is linear."""

import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast._compat import import_timm
from wsolfast.backbones import LOGITS, BackboneError
from wsolfast.backbones._timm_whole import WholeTimm

# Name: stage, side of the images, options that make it small, and whether a logit is linear in the features.
NETWORKS = {
    "test_resnet": ("conv5", 64, {}, True),
    "test_nfnet": ("conv5", 64, {}, True),
    "test_byobnet": ("conv5", 64, {}, True),
    "regnetx_002": ("conv5", 64, {}, True),
    "test_efficientnet": ("conv5", 64, {}, True),
    # Norms after the mean.
    "test_convnext": ("conv5", 64, {}, True),
    "convnext_atto_rms": ("conv5", 64, {"depths": (1, 1, 1, 1)}, True),
    "test_coatnet": ("conv5", 64, {"img_size": 64}, True),
    "test_maxvit": ("conv5", 64, {"img_size": 64}, True),
    # Layers after the mean.
    "mobilenetv3_small_050": ("conv5", 64, {}, False),
    "test_mambaout": ("conv5", 64, {}, False),
    "vgg11": ("conv5", 64, {"mlp_ratio": 0.02}, False),
    # Channels last.
    "swin_tiny_patch4_window7_224": ("conv5", 64, {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 24}, True),
    # Patch tokens, their mean, a norm behind it.
    "test_vit2": ("block7", 64, {"img_size": 64}, True),
    "vit_relpos_small_patch16_224": ("block1", 64, {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 2}, True),
    "beit_base_patch16_224": ("block1", 64, {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 2}, True),
    "eva02_tiny_patch14_224": ("block1", 56, {"img_size": 56, "depth": 2}, True),
    "mixer_s32_224": ("block7", 64, {"img_size": 64}, True),
    "levit_128s": ("block2", 128, {"img_size": 128}, True),
    # Attention pooling, as SigLIP has it.
    "test_vit3": ("block8", 64, {"img_size": 64}, False),
    # A class token, two of them, registers, a class token that joins the patches late, two sizes of patches.
    "test_vit": ("block4", 64, {"img_size": 64}, False),
    "deit_tiny_distilled_patch16_224": ("block1", 64, {"img_size": 64, "depth": 3}, False),
    "vit_small_patch14_reg4_dinov2": (
        "block1",
        56,
        {"img_size": 56, "depth": 3, "embed_dim": 48, "num_heads": 2},
        False,
    ),
    "cait_xxs24_224": ("block1", 64, {"img_size": 64, "depth": 2}, False),
    "tnt_s_legacy_patch16_224": ("block1", 64, {"img_size": 64, "depth": 3}, False),
    "crossvit_tiny_240": ("block1", 240, {"depth": ((1, 1, 0),)}, False),
}
CLASSES = 5


@pytest.fixture(scope="module")
def whole():
    """Build one of the networks once, with nothing in it that is zero at first."""
    built = {}

    def get(name):
        if name not in built:
            _, side, options, _ = NETWORKS[name]
            torch.manual_seed(0)
            net = import_timm().create_model(name, pretrained=False, num_classes=CLASSES, **options)
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.add_(0.05 * torch.randn(parameter.shape))
            built[name] = WholeTimm(net, side=side).eval().requires_grad_(False)
        return built[name]

    return get


def image_for(name, count=2):
    generator = torch.Generator().manual_seed(1)
    side = NETWORKS[name][1]
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_features_stand_on_a_grid_beside_the_networks_own_logits(whole, name):
    net, image = whole(name), image_for(name)
    (stage,) = net.stages
    found = net(image)
    assert stage.name == NETWORKS[name][0]
    assert set(found) == {stage.name, LOGITS}
    assert found[stage.name].shape[:2] == (2, stage.channels)
    assert found[stage.name].shape[2] == found[stage.name].shape[3] == image.shape[2] // stage.stride > 1
    assert net.own_classes == CLASSES
    assert torch.equal(found[LOGITS], net.net(net.normalize(image)))
    assert {key: one.shape[0] for key, one in net(image[:0]).items()} == dict.fromkeys(found, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_position_and_change_no_logit(whole, name):
    net, image = whole(name), image_for(name)
    (stage,) = net.stages
    with torch.no_grad():
        plain = net(image)
    found = net.features_with_graph(image, stage.name)
    assert torch.equal(found[stage.name], plain[stage.name])
    logits = found[LOGITS].detach()
    torch.testing.assert_close(logits, plain[LOGITS], rtol=1e-4, atol=1e-4)  # constant deviations round otherwise
    (gradient,) = torch.autograd.grad(found[LOGITS][:, 1].sum(), found[stage.name])
    assert gradient.flatten(2).any(1).all()
    with pytest.raises(BackboneError, match=f"no stage 'conv1' to start from; there is {stage.name}"):
        net.features_with_graph(image, "conv1")


@pytest.mark.parametrize("name", NETWORKS)
def test_where_the_head_is_linear_the_gradient_is_the_weight_of_cam(whole, name):
    """Features times gradient, summed over the positions, differ from the logit by a constant."""
    net, image = whole(name), image_for(name)
    (stage,) = net.stages
    found = net.features_with_graph(image, stage.name)
    rest = []
    for label in range(CLASSES):
        logit = found[LOGITS][:, label]
        (gradient,) = torch.autograd.grad(logit.sum(), found[stage.name], retain_graph=True)
        rest.append((logit - (gradient * found[stage.name]).flatten(1).sum(1)).detach())
    first, second = torch.stack(rest, 1)
    assert net.head_is_linear() == NETWORKS[name][3]
    # float32 sums over thousands of products. Of two images a ReLU may see the same sign, so others are not looked at.
    assert not net.head_is_linear() or (first - second).abs().max() < 1e-4 * found[LOGITS].abs().max()


def test_the_map_behind_a_norm_is_that_of_folded_weights(whole):
    """ConvNeXt by hand: weights times the norm's scale, less their mean; its deviation scales a map as a whole."""
    net, image = whole("test_convnext"), image_for("test_convnext")
    found = net.features_with_graph(image, "conv5")
    head, features = net.net.head, found["conv5"].detach()
    weight = head.fc.weight * head.norm.weight
    weight = weight - weight.mean(1, keepdim=True)
    by_hand = functional.conv2d(features, weight[:, :, None, None])
    mean = features.mean((2, 3))
    deviation = (mean.var(1, correction=0) + head.norm.eps).sqrt()[:, None]
    bias = head.fc.weight @ head.norm.bias + head.fc.bias
    logits = by_hand.mean((2, 3)) / deviation + bias
    torch.testing.assert_close(logits, found[LOGITS].detach(), rtol=1e-4, atol=1e-4)  # float32, summed in another order
    (gradient,) = torch.autograd.grad(found[LOGITS][:, 3].sum(), found["conv5"])
    own = (gradient * features).sum(1) * features.shape[2] * features.shape[3] * deviation[:, :, None]
    torch.testing.assert_close(own, by_hand[:, 3], rtol=1e-4, atol=1e-4)  # float32, multiplied in another order


@pytest.mark.parametrize(("name", "options"), [("test_efficientnet", {}), ("test_vit2", {"dynamic_img_size": True})])
@torch.no_grad()
def test_images_may_have_two_sides(name, options):
    net = import_timm().create_model(name, pretrained=False, num_classes=CLASSES, **options)
    side = net.pretrained_cfg["input_size"][-1]
    found = WholeTimm(net, side=side).eval()(torch.zeros(1, 3, side, 2 * side, dtype=torch.uint8))
    features = next(iter(found.values()))
    assert features.shape[3] == 2 * features.shape[2]


def test_a_network_is_built_by_its_layout_with_its_own_weights_left_alone():
    net = backbones.build("timm:test_convnext", layout="whole", input_size=64, freeze_bn=True)
    assert isinstance(net, WholeTimm)
    assert net.own_classes == 1000
    assert net.training
    assert backbones.list_layouts("timm:test_convnext") == ("features", "whole")
    with torch.device("meta"):
        meta = backbones.build("timm:test_convnext", layout="whole", input_size=64)
    assert {parameter.device.type for parameter in meta.parameters()} == {"meta"}
    with pytest.raises(BackboneError, match="has no layout 'half'; there are features, whole"):
        backbones.build("timm:test_convnext", layout="half")


def test_a_network_without_a_grid_says_so():
    net = import_timm().create_model("test_resnet", pretrained=False, num_classes=CLASSES)
    with pytest.raises(BackboneError, match=r"no layer of this network gives features on a grid of which [^\n]*$"):
        WholeTimm(net, side=2)
