import copy
import os
import socket

import pytest
import torch
from combined_maps import assert_combined
from torch import distributed, multiprocessing
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.testing import assert_close, seeded
from wsolfast.types import Batch, TrainState

CICAM = get_stage("ci_cam")


def model(num_classes=5, freeze_bn=False, **options):
    torch.manual_seed(0)
    options = {"nl_positions": [], "pool_size": 4} | options
    method = CICAM(backbones.build("small", freeze_bn=freeze_bn), num_classes, **options).double()
    if method.enhance is not None:
        # A pool and a convolution that show: at the published scale both would hide behind the features.
        method.pool.maps.copy_(seeded(tuple(method.pool.maps.shape), dtype=torch.float64, seed=3))
        method.enhance.weight.data.mul_(20)
    return method


def one_hot_path(method, features):
    """Run the published forward as it is written: every class map, a one-hot pool tensor, a dense 1x1 convolution."""
    up_head, down_head = method.classifier, method.down_classifier or method.classifier
    up = up_head(features.mean((2, 3)))
    up_maps = torch.einsum("kc,nchw->nkhw", up_head.weight, features)
    placed = torch.zeros(len(features), *method.pool.maps.shape, dtype=features.dtype)
    for n, k in enumerate(up.argmax(1)):
        placed[n, k] = method.pool.maps[k]
    if method.enhance.in_channels == 1:
        placed = placed.sum(1, keepdim=True)
    attention = functional.conv2d(placed, method.enhance.weight, method.enhance.bias)
    enhanced = features + attention * features
    down = down_head(enhanced.mean((2, 3)))
    return up, down, up_maps, torch.einsum("kc,nchw->nkhw", down_head.weight, enhanced)


@pytest.mark.parametrize("enhance", ["class_conv", "shared_conv"])
@pytest.mark.parametrize("shared", [True, False])
def test_losses_and_gradients_are_those_of_the_one_hot_convolution(batch, state, enhance, shared):
    method = model(enhance=enhance, shared_classifier=shared).eval()
    dense = copy.deepcopy(method)
    losses = method.training_step(batch, state)
    up, down, *_ = one_hot_path(dense, dense.backbone(batch.image)["conv5"])
    loss_up, loss_down = functional.cross_entropy(up, batch.label), functional.cross_entropy(down, batch.label)
    assert_close(losses["loss_up"], loss_up)
    assert_close(losses["loss_down"], loss_down)
    assert_close(losses["loss"], loss_up + loss_down)
    assert (up - down).abs().max() > 1e-2
    losses["loss"].backward()
    (loss_up + loss_down).backward()
    for (name, parameter), other in zip(method.named_parameters(), dense.parameters(), strict=True):
        assert parameter.grad is not None, name
        assert_close(parameter.grad, other.grad)
    assert method.enhance.weight.grad.any()


@pytest.mark.parametrize("branch", ["down", "up"])
@pytest.mark.parametrize("gamma", ["ci_quadratic", "sum", "none"])
@torch.no_grad()
def test_maps_are_those_of_the_enhanced_features(batch, branch, gamma):
    method = model(map_branch=branch, gamma=gamma, gamma_r=2).eval()
    up, down, up_maps, down_maps = one_hot_path(method, method.backbone(batch.image)["conv5"])
    logits, class_maps = (down, down_maps) if branch == "down" else (up, up_maps)
    found = method.localize(batch.image, batch.label, topk=3)
    assert_close(found.logits, logits)
    assert_close(method.classify(batch.image), logits)
    assert_combined(found, method.combination, class_maps, batch.label)


def test_up_loss_can_be_dropped(batch, state):
    losses = model(up_loss_weight=0.0).training_step(batch, state)
    assert torch.equal(losses["loss"], losses["loss_down"])
    assert losses["loss_up"] > 0


@pytest.mark.parametrize("timing", ["after", "before"])
def test_pool_grows_once_per_step_and_before_or_after_its_use(batch, state, timing):
    method = model(pool_timing=timing, freeze_bn=True).train()
    with torch.no_grad():
        up, _, up_maps, _ = one_hot_path(method, method.backbone(batch.image)["conv5"])
    # Labels of which two are right, so that something is learnt and something is not.
    label = up.argmax(1).roll(1)
    label[:2] = up.argmax(1)[:2]
    batch = Batch(batch.image, label, batch.image_id)
    expected = copy.deepcopy(method.pool)
    expected.update(up.argmax(1), label, up_maps[torch.arange(6), up.argmax(1)])
    assert not torch.equal(expected.maps, method.pool.maps)

    used = copy.deepcopy(method).eval()
    used.pool.maps.copy_(expected.maps if timing == "before" else method.pool.maps)
    losses = method.training_step(batch, state)
    assert_close(method.pool.maps, expected.maps)
    assert_close(losses["loss"], used.training_step(batch, state)["loss"])
    losses["loss"].backward()


@torch.no_grad()
def test_pool_stands_still_outside_training(batch, state):
    method = model(pool_contrib="predicted").eval()
    before = method.pool.maps.clone()
    method.training_step(batch, state)
    method.localize(batch.image, batch.label)
    method.classify(batch.image)
    assert torch.equal(method.pool.maps, before)


def test_without_enhancement_both_branches_agree(batch, state):
    method = model(enhance="none")
    losses = method.training_step(batch, state)
    assert torch.equal(losses["loss_up"], losses["loss_down"])
    assert not any(name.startswith(("enhance", "pool")) for name in method.state_dict())


def test_images_need_not_fit_the_pool(batch, state):
    method = model(pool_size=3)
    method.training_step(batch, state)["loss"].backward()
    assert method.localize(batch.image[:, :, :48]).localization_map.shape == (6, 1, 3, 4)


def test_enhancing_convolution_learns_at_the_rate_of_the_backbone():
    method = model(nl_positions=["conv3"])
    groups = {group.name: group.params for group in method.param_groups()}
    everything = [parameter for params in groups.values() for parameter in params]
    assert len(everything) == len({id(p) for p in everything}) == len(list(method.parameters()))
    for name, parameter in (
        ("backbone_weight", method.enhance.weight),
        ("backbone_bias", method.enhance.bias),
        ("backbone_weight", method.backbone.non_local_conv3.query.weight),
        ("head_weight", method.classifier.weight),
    ):
        assert any(p is parameter for p in groups[name])


def step(method, optimizer, batch):
    optimizer.zero_grad()
    method.training_step(batch, TrainState(0, 1, 0, 1))["loss"].backward()
    optimizer.step()


def test_training_continues_bit_for_bit_from_a_state_dict(batch):
    whole = model(pool_contrib="predicted", nl_positions=["conv4"]).float()
    optimizer = torch.optim.Adam(whole.parameters(), lr=1e-3)
    for _ in range(2):
        step(whole, optimizer, batch)
    resumed = CICAM(backbones.build("small"), 5, nl_positions=["conv4"], pool_size=4, pool_contrib="predicted")
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    again = torch.optim.Adam(resumed.parameters(), lr=1e-3)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert "pool.maps" in whole.state_dict()
    for _ in range(2):
        step(whole, optimizer, batch)
        step(resumed, again, batch)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


class Losses(torch.nn.Module):
    """DistributedDataParallel wraps what has a forward."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, batch):
        return self.method.training_step(batch, TrainState(0, 1, 0, 1))["loss"]


# Ranks 0 and 1 of the batches: equal shares, then shares of different size for the pool alone.
SHARES = ((slice(0, 3), slice(3, 6)), (slice(0, 4), slice(4, 6)))


def trained(batch, wrap=lambda module: module, share=slice(None)):
    """Return the method after two steps on ``share`` of the batch, in float32."""
    method = model(freeze_bn=True, pool_contrib="predicted").float().train()
    method.pool.maps.zero_()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    wrapped = wrap(Losses(method))
    for _ in range(2):
        optimizer.zero_grad()
        wrapped(Batch(batch.image[share], batch.label[share], batch.image_id[share])).backward()
        optimizer.step()
    return method


def one_of_two(rank, port, batch, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    method = trained(batch, DistributedDataParallel, SHARES[0][rank])
    pool = model().float().pool
    share = SHARES[1][rank]
    predicted = torch.tensor([0, 1, 2, 0, 0, 2])
    pool.update(predicted[share], batch.label[share], seeded((6, 4, 4))[share])
    torch.save((method.state_dict(), pool.maps), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one_with_the_whole_batch(batch, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(one_of_two, (port, batch, tmp_path), nprocs=2)
    (first, first_pool), (second, second_pool) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name

    alone = trained(batch).state_dict()
    for name, value in first.items():
        # Gradients are averaged in another order.
        torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-6)
    assert first["pool.maps"].any()

    pool = model().float().pool
    pool.update(torch.tensor([0, 1, 2, 0, 0, 2]), batch.label, seeded((6, 4, 4)))
    assert torch.equal(first_pool, second_pool)
    assert torch.equal(first_pool, pool.maps)


def test_bfloat16_training_leaves_the_pool_in_float32(batch, state):
    method = model(nl_positions=["conv4"], pool_contrib="predicted").float().to(memory_format=torch.channels_last)
    exact = copy.deepcopy(method).training_step(batch, state)
    with torch.autocast("cpu", torch.bfloat16):
        losses = method.training_step(batch, state)
        found = method.eval().localize(batch.image, batch.label, topk=2)
    losses["loss"].backward()
    # Two losses near 1.6, each from logits of 8 bits.
    assert_close(losses["loss"], exact["loss"], tolerance=5e-2)
    assert method.pool.maps.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())
    assert found.localization_map.isfinite().all()
