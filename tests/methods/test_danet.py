import itertools
import math

import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import MethodError, get_stage
from wsolfast.methods.danet import cosine_similarity_loss
from wsolfast.testing import assert_close, seeded
from wsolfast.types import Batch, TrainState

DANet = get_stage("danet")
# Of five classes: their families, and the orders of these.
PARENTS = torch.tensor([[0, 0, 1, 2, 2], [0, 0, 0, 1, 1]])
SMALL = {"head": "linear", "level_head": "linear", "level_channels": (8, 8)}


def build(parents=PARENTS, **options):
    torch.manual_seed(0)
    options = SMALL | {"level_sizes": (parents.amax(1) + 1).tolist() if len(parents) else ()} | options
    net = DANet(backbones.build("small"), 5, **options).double()
    if len(parents):
        net.set_parents(parents)
    return net


@pytest.mark.parametrize(("absolute", "expected"), [("sum", 0.333333), ("each", 0.804738)])
def test_similarity_of_three_maps_by_hand(absolute, expected):
    maps = torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]], [[-1.0, 0.0]]]], dtype=torch.float64)
    # Six digits are given; the ε of 1e-8 is below them.
    assert cosine_similarity_loss(maps, absolute).item() == pytest.approx(expected, abs=5e-7)


def loop(maps, absolute):
    """The loss, pair by pair."""
    total = 0.0
    for image in maps.flatten(2).tolist():
        found = []
        for a, b in itertools.combinations(image, 2):
            squares = sum(x * x for x in a) * sum(y * y for y in b)
            found.append(sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(squares + 1e-8))
        total += abs(sum(found)) / len(found) if absolute == "sum" else sum(map(abs, found)) / len(found)
    return total / len(maps)


@pytest.mark.parametrize("absolute", ["sum", "each"])
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (3, 5, 4, 7), (2, 4, 3, 3)])
def test_similarity_is_the_loop_over_pairs(absolute, shape):
    maps = seeded(shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(cosine_similarity_loss, (maps.clone().requires_grad_(), absolute))
    maps[0, 0] = 0
    assert_close(cosine_similarity_loss(maps, absolute), torch.tensor(loop(maps, absolute), dtype=torch.float64))


def test_similarity_of_half_precision_is_computed_in_single():
    maps = seeded((2, 3, 4, 4)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine_similarity_loss(maps)
    assert found.dtype == torch.float32
    assert torch.equal(found, cosine_similarity_loss(maps.float()))


def all_maps(net, features):
    """The maps [N, K, M, h, w] of every level, by a plain convolution with all channels."""
    heads = zip((net.head, *net.level_heads), net.feature_stages, strict=True)
    return [head.class_maps(features[stage]).unflatten(1, (-1, net.maps_per_class)) for head, stage in heads]


@pytest.mark.parametrize("maps_per_class", [2, 3, 8])
def test_losses_are_those_of_all_maps(batch, maps_per_class):
    net, state = build(maps_per_class=maps_per_class, absolute="each").train(), TrainState(0, 1, 3, 10, seed=7)
    for module in net.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    found = net.training_step(batch, state)
    levels = all_maps(net, net.features(batch.image))
    labels = [batch.label, *PARENTS[:, batch.label]]
    for name, maps, label in zip(("loss_cls", "loss_cls_1", "loss_cls_2"), levels, labels, strict=True):
        assert_close(found[name], functional.cross_entropy(maps.mean((2, 3, 4)), label))
    top = levels[-1].shape[-2:]
    mine = [
        functional.interpolate(maps[range(6), label], top, mode="bilinear", align_corners=True)
        for maps, label in zip(levels, labels, strict=True)
    ]
    drawn = torch.randperm(3 * maps_per_class, generator=state.generator())[: int(1.5 * maps_per_class)]
    assert len(drawn) == {2: 3, 3: 4, 8: 12}[maps_per_class]
    assert_close(found["loss_cos"], torch.tensor(loop(torch.cat(mine, 1)[:, drawn], "each"), dtype=torch.float64))
    classified = found["loss_cls"] + found["loss_cls_1"] + found["loss_cls_2"]
    assert_close(found["loss"], classified / 2 + 0.01 * found["loss_cos"])


def test_without_levels_all_maps_of_the_true_class_differ(batch, state):
    net = build(PARENTS[:0], maps_per_class=4).eval()
    found = net.training_step(batch, state)
    (maps,) = all_maps(net, net.features(batch.image))
    assert_close(found["loss_cos"], torch.tensor(loop(maps[range(6), batch.label], "sum"), dtype=torch.float64))
    assert_close(found["loss"], found["loss_cls"] / 2 + 0.01 * found["loss_cos"])


def test_every_step_draws_other_maps_and_every_process_the_same(batch):
    net = build(maps_per_class=8).eval()
    losses = [net.training_step(batch, TrainState(0, 1, step, 10))["loss_cos"] for step in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    halves = [Batch(batch.image[part], batch.label[part], batch.image_id[part]) for part in (slice(0, 3), slice(3, 6))]
    parts = [net.training_step(half, TrainState(0, 1, 0, 10))["loss_cos"] for half in halves]
    assert_close(sum(parts) / 2, losses[0])


def expected_map(net, batch, index, species, family, order):
    levels = all_maps(net, net.features(batch.image))
    top = levels[-1].shape[-2:]
    total = torch.zeros(top, dtype=torch.float64)
    for maps, which in zip(levels, (species, family, order), strict=True):
        mean = maps[index, which].relu().mean(0)[None, None]
        total += functional.interpolate(mean, top, mode="bilinear", align_corners=True)[0, 0]
    return (total - total.min()) / (total.max() - total.min())


@torch.no_grad()
def ranks(net, batch, index):
    """The classes of each level in the order of their logits."""
    return [
        maps.mean((2, 3, 4))[index].argsort(descending=True).tolist()
        for maps in all_maps(net, net.features(batch.image))
    ]


@torch.no_grad()
@pytest.mark.parametrize("ancestors", ["rank", "label"])
def test_predicted_classes_are_added_to_what_has_their_rank_or_to_their_own(batch, ancestors):
    net = build(maps_per_class=3, ancestors=ancestors).eval()
    found = net.localize(batch.image, topk=5)
    for index in range(len(batch.image)):
        species, family, order = ranks(net, batch, index)
        assert found.classes[index].tolist() == species
        for rank, one in enumerate(species):
            own = PARENTS[:, one].tolist()
            # There are three families and two orders: beyond the last one, a species has its own.
            ranked = [
                level[rank] if rank < len(level) else mine for level, mine in zip((family, order), own, strict=True)
            ]
            expected = expected_map(net, batch, index, one, *(ranked if ancestors == "rank" else own))
            assert_close(found.localization_map[index, rank], expected)


@torch.no_grad()
def test_a_class_that_is_asked_for_has_its_own_ancestors_unless_it_is_the_most_likely_one(batch):
    net = build(maps_per_class=3).eval()
    for index in range(len(batch.image)):
        species, family, order = ranks(net, batch, index)
        for one in range(5):
            label = torch.full((6,), one)
            above = (family[0], order[0]) if one == species[0] else PARENTS[:, one].tolist()
            expected = expected_map(net, batch, index, one, *above)
            assert_close(net.localize(batch.image, label, topk=0).localization_map[index, 0], expected)
            # By another view of the images, it is the most likely one.
            other = functional.one_hot(label, 5).double()
            expected = expected_map(net, batch, index, one, family[0], order[0])
            found = net.localize(batch.image, label, topk=2, ranking=other)
            assert_close(found.localization_map[index, 0], expected)
            assert found.classes[index].tolist() == [one, *species[:2]]


@torch.no_grad()
def test_the_linear_head_has_the_logits(batch):
    net = build(maps_per_class=3).eval()
    head = net.linear_head(net.features(batch.image))
    assert_close(head.logits(), net.classify(batch.image))
    (maps, *_) = all_maps(net, net.features(batch.image))
    assert_close(head.class_maps(batch.label[:, None])[:, 0], maps[range(6), batch.label].mean(1))


@torch.no_grad()
def test_levels_are_shown_for_people(batch):
    found = build().eval().evidence(batch.image, batch.label)
    assert [maps.shape for maps in found.values()] == [(6, 4, 4), (6, 4, 4), (6, 8, 8)]
    assert all(maps.min() >= 0 and maps.max() <= 1 for maps in found.values())


@torch.no_grad()
def test_a_checkpoint_brings_the_hierarchy(batch):
    net = build().eval()
    twin = DANet(backbones.build("small"), 5, level_sizes=(3, 2), **SMALL).double().eval()
    with pytest.raises(MethodError, match="nobody has said what levels are above the classes"):
        twin.localize(batch.image, batch.label)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(*(one.localize(batch.image, batch.label, 2).localization_map for one in (net, twin)))


@pytest.mark.parametrize(
    ("layout", "sizes"), [("spa14", [14, 14, 28]), ("csoa28", [28, 28, 28]), ("stock17", [12, 25, 25])]
)
def test_maps_have_the_published_sizes(layout, sizes):
    name = "inception_v3" if layout == "stock17" else "vgg16"
    with torch.device("meta"):
        backbone = backbones.build(name, layout=layout)
    channels = [stage.channels for stage in reversed(backbone.stages)][:3]
    assert channels == ([768, 288, 192] if name == "inception_v3" else [512, 512, 256])
    strides = [stage.stride for stage in reversed(backbone.stages)][:3]
    # InceptionV3's layers without padding cut off what is missing to 28 and 14.
    assert [224 // stride - (name == "inception_v3") * (2 if stride == 16 else 3) for stride in strides] == sizes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps_per_class": 1}, "danet: maps_per_class: expected at least 2, which can differ, got 1"),
        ({"cos_weight": -1.0}, "danet: cos_weight: expected at least 0, got -1.0"),
        ({"level_channels": (8,)}, "expected one for each of 2 levels, got 2 and 1"),
        ({"level_stages": ["conv4", "conv9"]}, "danet: level_stages: no stage 'conv9'; did you mean 'conv"),
        ({"absolute": "none"}, "absolute: expected one of sum, each"),
        ({"level_sizes": (4, 2)}, r"built for 5 classes and \[4, 2\] above them, .* has 5 and \[3, 2\]"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_gradients_reach_every_parameter_of_every_level(batch, state):
    net = build(maps_per_class=2).float().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = net.training_step(batch, state)
    losses["loss"].backward()
    assert all(value.isfinite() for value in losses.values())
    assert [name for name, one in net.named_parameters() if one.grad is None or not one.grad.any()] == []
    assert all(one.grad.isfinite().all() for one in net.parameters())
