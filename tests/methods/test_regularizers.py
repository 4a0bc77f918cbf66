"""Regularisers on top of CAM: they are CAM in evaluation, and draw what belongs to their step."""

import copy
from dataclasses import replace

import pytest
import torch

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.types import Batch, TrainState

# Options with which the method draws, erases or guides at every step.
METHODS = {
    "has": {"patch_sizes": [16, 20]},
    "cutmix": {},
    "adl": {"positions": ["conv4", "conv5"]},
    "adl, tap": {"positions": ["conv4", "conv5"], "pool": "tap"},
    "cam, tap": {"pool": "tap"},
    "eil": {"positions": ["conv3", "conv4"]},
    "acol": {"head": "linear"},
    "spg": {"head": "linear", "guide_channels": 8},
}
every_method = pytest.mark.parametrize("method", METHODS)


def build(method, **options):
    torch.manual_seed(0)
    return get_stage(method.partition(",")[0])(backbones.build("small"), 5, **METHODS.get(method, {}) | options)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "acol"])
@pytest.mark.parametrize("cam_relu", [True, False])
@torch.no_grad()
def test_in_evaluation_it_is_cam(method, cam_relu, batch):
    net = build(method, cam_relu=cam_relu).eval()
    cam = build("cam, tap" if method.endswith("tap") else "cam", cam_relu=cam_relu).eval()
    own = {name: value for name, value in net.state_dict().items() if not name.startswith("guide_")}
    cam.load_state_dict(own)
    found, expected = (m.localize(batch.image, batch.label, topk=2) for m in (net, cam))
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.classes, expected.classes)
    assert torch.equal(found.localization_map, expected.localization_map)
    assert torch.equal(net.classify(batch.image), expected.logits)


@every_method
def test_draws_depend_on_seed_and_step_alone(method, batch):
    net = build(method).train()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    losses = {}
    for seed, step in ((0, 3), (0, 4), (1, 3), (0, 3)):
        state = TrainState(epoch=0, epochs=1, step=step, steps=10, seed=seed)
        losses.setdefault((seed, step), []).append(copy.deepcopy(net).training_step(batch, state)["loss"])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*losses[0, 3])
    if method in ("has", "cutmix"):
        assert len({loss.item() for found in losses.values() for loss in found}) == 3


@every_method
def test_a_batch_of_one_trains(method, batch, state):
    net = build(method).train()
    one = Batch(batch.image[:1], batch.label[:1], batch.image_id[:1])
    net.training_step(one, state)["loss"].backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@every_method
def test_images_need_not_be_square(method, batch, state):
    net = build(method).train()
    wide = replace(batch, image=batch.image[:, :, :48])
    net.training_step(wide, state)["loss"].backward()
    assert net.eval().localize(wide.image).localization_map.shape == (6, 1, 3, 4)


@every_method
def test_bfloat16_training_is_finite(method, batch, state):
    net = build(method).train().to(memory_format=torch.channels_last)
    exact = copy.deepcopy(net).training_step(batch, state)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        losses = net.training_step(batch, state)
    losses["loss"].backward()
    # A sum of up to five losses near 1, each from values of 8 bits; seeds of SPG may fall on the other side.
    torch.testing.assert_close(losses["loss"].float(), exact, rtol=0.1, atol=0.1)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("has", "patch_sizes", []),
        ("has", "patch_sizes", [-1]),
        ("has", "drop_rate", 1.5),
        ("cutmix", "beta", 0.0),
        ("cutmix", "probability", -0.1),
        ("adl", "drop_rate", 2.0),
        ("adl", "drop_threshold", -1.0),
        ("acol", "erase_threshold", 1.1),
        ("spg", "thresholds_a", (0.1, 0.5)),
        ("spg", "thresholds_c", (1.2, 0.5)),
        ("spg", "early", "conv9"),
    ],
)
def test_an_option_that_cannot_be_meant_is_named(method, option, value):
    with pytest.raises(ValueError, match=f"{method}: {option}: "):
        build(method, **{option: value})
