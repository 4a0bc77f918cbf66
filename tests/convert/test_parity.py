"""A converted run computes what the published network computes."""

import pickle

import pytest
import torch
from published import (
    Baseline,
    CiCam,
    InceptionTrunk,
    NlCcam,
    Spa,
    SpaInception,
    Spol,
    Trunk,
    TsCam,
    combined,
    images,
    normalized,
    ready,
)

from wsolfast.convert import read_checkpoint
from wsolfast.engine.assembly.build import build_method

# Double precision throughout; sums run in other orders, over tens of layers.
CLOSE = {"rtol": 1e-7, "atol": 1e-9}
CLASSES = 7


def converted(net, tmp_path, *, file="net_train_x.pth", wrap=dict, **options):
    """Our method, in double precision, from a checkpoint of ``net`` that is written as its code writes it."""
    torch.save(wrap(net.state_dict()), tmp_path / file)
    if hasattr(net, "mask"):
        (tmp_path / file.replace("net_train_", "mask_train_")).write_bytes(pickle.dumps(net.mask))
    found = read_checkpoint(tmp_path / file, **options)
    method = build_method(found.recipe, found.recipe.stage[0], CLASSES, pretrained=False)
    method.load_state_dict(found.tensors)
    return method.double().eval(), found


def data_parallel(state):
    """As SPA's training program writes it."""
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    return {"epoch": 100, "arch": "vgg_spa", "global_counter": 1, "state_dict": state, "optimizer": {"state": {}}}


@torch.no_grad()
@pytest.mark.parametrize(("build", "side"), [(Spa, 64), (SpaInception, 96)])
def test_spa(build, side, tmp_path):
    net = ready(build(CLASSES, 16))
    method, found = converted(
        net, tmp_path, file="a.pth.tar", wrap=data_parallel, overrides=["stage.model.hidden_channels=16"]
    )
    image = images(side)
    class_maps, conv4, conv5 = net.double()(normalized(image))
    features = method.backbone(image)
    torch.testing.assert_close(features["conv4"], conv4, **CLOSE)
    torch.testing.assert_close(features["conv5"], conv5, **CLOSE)
    torch.testing.assert_close(method.head.class_maps(features["conv5"]), class_maps, **CLOSE)
    torch.testing.assert_close(method.classify(image), class_maps.mean((2, 3)), **CLOSE)
    assert found.source == "spa"
    assert list(found.dropped) == (["conv5_add.0.weight", "conv5_add.0.bias"] if build is Spa else [])


@torch.no_grad()
def test_cam_baseline_of_spa(tmp_path):
    net = ready(Baseline(CLASSES, 16))
    method, found = converted(net, tmp_path, overrides=["stage.model.hidden_channels=16"])
    image = images(64)
    torch.testing.assert_close(method.classify(image), net.double()(normalized(image)).mean((2, 3)), **CLOSE)
    assert found.recipe.stage[0].method == "cam"


@torch.no_grad()
def test_nl_ccam(tmp_path):
    net = ready(NlCcam(CLASSES))
    method, found = converted(net, tmp_path, overrides=["stage.model.gamma_m=3"])
    image = images(64)
    logits, maps = net.double()(normalized(image))
    assert found.source == "nl_ccam"
    torch.testing.assert_close(method.classify(image), logits, **CLOSE)
    localization = method.localize(image, topk=1).localization_map[:, 0]
    weights = torch.tensor([1, 0.25, 0, 0, -1 / 9, -4 / 9, -1], dtype=torch.float64)
    torch.testing.assert_close(localization, combined(maps, logits, weights), **CLOSE)


NETWORKS = {
    "ci_cam vgg16": ("ci_cam", 64, lambda: CiCam(Trunk((2, 3, 4, 5)), 512, CLASSES, 4)),
    "ci_cam vgg16 unshared": ("ci_cam", 64, lambda: CiCam(Trunk((2, 3, 4, 5)), 512, CLASSES, 4, shared=False)),
    "ci_cam inception": ("ci_cam", 107, lambda: CiCam(InceptionTrunk(False), 768, CLASSES, 5)),
    "kg vgg16": ("kg_ci_cam", 64, lambda: CiCam(Trunk((2, 3, 4, 5)), 512, CLASSES, 4, regressor=False)),
    "kg ilsvrc": ("kg_ci_cam", 64, lambda: CiCam(Trunk((3, 4, 5), 16), 16, CLASSES, 4, regressor=False)),
    "kg inception": ("kg_ci_cam", 107, lambda: CiCam(InceptionTrunk(True), 768, CLASSES, 5, regressor=False)),
    "kg baseline": ("kg_ci_cam", 64, lambda: CiCam(Trunk((2, 3, 4, 5)), 512, CLASSES, 4, regressor=False, branches=1)),
    "kg baseline ilsvrc": (
        "kg_ci_cam",
        64,
        lambda: CiCam(Trunk((3, 4, 5), 16), 16, CLASSES, 4, regressor=False, branches=1),
    ),
    "kg baseline inception": (
        "kg_ci_cam",
        107,
        lambda: CiCam(InceptionTrunk(True), 768, CLASSES, 5, regressor=False, branches=1),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_ci_cam_and_its_baselines(name, tmp_path):
    source, side, build = NETWORKS[name]
    net = ready(build())
    overrides = ["stage.model.gamma=ci_quadratic"] + ["stage.model.hidden_channels=16"] * ("ilsvrc" in name)
    method, found = converted(net, tmp_path, overrides=overrides)
    image = images(side, count=4)
    logits, maps = net.double()(normalized(image))
    assert found.source == source
    torch.testing.assert_close(method.classify(image), logits, **CLOSE)
    localization = method.localize(image, topk=1).localization_map[:, 0]
    weights = -(torch.linspace(0, 1, CLASSES, dtype=torch.float64) ** 2)
    torch.testing.assert_close(localization, combined(maps, logits, weights), **CLOSE)
    reasons = {key.split(".")[0]: reason for key, reason in found.dropped.items()}
    assert ("regressor" in reasons) == (source == "ci_cam")
    assert ("down_classifier" in reasons) == (hasattr(net, "mask") and "unshared" not in name)


@torch.no_grad()
def test_spol_that_classifies(tmp_path):
    net = ready(Spol(CLASSES))
    method, found = converted(net, tmp_path)
    image = images(64)
    maps = net.double()(normalized(image))
    assert (found.source, found.recipe.stage[0].name) == ("spol", "cam")
    torch.testing.assert_close(method.classify(image), maps.mean((2, 3)), **CLOSE)
    label = torch.tensor([1, 4])
    cam = maps[torch.arange(2), label]
    shares = cam / (cam.amax((1, 2), keepdim=True) + 1e-6)
    torch.testing.assert_close(method.localize(image, label, topk=0).localization_map[:, 0], shares, **CLOSE)


@torch.no_grad()
def test_spol_that_separates(tmp_path):
    net = ready(Spol(0))
    method, found = converted(net, tmp_path)
    image = images(64)
    logits = net.double()(normalized(image))
    expected = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=True).sigmoid()
    assert (found.source, found.recipe.stage[0].name) == ("spol", "seg")
    actual = method.localize(image).localization_map.double()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)  # maps are computed in float32


@torch.no_grad()
@pytest.mark.parametrize(("width", "recipe"), [(192, "ts_cam_cub_deit_tiny"), (384, "ts_cam_cub_deit_small")])
def test_ts_cam(width, recipe, tmp_path):
    net = ready(TsCam(200, width, width // 64))
    torch.nn.init.normal_(net.pos_embed, std=0.02)
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"epoch": 60, "state_dict": state, "best_map": 0.8}, tmp_path / "model_best.pth")
    found = read_checkpoint(tmp_path / "model_best.pth")
    assert (found.source, found.recipe.name) == ("ts_cam", recipe)
    assert not found.dropped
    method = build_method(found.recipe, found.recipe.stage[0], 200, pretrained=False)
    method.load_state_dict(found.tensors)
    image = images(224)[:1]
    features = method.double().eval().features(image)
    # The statistics of ImageNet are kept in float32, which small logits feel.
    logits, maps = net.double()(method.backbone.normalize(image))
    torch.testing.assert_close(method.classify_features(features), logits, **CLOSE)
    label = logits.argmax(1)
    expected = maps[:, label[0]]
    expected = (expected - expected.amin()) / (expected.amax() - expected.amin())
    ours = method.localize_features(features, (224, 224), label, 0).localization_map[:, 0]
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)  # the product's range is a small part of it
