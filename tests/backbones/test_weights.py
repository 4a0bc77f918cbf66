"""What the loader takes, what it leaves, and what it refuses without touching the backbone."""

import os
import pickle
import time
import urllib.error

import pytest
import torch
from safetensors.torch import save_file

from wsolfast import backbones
from wsolfast._compat import import_torchvision
from wsolfast.backbones import BackboneError, WeightsError, _weights


@pytest.fixture(scope="module")
def state():
    """A state dict of ``small`` that no seed of these tests gives."""
    torch.manual_seed(11)
    return {
        key: torch.randn_like(value) if value.is_floating_point() else value + 7
        for key, value in backbones.build("small").state_dict().items()
    }


def saved(tmp_path, content, name="weights.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return str(path)


def class_maps(classifier, features):
    maps = torch.einsum("kc,nchw->nkhw", classifier.weight, features) + classifier.bias[:, None, None]
    return maps.relu() if classifier.relu_maps else maps


def assert_loaded(backbone, state):
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    ("prefix", "wrap"),
    [
        ("", lambda state: state),
        ("module.", lambda state: state),
        ("module.backbone.", lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}),
        ("model.", lambda state: {"model": {"model_state_dict": state}}),
    ],
)
def test_any_prefix_and_nesting_is_found(tmp_path, state, prefix, wrap):
    path = saved(tmp_path, wrap({prefix + key: value for key, value in state.items()}))
    backbone = backbones.build("small", weights=path)
    assert_loaded(backbone, state)
    report = backbone.load_report
    assert (report.source, report.prefix) == (path, prefix)
    assert set(report.matched) == set(state)
    assert report.left_in_file == report.left_in_backbone == ()
    assert report.classes is backbone.classifier is None
    assert not report.folded_bn


def test_safetensors(tmp_path, state):
    path = str(tmp_path / "weights.safetensors")
    save_file({f"backbone.{key}": value for key, value in state.items()}, path)
    assert_loaded(backbones.build("small", weights=path), state)


def test_what_is_left_is_reported(tmp_path, state):
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    content = {f"module.{key}": value for key, value in state.items() if key not in counters}
    content |= {"module.cls.4.weight": torch.zeros(3), "queue": torch.zeros(2), "epoch": 4}
    backbone = backbones.build("small", weights=saved(tmp_path, content))
    report = backbone.load_report
    assert report.left_in_file == ("module.cls.4.weight", "queue")
    assert set(report.left_in_backbone) == counters
    text = str(report)
    assert f"matched {len(state) - len(counters)} tensors under 'module.'" in text
    assert "left module.cls.4.weight, queue in the file" in text
    assert f"left {len(counters)} batch counters of the backbone as they were" in text


def test_half_precision_files_are_cast(tmp_path, state):
    path = saved(tmp_path, {key: value.half() if value.is_floating_point() else value for key, value in state.items()})
    backbone = backbones.build("small", weights=path)
    assert backbone.conv5[0].weight.dtype == torch.float32
    assert torch.equal(backbone.conv5[0].weight, state["conv5.0.weight"].half().float())


def test_folded_batch_norms_are_recognised(tmp_path):
    folded = backbones.build("small").state_dict()
    report = backbones.build("small", weights=saved(tmp_path, folded)).load_report
    assert report.folded_bn
    assert "train with freeze_bn" in str(report)


def test_the_blocks_of_the_released_spa_model_are_found(tmp_path):
    # Block -> (indices of its convolutions, indices of the same ones in torchvision's network).
    blocks = {
        "conv1_2": ((0, 2, 5, 7), (0, 2, 5, 7)),
        "conv3": ((0, 2, 4), (10, 12, 14)),
        "conv4": ((0, 2, 4), (17, 19, 21)),
        "conv5": ((0, 2, 4), (24, 26, 28)),
    }
    shapes = {key: value.shape for key, value in backbones.build("vgg16").state_dict().items()}
    released, expected = {}, {}
    for block, (theirs, ours) in blocks.items():
        for index, feature in zip(theirs, ours, strict=True):
            for leaf in ("weight", "bias"):
                values = torch.randn(shapes[f"features.{feature}.{leaf}"])
                released[f"module.{block}.{index}.{leaf}"] = expected[f"features.{feature}.{leaf}"] = values
    released["module.conv5_add.0.weight"] = torch.zeros(512, 512, 3, 3)
    released["module.cls.4.bias"] = torch.zeros(200)
    backbone = backbones.build("vgg16", weights=saved(tmp_path, {"state_dict": released}, "released.pth.tar"))
    assert_loaded(backbone, expected)
    assert backbone.load_report.left_in_file == ("module.conv5_add.0.weight", "module.cls.4.bias")


def test_a_state_dict_of_the_features_alone_is_found(tmp_path):
    state = {key: torch.randn_like(value) for key, value in backbones.build("squeezenet1_1").state_dict().items()}
    path = saved(tmp_path, {key.removeprefix("features."): value for key, value in state.items()})
    assert_loaded(backbones.build("squeezenet1_1", weights=path), state)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2", "resnet50"])
def test_a_classifier_in_the_file_gives_the_logits_of_its_network(tmp_path, name):
    net = getattr(import_torchvision().models, name)(weights=None, num_classes=7).eval()
    path = saved(tmp_path, {f"module.{key}": value for key, value in net.state_dict().items()})
    backbone = backbones.build(name, weights=path).eval()
    assert backbone.load_report.classes == 7
    assert backbone.load_report.left_in_file == ()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = class_maps(backbone.classifier, backbone.extract(x)["conv5"])
        # The mean of 1x1 convolutions against the 1x1 convolution of a mean: another order of float32 sums.
        torch.testing.assert_close(maps.mean((2, 3)), net(x), atol=1e-4, rtol=1e-4)


def test_a_head_behind_other_features_is_left(tmp_path):
    state = backbones.build("squeezenet1_1").state_dict()
    head = {"classifier.1.weight": torch.zeros(7, 4096), "classifier.1.bias": torch.zeros(7)}
    backbone = backbones.build("squeezenet1_1", weights=saved(tmp_path, state | head))
    assert backbone.classifier is None
    assert backbone.load_report.left_in_file == tuple(head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {key: value for key, value in state.items() if not key.startswith("conv4.3.")},
            r"it lacks 1 of 50 tensors \(conv4\.3\.weight\); it has stem\.0\.weight, .* more",
        ),
        (
            lambda state: {key: value for key, value in state.items() if not key.endswith("running_var")},
            r"it lacks 9 of 50 tensors \(stem\.1\.running_var, .* and 6 more\)",
        ),
        (lambda state: {"other.weight": torch.zeros(2)}, r"it lacks 50 of 50 tensors .*; it has other\.weight"),
        (
            lambda state: state | {"conv3.0.weight": torch.zeros(64, 32, 1, 1)},
            r"conv3\.0\.weight \[64, 32, 1, 1\] instead of \[64, 32, 3, 3\] in shape",
        ),
    ],
)
def test_weights_that_do_not_cover_the_backbone_change_nothing(tmp_path, state, change, message):
    number = sum(not key.endswith("num_batches_tracked") for key in state)
    path = saved(tmp_path, change(dict(state)))
    backbone = backbones.build("small")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(WeightsError, match=message.replace(" 50 ", f" {number} ").replace("50 of", f"{number} of")):
        _weights.load_weights(backbone, path)
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    assert backbone.load_report is None


class Malicious:
    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return os.mkdir, (str(self.flag),)


@pytest.mark.parametrize(
    "write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_pickled_code_is_refused_and_not_run(tmp_path, state, write):
    flag = tmp_path / "executed"
    path = tmp_path / "weights.pth"
    write({"state_dict": state, "hook": Malicious(flag)}, path)
    with pytest.raises(WeightsError, match="which is not loaded because it could run anything") as raised:
        backbones.build("small", weights=str(path))
    assert not flag.exists()
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "no weights at .*absent.pth; give the path of an existing file"),
        ("broken.pth", b"not a checkpoint", "broken.pth"),
        ("empty.pt", b"", "empty.pt cannot be read as weights"),
        ("broken.safetensors", b"not one either", "broken.safetensors cannot be read as weights"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as raised:
        backbones.build("small", weights=str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "best": 0.5}, "holds no tensors under epoch, best; save a state_dict"),
        ({}, "holds no tensors"),
        ([torch.zeros(2)], "holds a list, expected a state_dict of named tensors"),
        (torch.zeros(2), "holds a Tensor, expected a state_dict of named tensors"),
    ],
)
def test_files_without_a_state_dict_say_what_they_hold(tmp_path, content, message):
    with pytest.raises(WeightsError, match=message):
        backbones.build("small", weights=saved(tmp_path, content))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("imagenet", "expected none, a .pth, .pt or .safetensors file, or a torchvision enum"),
        ("pretrained", "this network has none that are published; expected none, a .pth, .pt or .safetensors file"),
        ("VGG16_Weights.IMAGENET9K", "torchvision has no weights 'VGG16_Weights.IMAGENET9K'"),
        ("tv:VGG61_Weights.IMAGENET1K_V1", "torchvision has no weights 'VGG61_Weights.IMAGENET1K_V1'"),
    ],
)
def test_weights_of_no_known_form_are_a_usage_error(weights, message):
    with pytest.raises(BackboneError, match=message):
        backbones.build("small", weights=weights)


@pytest.mark.parametrize("spelling", ["SqueezeNet1_1_Weights.IMAGENET1K_V1", "tv:SqueezeNet1_1_Weights.DEFAULT"])
def test_a_cached_torchvision_file_needs_no_network(tmp_path, monkeypatch, spelling):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(_weights, "urlopen", lambda *args, **kwargs: pytest.fail("asked the network"))
    state = {key: torch.randn_like(value) for key, value in backbones.build("squeezenet1_1").state_dict().items()}
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    backbone = backbones.build("squeezenet1_1", weights=spelling)
    assert_loaded(backbone, state)
    assert backbone.load_report.source == spelling
    with pytest.raises(WeightsError, match=f"{spelling} does not fit this backbone"):
        backbones.build("vgg16", weights=spelling)


def test_weights_that_timm_keeps_at_an_address_are_cached_as_those_of_torchvision(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(_weights, "urlopen", lambda *args, **kwargs: pytest.fail("asked the network"))
    backbone = backbones.build("timm:test_resnet")
    state = {key.removeprefix("net."): torch.randn_like(value.float()) for key, value in backbone.state_dict().items()}
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "weights-0123abcd.pth")
    backbone.origin = "https://example.com/weights-0123abcd.pth"
    _weights.load_weights(backbone, "pretrained")
    assert backbone.load_report.source == "pretrained"
    assert torch.equal(backbone.net.conv1[0].weight, state["conv1.0.weight"])
    assert backbones.build("timm:gcvit_xxtiny").origin.startswith("https://github.com/")


@pytest.mark.parametrize("weights", ["VGG16_Weights.IMAGENET1K_V1", "tv:VGG16_Weights.IMAGENET1K_V1"])
def test_offline_and_not_cached_is_one_error_at_once(tmp_path, monkeypatch, weights):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    import_torchvision()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(_weights, "urlopen", offline)
    start = time.monotonic()
    with pytest.raises(WeightsError) as raised:
        backbones.build("vgg16", weights=weights)
    assert time.monotonic() - start < 5
    message = str(raised.value)
    assert message.startswith("VGG16_Weights.IMAGENET1K_V1 are not in ")
    assert message.endswith("does not answer (Name or service not known); give a local file")
    assert not list(tmp_path.iterdir())


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def breaks_off(*args, **kwargs):
        raise RuntimeError('invalid hash value (expected "397923af", got "0000")')

    import_torchvision()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(_weights, "require_online", lambda url, absent: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", breaks_off)
    with pytest.raises(WeightsError, match=r"could not be downloaded from https://.*invalid hash value"):
        backbones.build("vgg16", weights="VGG16_Weights.IMAGENET1K_V1")
