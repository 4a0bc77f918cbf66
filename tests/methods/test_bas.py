"""BAS: losses by loops, who takes gradients, and which channels are computed."""

import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import bas, get_stage
from wsolfast.metrics import get_protocol
from wsolfast.recipe import load_recipe
from wsolfast.testing import assert_close, seeded

BAS = get_stage("bas")
CLASSES = 5


def build(**options):
    torch.manual_seed(0)
    net = BAS(backbones.build("small"), CLASSES, **{"head": "conv2", "hidden_channels": 8} | options).double()
    # With scores at random most images would have a background as high; here less features score less.
    net.head.classifier.weight.data.abs_()
    return net


def still(net):
    """Let batch norms stand, which loops over images would not see."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return net


def test_values_worked_out_by_hand():
    score, background = (torch.tensor(values, dtype=torch.float64) for values in ((2, 0.5), (0.8, 0.7)))
    area = torch.tensor([0.3, 0.5], dtype=torch.float64)
    # The epsilon of the ratio moves it by 2e-9.
    assert_close(bas.suppression(score, background) + 0.7 * area, torch.tensor([0.61, 0.35], dtype=torch.float64), 1e-8)


def test_a_background_as_high_as_the_image_counts_nothing_and_teaches_nothing():
    score = torch.tensor([0.0, 2.0, 2.0, 2.0], dtype=torch.float64, requires_grad=True)
    background = torch.tensor([0.0, 2.0, 3.0, 1.0], dtype=torch.float64, requires_grad=True)
    found = bas.suppression(score, background)
    assert_close(found, torch.tensor([0.0, 0.0, 0.0, 0.5]).double(), 1e-8)  # the ratio's epsilon
    found.sum().backward()
    assert_close(background.grad, torch.tensor([0.0, 0.0, 0.0, 0.5]).double(), 1e-8)  # the same
    assert score.grad is None


@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (1, 2, 1, 1), (0, 2, 3, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_chosen_channels_are_those_of_the_convolution(shape, layout):
    features = seeded(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight, bias = (seeded(size, dtype=torch.float64).requires_grad_() for size in ((6, shape[1], 3, 3), (6,)))
    classes = torch.tensor([[1, 5], [0, 0], [5, 2]])[: shape[0]]
    found = bas.chosen_channels(features, weight, bias, classes)
    rows = torch.arange(len(classes))[:, None]
    expected = functional.conv2d(features, weight, bias, padding=1)[rows, classes]
    assert_close(found, expected)
    seed = seeded(found.shape, dtype=torch.float64)
    inputs = (features, weight, bias)
    for ours, theirs in zip(
        *(torch.autograd.grad((one * seed).sum(), inputs) for one in (found, expected)), strict=True
    ):
        assert_close(ours, theirs)


def test_foreground_scores_are_means_weighted_by_the_map_at_their_size():
    class_maps, shown = seeded((2, 3, 2, 3), dtype=torch.float64), seeded((2, 1, 4, 6), dtype=torch.float64).abs()
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for n in range(2):
        for k in range(3):
            for y in range(2):
                for x in range(3):
                    weight = shown[n, 0, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
                    expected[n, k] += class_maps[n, k, y, x] * weight / 6
    assert_close(bas.foreground_scores(class_maps, shown), expected)


@pytest.mark.parametrize(
    "options", [{}, {"foreground_loss_weight": 0.0}, {"generator_stage": "conv3", "head": "linear"}]
)
def test_losses_are_those_of_a_loop_over_images(batch, state, options):
    net = still(build(area_loss_weight=1.5, **options).train())
    found = net.training_step(batch, state)
    parts = {"cls": 0.0, "foreground": 0.0, "background": 0.0, "area": 0.0}
    plain = 0
    for image, label in zip(batch.image, batch.label, strict=True):
        features = net.backbone(image[None])
        below = features[net.generator_stage]
        shown = functional.conv2d(below, net.generator.weight, net.generator.bias, padding=1)[0, label].sigmoid()
        class_maps = net.head.classifier(net.head.hidden(features["conv5"])).relu()
        erased = net.backbone.extract_from(net.generator_stage, below * (1 - shown))["conv5"]
        score = class_maps.mean((2, 3))
        background = net.head.logits(erased)[0, label]
        parts["cls"] += functional.cross_entropy(score, label[None])
        half = functional.adaptive_avg_pool2d(shown[None, None], class_maps.shape[2:])
        parts["foreground"] += functional.cross_entropy((class_maps * half).mean((2, 3)), label[None])
        if background < score[0, label]:
            parts["background"] += background / (score[0, label] + 1e-8)
            plain += 1
        parts["area"] += shown.mean()
    assert plain  # images whose background counts
    for name, value in parts.items():
        if name != "foreground" or net.foreground_loss_weight:
            assert_close(found[f"loss_{name}"], value / len(batch.label))
    weights = {"cls": 1.0, "foreground": net.foreground_loss_weight, "background": 1.0, "area": 1.5}
    assert ("loss_foreground" in found) == bool(net.foreground_loss_weight)
    assert_close(found["loss"], sum(weights[name] * value for name, value in parts.items()) / len(batch.label))


def test_the_erased_branch_trains_the_map_alone(batch):
    """Neither the layers below, nor those above, nor the classifier: with them the class's score would collapse."""
    net = build().train()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    below = net.backbone(batch.image)["conv4"]
    moved = {name: buffer.clone() for name, buffer in net.named_buffers()}
    shown = torch.full((len(below), 1, *below.shape[2:]), 0.5, dtype=torch.float64, requires_grad=True)
    net._background_score(below, shown, batch.label).sum().backward()
    assert shown.grad.any()
    assert all(parameter.grad is None for parameter in net.parameters())
    # The pass of the whole images moves the statistics of batch norms, the erased one does not.
    assert any(not torch.equal(buffer, before[name]) for name, buffer in moved.items())
    assert all(torch.equal(buffer, moved[name]) for name, buffer in net.named_buffers())


def test_gradients_of_the_losses_reach_what_they_train(batch, state):
    net = build(foreground_loss_weight=0.0).train()
    loss = net.training_step(batch, state)["loss_background"]
    loss.backward()
    trained = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    # Through the map, which is made of the features below.
    above = ("backbone.conv5.", "head.")
    assert trained == {name for name, _ in net.named_parameters() if not name.startswith(above)}


@pytest.mark.parametrize("map_classes", [1, 3, 5, 80])
@torch.no_grad()
def test_one_map_is_the_mean_of_the_likely_classes(batch, map_classes):
    net = build(map_classes=map_classes).eval()
    found = net.localize(batch.image, batch.label, topk=2)
    of_class = build().eval().localize(batch.image, None, topk=CLASSES)
    assert torch.equal(found.logits, of_class.logits)
    assert torch.equal(found.classes[:, 1:], of_class.classes[:, :2])
    expected = of_class.localization_map[:, : min(map_classes, CLASSES)].mean(1, keepdim=True)
    assert_close(found.localization_map, expected.expand(-1, 3, -1, -1))


@torch.no_grad()
def test_a_map_of_a_class_is_its_channel_of_the_generator(batch):
    net = build().eval()
    found = net.localize(batch.image, batch.label, topk=1)
    maps = net.generator(net.backbone(batch.image)["conv4"]).sigmoid()
    assert_close(found.localization_map, maps[torch.arange(len(maps))[:, None], found.classes])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"area_loss_weight": -1.0}, "bas: area_loss_weight: expected at least 0, got -1.0"),
        ({"foreground_loss_weight": -0.5}, "bas: foreground_loss_weight: expected at least 0, got -0.5"),
        ({"map_classes": -1}, "bas: map_classes: expected at least 0, got -1"),
        ({"generator_stage": "conv5"}, "bas: generator_stage: expected one of conv2, conv3, conv4, got 'conv5'"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


# Data and network -> λ1, λ2, classes whose maps are averaged, and where the map is cut.
PUBLISHED = {
    "cub_vgg16": (0.0, 0.7, 80, 0.15),
    "cub_resnet50": (0.5, 1.2, 200, 0.15),
    "cub_inception": (0.5, 1.0, 200, 0.1),
    "cub_mobilenet_v1": (0.5, 1.5, 200, 0.15),
    "ilsvrc_vgg16": (0.05, 1.0, 0, 0.5),
    "ilsvrc_resnet50": (1.0, 2.0, 0, 0.45),
    "ilsvrc_inception": (1.0, 2.5, 0, 0.3),
    "ilsvrc_mobilenet_v1": (0.5, 1.5, 0, 0.5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_have_the_published_weights(name):
    recipe = load_recipe(f"bas_{name}")
    (stage,) = recipe.stage
    *weights, cut = PUBLISHED[name]
    options = ("foreground_loss_weight", "area_loss_weight", "map_classes")
    assert [stage.model[option] for option in options] == weights
    assert cut in get_protocol(recipe.evaluate.protocol).thresholds
    assert stage.backbone.layout == "bas14"
    assert (stage.epochs, stage.batch_size) == ((9, 128) if "ilsvrc" in name else (100, 32))
