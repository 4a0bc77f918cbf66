"""Any timm network as a backbone: stages, layout of the maps, its checkpoints under their own names."""

import pytest
import torch
from safetensors.torch import save_file

from wsolfast import backbones
from wsolfast._compat import import_timm
from wsolfast.backbones import BackboneError, StageInfo, WeightsError, _weights


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_a_timm_checkpoint_loads_under_its_own_names(tmp_path, name):
    net = import_timm().create_model(name, pretrained=False).eval()
    path = str(tmp_path / "model.safetensors")
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)
    backbone = backbones.build(f"timm:{name}", weights=path).eval()
    # What no map can be made with: a norm stands between a ConvNeXt's features and its classes.
    heads = {key for key in net.state_dict() if key.startswith("head.")}
    assert set(backbone.load_report.left_in_file) == heads
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        features = backbone(image)
        expected = net.forward_features(backbone.normalize(image))
    last = backbone.stages[-1]
    assert (last.name, last.stride) == ("conv5", 32)
    torch.testing.assert_close(features["conv5"], expected)
    for stage in backbone.stages:
        assert features[stage.name].shape == (1, stage.channels, 64 // stage.stride, 96 // stage.stride)


def test_statistics_are_those_of_the_pretrained_weights():
    config = import_timm().create_model("mobilevit_xxs", pretrained=False).pretrained_cfg
    backbone = backbones.build("timm:mobilevit_xxs")
    assert config["mean"] == (0.0, 0.0, 0.0)
    assert backbone.input_mean.flatten().tolist() == list(config["mean"])
    assert backbone.input_std.flatten().tolist() == list(config["std"])


def test_a_transformer_has_blocks_and_takes_the_input_size():
    backbone = backbones.build("timm:vit_tiny_patch16_224", input_size=64).eval()
    assert backbone.stages == tuple(StageInfo(f"block{index}", 192, 16) for index in (2, 5, 8, 11))
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert {features[stage.name].shape for stage in backbone.stages} == {(1, 192, 4, 4)}


def test_the_classifier_of_a_resnet_reads_the_mean_of_its_features(tmp_path):
    net = import_timm().create_model("resnet10t", num_classes=7).eval()
    path = str(tmp_path / "model.safetensors")
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)
    backbone = backbones.build("timm:resnet10t", weights=path).eval()
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    classifier = backbone.classifier
    with torch.no_grad():
        mean = backbone(image)["conv5"].mean((2, 3))
        expected = net(backbone.normalize(image))
    found = mean @ classifier.weight.T + classifier.bias
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32, summed in another order


def test_maps_with_channels_last_are_turned(monkeypatch):
    backbone = backbones.build("timm:swin_tiny_patch4_window7_224", input_size=56).eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 56, 56, dtype=torch.uint8))
    assert [x.shape[1:] for x in features.values()] == [(96, 14, 14), (192, 7, 7), (384, 4, 4), (768, 2, 2)]
    assert [(stage.name, stage.stride) for stage in backbone.stages] == [(f"conv{n}", 2**n) for n in range(2, 6)]


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(BackboneError, match="timm has no model 'resnet81'; did you mean 'resnet"):
        backbones.build("timm:resnet81")


@pytest.mark.parametrize(("name", "repository"), [("timm:resnet18", "resnet18"), ("mobilenet_v1", "mobilenetv1_100")])
def test_pretrained_weights_offline_are_one_error_at_once(name, repository, monkeypatch):
    def offline(*args, **kwargs):
        raise TimeoutError("timed out")

    monkeypatch.setattr(_weights, "urlopen", offline)
    with pytest.raises(
        WeightsError, match=rf"timm/{repository}\S+ is not cached and https://.* does not answer \(timed out\)"
    ):
        backbones.build(name, weights="pretrained")


def test_mobilenet_v1_takes_timms_checkpoint_and_its_classifier(tmp_path):
    net = import_timm().create_model("mobilenetv1_100", pretrained=False)
    path = str(tmp_path / "model.safetensors")
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)
    backbone = backbones.build("mobilenet_v1", weights=path)
    assert backbone.load_report.left_in_file == ()
    assert torch.equal(backbone.classifier.weight, net.classifier.weight)


def test_a_network_that_runs_as_a_whole_says_what_it_cannot():
    backbone = backbones.build("timm:resnet10t")
    with pytest.raises(BackboneError, match="'extra' cannot be inserted after 'conv4'"):
        backbone.insert("conv4", "extra", torch.nn.Identity())
    with pytest.raises(BackboneError, match="cannot be frozen up to 'conv3'"):
        backbone.freeze("conv3")
