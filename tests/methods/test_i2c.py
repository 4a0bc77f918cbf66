"""I2C: pairs of images, their seeds, and the bank of class centres."""

import copy
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import MethodError, get_stage
from wsolfast.methods.i2c import check_pairs, distance
from wsolfast.testing import assert_close, seeded
from wsolfast.types import TrainState

I2C = get_stage("i2c")


def build(**options):
    torch.manual_seed(0)
    return I2C(backbones.build("small"), 5, **{"head": "linear"} | options)


@pytest.fixture
def pairs(batch):
    """Six images, three pairs of two classes."""
    return replace(batch, label=torch.tensor([3, 3, 1, 1, 3, 3]))


def choose(net, maps, state=None):
    return net.choose_seeds(maps, state or TrainState(0, 1, 0, 10))


def test_the_distance_of_two_pairs_by_hand():
    """(1, 0) and (1, 1) are 1 apart, (0, 2) and (0, 0) are 2, but for the 1e-6 that is added to every difference."""
    a, b = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    assert distance(a, b).mean().item() == pytest.approx(1.5, abs=1e-10)  # 1 - 1e-6 and 2 + 1e-6
    assert_close(distance(a, a), torch.full((2,), math.sqrt(2) * 1e-6, dtype=torch.float64))


@pytest.mark.parametrize(("visits", "rate"), [(0, 1.0), (100, 0.82), (1000, 0.135)])
def test_the_bank_freezes_as_released(visits, rate):
    assert build().rate(torch.tensor(visits)).item() == pytest.approx(rate, abs=2e-3)  # as many digits are given


def test_the_bank_goes_on_moving_if_asked_to():
    assert build(bank_rate=0.1).rate(torch.tensor([0, 100, 10**6])).tolist() == pytest.approx(
        [1, 0.8187, 0.1], abs=1e-4
    )


def test_raster_seeds_are_the_first_ones_and_taken_in_turn():
    maps = torch.tensor(
        [
            [[0.0, 0.71, 0.8], [0.7, 0.9, 1.0]],  # four above 0.7, itself not
            [[0.0, 0.1, 0.2], [0.8, 0.3, 1.0]],  # two
            [[0.0, 0.1, 1.0], [0.0, 0.0, 0.0]],  # one
            [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],  # a constant map
        ]
    )
    seeds, found = choose(build(seeds="raster"), maps)
    assert seeds[:3].tolist() == [[1, 2, 4], [3, 5, 3], [2, 2, 2]]
    assert found.tolist() == [True, True, True, False]


def test_more_seeds_than_positions_are_taken_in_turn():
    seeds, found = choose(build(seeds="raster", seeds_per_image=5), torch.tensor([[[1.0, 0.0], [0.8, 0.9]]]))
    assert seeds.tolist() == [[0, 2, 3, 0, 2]]
    assert found.all()
    assert not choose(build(seeds_per_image=5), torch.zeros(2, 1, 1))[1].any()


def test_random_seeds_differ_by_step_and_are_above_the_threshold():
    net, maps = build(), seeded((8, 6, 7)).sigmoid()
    drawn = [choose(net, maps, TrainState(0, 1, step, 10, seed)) for seed, step in ((0, 3), (0, 4), (1, 3), (0, 3))]
    seeds = [seeds for seeds, _ in drawn]
    assert torch.equal(seeds[0], seeds[3])
    assert not torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])
    marked = maps.flatten(1) > 0.7
    assert (marked.sum(1) >= 3).all()
    for one in seeds:
        assert marked.gather(1, one).all()
        assert all(len(set(row)) == 3 for row in one.tolist())
    # Every marked position has its turn: 200 draws of 3 leave one of at most 42 out with a chance below 1e-4.
    shown = Counter()
    for step in range(200):
        shown.update(choose(net, maps[:1], TrainState(0, 1, step, 200))[0][0].tolist())
    assert set(shown) == set(marked[0].nonzero().flatten().tolist())


def losses_by_loops(net, batch):
    """Losses and the bank afterwards, image by image as the method is described."""
    features = net.backbone(batch.image)["conv5"]
    weight, bias = net.head.classifier.weight.flatten(1), net.head.classifier.bias
    logits = features.mean((2, 3)) @ weight.T + bias
    local, globally, centres = [], [], {}
    for first in range(0, len(batch.label), 2):
        label, chosen = int(batch.label[first]), []
        for image in (first, first + 1):
            cam = sum(w * one for w, one in zip(weight[label], features[image], strict=True)).detach()
            scaled = (cam - cam.min()) / (cam.max() - cam.min())
            spots = [(y, x) for y in range(cam.shape[0]) for x in range(cam.shape[1]) if scaled[y, x] > 0.7]
            chosen.append([features[image, :, y, x] for y, x in (spots * 3)[:3]])
        local += [(a - b + 1e-6).norm() for a, b in zip(*chosen, strict=True)]
        centre = sum(chosen[0] + chosen[1]) / 6
        globally.append((net.bank[label] - centre + 1e-6).norm())
        centres.setdefault(label, []).append(centre.detach())
    bank = net.bank.clone()
    for label, found in centres.items():
        rate = math.exp(-0.002 * int(net.count[label]))
        bank[label] = (1 - rate) * bank[label] + rate * sum(found) / len(found)
    means = [sum(values) / len(values) for values in (local, globally)]
    return functional.cross_entropy(logits, batch.label), *means, bank


def test_losses_gradients_and_the_bank_are_those_of_the_loops(pairs, state):
    net = build(seeds="raster", local_weight=0.5, global_weight=0.25).double().eval()
    net.count[3] = 40
    twin = copy.deepcopy(net)
    for _ in range(2):
        found = net.training_step(pairs, state)
        cls, local, globally, bank = losses_by_loops(twin, pairs)
        assert_close(found["loss_cls"], cls)
        assert_close(found["loss_local"], local)
        assert_close(found["loss_global"], globally)
        assert_close(found["loss"], cls + 0.5 * local + 0.25 * globally)
        assert_close(net.bank, bank)
        twin.bank, twin.count = bank, twin.count + torch.tensor([0, 1, 0, 1, 0])
        assert torch.equal(net.count, twin.count)
    found["loss"].backward()
    (cls + 0.5 * local + 0.25 * globally).backward()
    for parameter, expected in zip(net.parameters(), twin.parameters(), strict=True):
        assert_close(parameter.grad, expected.grad)


def test_the_bank_is_read_before_it_moves_and_forgets_its_noise_at_the_first_visit(pairs, state):
    net = build(seeds="raster").double().eval()
    noise = net.bank.clone()
    features = net.features(pairs.image)["conv5"]
    maps = net.head.maps_of(features, pairs.label[:, None])[:, 0]
    seeds, _ = choose(net, (maps - maps.amin((1, 2), True)) / (maps.amax((1, 2), True) - maps.amin((1, 2), True)))
    rows = features.flatten(2).gather(2, seeds[:, None].expand(-1, features.shape[1], -1)).mean(2)
    centres = rows.view(3, 2, -1).mean(1)
    found = net.training_step(pairs, state)
    assert_close(found["loss_global"], distance(noise[pairs.label[::2]], centres).mean())
    assert_close(net.bank[1], centres[1])
    # The class comes twice: the centre is the mean of its pairs, not the later one, and that is one visit.
    assert_close(net.bank[3], (centres[0] + centres[2]) / 2)
    assert net.count.tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(net.bank[[0, 2, 4]], noise[[0, 2, 4]])


def test_a_pair_without_a_seed_is_counted_and_changes_nothing_else(pairs, state):
    net = build(seeds="raster").double().eval()
    flat = replace(pairs, image=pairs.image.clone())
    whole = net.training_step(flat, state)
    net = build(seeds="raster").double().eval()
    with torch.no_grad():
        net.head.classifier.weight[1] = 0  # maps of class 1 are constant
    noise = net.bank.clone()
    found = net.training_step(flat, state)
    assert found["skipped"].item() == pytest.approx(1 / 3)
    assert whole["skipped"].item() == 0
    assert torch.equal(net.bank[1], noise[1])
    assert net.count.tolist() == [0, 0, 0, 1, 0]
    found["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    with torch.no_grad():
        net.head.classifier.weight.zero_()
    nothing = net.training_step(flat, state)
    assert nothing["loss_local"] == nothing["loss_global"] == 0
    assert nothing["loss"] == nothing["loss_cls"]
    assert nothing["skipped"] == 1


def test_seeds_and_centres_pass_no_gradient_on(pairs, state):
    net = build(seeds="raster").double().eval()
    losses = net.training_step(pairs, state)
    (losses["loss_local"] + losses["loss_global"]).backward()
    # The head chooses seeds and reads nothing else.
    assert net.head.classifier.weight.grad is None
    assert any(parameter.grad.any() for parameter in net.backbone.parameters())
    assert not net.bank.requires_grad


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([3, 3, 1, 1, 3], "i2c: 5 images in a part of a batch, 'e' has no partner: expected pairs"),
        ([3, 3, 1, 2, 3, 3], "i2c: 'c' and 'd' are of classes 1 and 2: expected pairs of one class side by side"),
    ],
)
def test_images_without_a_partner_are_named(batch, state, labels, message):
    count = len(labels)
    odd = replace(batch, image=batch.image[:count], label=torch.tensor(labels), image_id=batch.image_id[:count])
    with pytest.raises(MethodError, match=message):
        build().training_step(odd, state)
    with pytest.raises(MethodError, match=message):
        check_pairs(odd)


def test_batches_are_pairs_of_different_classes_where_there_are_enough():
    labels = torch.arange(20).repeat(30)
    for batch in build().batch_sampler(labels, 12, 0):
        shown = labels[batch].view(-1, 2)
        assert torch.equal(shown[:, 0], shown[:, 1])
        assert len(shown[:, 0].unique()) == 6
        assert len(set(batch)) == 12


@pytest.mark.parametrize(
    ("labels", "size", "shares"), [([0, 1, 2] * 8, 8, [4, 2, 2]), ([5] * 9, 4, [4]), ([], 4, None)]
)
def test_few_classes_give_several_pairs_each(labels, size, shares):
    labels = torch.tensor(labels, dtype=torch.int64)
    batches = list(build().batch_sampler(labels, size, 0))
    assert len(batches) == -(-len(labels) // size)
    for batch in batches:
        shown = labels[batch].view(-1, 2)
        assert torch.equal(shown[:, 0], shown[:, 1])
        assert sorted(Counter(labels[batch].tolist()).values(), reverse=True) == shares


def test_an_odd_batch_size_is_named():
    with pytest.raises(ValueError, match="i2c: batch_size: expected an even number, for pairs, got 7"):
        build().batch_sampler(torch.arange(9), 7, 0)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("seeds_per_image", 0, "at least 1"),
        ("seed_threshold", 1.5, r"a value in \[0, 1\]"),
        ("bank_rate", -0.1, r"a value in \[0, 1\]"),
        ("local_weight", -1.0, "at least 0"),
        ("global_weight", -1.0, "at least 0"),
        ("bank_decay", -1.0, "at least 0"),
        ("seeds", "first", "random, raster"),
    ],
)
def test_an_option_that_cannot_be_meant_is_named(option, value, expected):
    with pytest.raises(ValueError, match=f"i2c: {option}: expected .*{expected}"):
        build(**{option: value})


@torch.no_grad()
def test_in_evaluation_it_is_cam(batch):
    net = build(head="conv3", cam_relu=True).eval()
    cam = get_stage("cam")(backbones.build("small"), 5, head="conv3", cam_relu=True).eval()
    cam.load_state_dict({name: value for name, value in net.state_dict().items() if name not in ("bank", "count")})
    found, expected = (m.localize(batch.image, batch.label, topk=2) for m in (net, cam))
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.localization_map, expected.localization_map)


def test_bfloat16_training_is_finite_and_the_bank_keeps_its_precision(pairs, state):
    net = build(seeds="raster").to(memory_format=torch.channels_last).eval()
    exact, twin = net.training_step(pairs, state)["loss"], build(seeds="raster").eval()
    with torch.autocast("cpu", torch.bfloat16):
        losses = twin.training_step(pairs, state)
    losses["loss"].backward()
    # Losses near 1 from values of 8 bits; a seed may fall on a neighbour.
    torch.testing.assert_close(losses["loss"].float(), exact, rtol=0.1, atol=0.1)
    assert twin.bank.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in twin.parameters())


def test_one_pair_of_images_that_are_not_square_trains(pairs, state):
    net = build().train()
    one = replace(pairs, image=pairs.image[:2, :, :48], label=pairs.label[:2], image_id=pairs.image_id[:2])
    net.training_step(one, state)["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    assert net.count.tolist() == [0, 0, 0, 1, 0]
