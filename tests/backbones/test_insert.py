"""Modules put between the stages of a backbone, and activations exchanged."""

import copy

import pytest
import torch
from torch import nn

from wsolfast import backbones
from wsolfast.backbones import BackboneError

IMAGE = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("stage", ["conv2", "conv4", "conv5"])
@pytest.mark.parametrize("name", ["small", "vgg16"])
def test_inserted_module_is_read_at_its_stage_and_by_what_follows(name, stage):
    plain = backbones.build(name).eval()
    changed = copy.deepcopy(plain)
    changed.insert(stage, "extra", Double())
    before, after = plain(IMAGE), changed(IMAGE)
    assert list(after) == list(before)
    names = list(before)
    for shallow in names[: names.index(stage)]:
        assert torch.equal(after[shallow], before[shallow])
    assert torch.equal(after[stage], 2 * before[stage])
    for deep in names[names.index(stage) + 1 :]:
        assert not torch.equal(after[deep], before[deep])


def test_several_modules_run_in_the_order_of_insertion():
    backbone = backbones.build("small").eval()
    features = backbone(IMAGE)["conv5"]
    backbone.insert("conv5", "twice", Double())
    backbone.insert("conv5", "cut", nn.Hardtanh(0, 0.1))
    assert torch.equal(backbone(IMAGE)["conv5"], (2 * features).clamp(0, 0.1))


def test_state_dict_holds_the_inserted_module_and_its_gradient_flows():
    backbone = backbones.build("small")
    backbone.insert("conv3", "extra", nn.Conv2d(64, 64, 1))
    assert {"extra.weight", "extra.bias"} < set(backbone.state_dict())
    backbone(IMAGE)["conv5"].sum().backward()
    assert backbone.extra.weight.grad.any()


def test_frozen_batch_norms_are_those_of_the_network_only():
    backbone = backbones.build("small", freeze_bn=True)
    backbone.insert("conv2", "extra", nn.BatchNorm2d(32))
    backbone.train()
    assert backbone.extra.training
    assert not any(m.training for m in backbone.conv3.modules() if isinstance(m, nn.BatchNorm2d))
    assert not backbone.eval().extra.training


def test_bad_insertions_are_named():
    backbone = backbones.build("small")
    with pytest.raises(BackboneError, match=r"no stage 'conv9' to insert 'extra' after; there are conv2, conv3"):
        backbone.insert("conv9", "extra", Double())
    with pytest.raises(BackboneError, match=r"there is a 'conv3' already"):
        backbone.insert("conv2", "conv3", Double())


def test_relu_gives_way_to_another_activation():
    backbone = backbones.build("vgg16", layout="spa14").eval()
    expected = {}
    x = backbone.normalize(IMAGE)
    for index, layer in enumerate(backbone.features):
        x = nn.functional.leaky_relu(x, 0.2) if isinstance(layer, nn.ReLU) else layer(x)
        expected[index] = x.clone()
    backbone.replace_relu(lambda: nn.LeakyReLU(0.2, inplace=True))
    features = backbone(IMAGE)
    assert (features["conv5"] < 0).any()
    for stage, index in (("conv2", 9), ("conv3", 16), ("conv4", 23), ("conv5", 29)):
        assert torch.equal(features[stage], expected[index])


def test_network_without_relu_modules_says_so():
    with pytest.raises(BackboneError, match="no ReLU modules to replace"):
        backbones.build("mobilenet_v2").replace_relu(nn.LeakyReLU)
