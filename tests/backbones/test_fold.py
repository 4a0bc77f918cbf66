"""Batch norms become part of convolutions: the features stay, but for rounding."""

import copy
import re

import pytest
import torch
from torch import nn

from wsolfast import backbones
from wsolfast.backbones import BackboneError

WITHOUT_NORMS = ("squeezenet1_1", "vgg16")
LAYOUTS = [
    (name, layout)
    for name in backbones.list_backbones()
    if name not in WITHOUT_NORMS
    for layout in backbones.list_layouts(name)
]


def lively(name, layout):
    """In eval mode, with statistics and scales that are no identity."""
    torch.manual_seed(0)
    backbone = backbones.build(name, layout=layout).eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return backbone


def norms(backbone):
    return [path for path, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
@torch.no_grad()
def test_features_stay_but_for_rounding(name, layout):
    backbone = lively(name, layout)
    image = torch.rand(1, 3, *((75, 83) if name == "inception_v3" else (32, 40)))
    before, found = backbone(image), norms(backbone)
    backbone.fold_batch_norms()
    after, left = backbone(image), norms(backbone)
    if name == "densenet161":
        # Behind concatenations: the first of every layer, those of the transitions and the last.
        assert all(re.search(r"\.norm1$|transition\d\.norm$|norm5$", path) for path in left)
        assert len(found) == 161
        assert len(left) == 82
    elif name in ("mobilenet_v1", "small_vit"):
        # Networks of timm: the layer after a norm is not known for every one of them.
        assert left == found
    else:
        assert found
        assert not left
    assert list(before) == list(after)
    for stage, features in before.items():
        assert features.std() > 0, stage
        # Of single precision through up to 160 layers; a norm in the wrong place changes everything.
        assert (after[stage] - features).abs().max() < 1e-3 * features.std(), stage


def test_a_second_time_changes_nothing():
    backbone = lively("small", "stride16")
    backbone.fold_batch_norms()
    before = copy.deepcopy(backbone.state_dict())
    backbone.fold_batch_norms()
    assert backbone.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_what_was_inserted_keeps_its_norms():
    backbone = lively("small", "stride16")
    backbone.insert("conv4", "extra", nn.Sequential(nn.Conv2d(96, 96, 1), nn.BatchNorm2d(96)).eval())
    backbone.fold_batch_norms()
    assert norms(backbone) == ["extra.1"]


def test_a_network_in_training_is_refused():
    with pytest.raises(BackboneError, match=r"call .eval\(\) first"):
        backbones.build("small").fold_batch_norms()


def test_networks_of_timm_are_left_alone():
    pytest.importorskip("timm", reason="needs timm")
    backbone = backbones.build("timm:resnet10t").eval()
    count = len(norms(backbone))
    backbone.fold_batch_norms()
    assert len(norms(backbone)) == count > 0


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@torch.no_grad()
def test_folded_weights_are_a_file_like_any_other(tmp_path, wsolfast, suffix):
    source, given, file = lively("mobilenet_v2", "stride16"), tmp_path / "given.pt", tmp_path / f"folded{suffix}"
    torch.save(source.state_dict(), given)
    code, said, complaint = wsolfast("fold", "mobilenet_v2", given, file)
    assert (code, complaint) == (0, "")
    assert said == f"written: {file} ({len(source.state_dict())} tensors)\n"
    found = backbones.build("mobilenet_v2", layout="stride16", weights=str(file), freeze_bn=True).train()
    assert found.load_report.folded_bn
    image = torch.rand(1, 3, 32, 40)
    before, after = source(image), found(image)
    for stage, features in before.items():
        largest = float(features.abs().max())
        # float32: each of 52 layers rounds its products once more or less.
        torch.testing.assert_close(after[stage], features, rtol=1e-4, atol=1e-4 * largest)  # 52 layers of rounding
    assert wsolfast("fold", "mobilenet_v2", given, file)[::2] == (
        2,
        f"error: {file} exists and is not replaced; give another file\n",
    )


def test_folding_what_cannot_be_folded_is_told(tmp_path, wsolfast):
    torch.save(backbones.build("vgg16").state_dict(), tmp_path / "vgg.pt")
    code, _, complaint = wsolfast("fold", "vgg16", tmp_path / "vgg.pt", tmp_path / "a.pt")
    assert code == 2
    assert "no batch norm follows a convolution, so there is nothing to fold" in complaint
    assert wsolfast("fold", "vgg16", tmp_path / "vgg.pt", tmp_path / "a.npz")[0] == 2
    assert wsolfast("fold", "vgg16", tmp_path / "none.pt", tmp_path / "a.pt")[0] == 3
    assert wsolfast("fold", "vgg16", "none", tmp_path / "a.pt")[0] == 2


@pytest.mark.realdata
def test_the_folded_file_that_was_measured_with_has_the_names_that_fold_gives(real_data):
    measured = torch.load(real_data / "weights/mobilenet_v2_backbone_torchvision_folded.pt", weights_only=True)
    ours = backbones.build("mobilenet_v2", weights="none").eval().folded_state()
    assert {name: value.shape for name, value in ours.items() if "num_batches" not in name} == {
        name: value.shape for name, value in measured.items() if "num_batches" not in name
    }
    norms = [name.removesuffix("running_var") for name in measured if name.endswith("running_var")]
    for name in norms:
        for key in ("weight", "running_mean", "running_var"):
            assert torch.equal(measured[name + key], ours[name + key]), name + key
