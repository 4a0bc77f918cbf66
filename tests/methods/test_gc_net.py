import math

import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.engine.assembly.optimizer import build_optimizer, rate_at
from wsolfast.methods import MethodError, get_stage
from wsolfast.methods._shape_generator import ShapeGenerator, squared_dice_loss
from wsolfast.methods._shapes import shape_boxes
from wsolfast.methods.gc_net import entropy
from wsolfast.recipe import load_recipe
from wsolfast.testing import assert_close
from wsolfast.types import TrainState

GCNet = get_stage("gc_net")
CLASSES = 5


def classifier_of(num_classes=CLASSES):
    torch.manual_seed(1)
    return get_stage("cam")(backbones.build("small"), num_classes).double().eval().requires_grad_(False)


def build(**options):
    """A detector with its classifier, in double precision."""
    torch.manual_seed(0)
    net = GCNet(backbones.build("small"), CLASSES, **options).double()
    net.take_network("classifier", classifier_of())
    return net


def answering(net, parameters):
    """The same detector, which finds one and the same shape in every image."""
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor(parameters, dtype=torch.float64).logit())
    return net


def expected_losses(net, batch, parameters):
    """The losses written out, on the normalised image, with one pass of the classifier for each view."""
    classifier = net.frozen["classifier"]
    image = classifier.backbone.normalize(batch.image.double() / 255)
    mask = net.mask(parameters, image.shape[2:])[:, None]
    of_object, of_rest = (
        classifier.classify_features(classifier.backbone.extract(view)) for view in (image * mask, image * (1 - mask))
    )
    loss_obj = loss_back = loss_area = 0.0
    for n, label in enumerate(batch.label.tolist()):
        loss_obj = loss_obj - of_object[n].log_softmax(0)[label]
        p = of_rest[n].softmax(0)
        loss_back = loss_back + math.log(CLASSES) + sum(p[k] * p[k].log() for k in range(CLASSES))
        loss_area = loss_area + parameters[n, 2] * parameters[n, 3]
    count = len(batch.label)
    return {"loss_obj": loss_obj / count, "loss_back": loss_back / count, "loss_area": loss_area / count}


@pytest.mark.parametrize("shape", ["rectangle", "rotated_rectangle", "ellipse"])
def test_losses_and_gradients_are_those_of_two_passes_over_the_normalised_image(batch, state, shape):
    net = build(shape=shape, back_weight=0.7, area_weight=1.5).eval()
    found = net.training_step(batch, state)
    expected = expected_losses(net, batch, net.detect(net.features(batch.image)))
    for name, loss in expected.items():
        assert_close(found[name], loss)
    total = expected["loss_obj"] + 0.7 * expected["loss_back"] + 1.5 * expected["loss_area"]
    assert_close(found["loss"], total)
    for mine, theirs in zip(
        torch.autograd.grad(found["loss"], [*net.head.parameters(), net.sharpness]),
        torch.autograd.grad(total, [*net.head.parameters(), net.sharpness]),
        strict=True,
    ):
        assert_close(mine, theirs)


@pytest.mark.parametrize(("back_weight", "views"), [(0.0, 1), (1.0, 2)])
def test_the_classifier_sees_the_rest_only_where_it_counts(batch, state, monkeypatch, back_weight, views):
    net, seen = build(back_weight=back_weight), []
    classifier = net.frozen["classifier"]
    classify = classifier.classify
    monkeypatch.setattr(classifier, "classify", lambda image: seen.append(len(image)) or classify(image))
    assert ("loss_back" in net.training_step(batch, state)) == bool(back_weight)
    assert seen == [views * len(batch.image)]


def test_the_classifier_stands_still(batch, state):
    net = build()
    classifier = net.frozen["classifier"]
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    net.train()
    net.training_step(batch, state)["loss"].backward()
    assert not any(module.training for module in classifier.modules())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert len(net.state_dict()) == len(net.backbone.state_dict()) + 3


def test_a_uniform_background_costs_nothing_and_a_sure_one_log_k():
    logits = torch.zeros(3, CLASSES, dtype=torch.float64)
    assert_close(entropy(logits), torch.tensor(math.log(CLASSES), dtype=torch.float64))
    logits[:, 0] = 800.0
    assert entropy(logits).item() == 0


def test_boxes_are_those_of_the_shape_in_pixels_of_the_image():
    parameters = [0.4, 0.5, 0.5, 0.3, 0.6]
    net = answering(build(shape="ellipse"), parameters).eval()
    image = torch.randint(0, 256, (2, 3, 48, 80), dtype=torch.uint8)
    found = net.localize(image, torch.tensor([3, 1]), topk=2)
    expected = shape_boxes(torch.tensor([parameters], dtype=torch.float64), "ellipse", (48, 80))
    assert found.logits is None
    assert found.classes.tolist() == [[3], [1]]
    assert_close(found.boxes, expected.expand(2, 1, 4))
    assert net.localize(image).classes.tolist() == [[-1], [-1]]


def test_a_rectangle_reaches_over_the_border_by_what_it_says():
    net = answering(build(), [0.9, 0.5, 0.4, 0.5]).eval()
    found = net.localize(torch.zeros(1, 3, 32, 64, dtype=torch.uint8)).boxes[0, 0]
    assert_close(found, torch.tensor([0.7 * 64, 8.0, 1.1 * 64, 24.0], dtype=torch.float64))


@pytest.mark.parametrize("grid", [1, 3])
def test_the_head_reads_the_grid(batch, grid):
    net = build(grid=grid).eval()
    features = net.features(batch.image)
    pooled = functional.adaptive_avg_pool2d(features[net.last_stage], grid)
    assert_close(net.detect(features), net.head(pooled.flatten(1)).sigmoid())


def test_objects_are_found_in_bfloat16_as_well(batch, state):
    net = GCNet(backbones.build("small"), CLASSES)
    net.take_network("classifier", classifier_of().float())
    with torch.autocast("cpu", torch.bfloat16):
        losses = net.training_step(batch, state)
        assert net.detect(net.features(batch.image)).dtype == torch.float32
    losses["loss"].backward()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_rates_are_the_released_ones():
    stage = load_recipe("gc_net_cub_vgg16").stage[1]
    with torch.device("meta"):
        net = GCNet(backbones.build("vgg16", layout="stride32", weights="none"), CLASSES, **stage.model)
    optimizer = build_optimizer(net, stage.optim, "optim")
    factors = {group["name"]: (group["lr_factor"], len(group["params"])) for group in optimizer.param_groups}
    # The sharpness learns as the weight of the last layer does.
    assert factors["head_weight"] == (10.0, 2)
    assert factors["head_bias"] == (20.0, 1)
    assert (factors["backbone_weight"][0], factors["backbone_bias"][0]) == (1.0, 2.0)
    rates = [rate_at(stage.schedule, epoch * 7, 7, stage.epochs) for epoch in range(stage.epochs)]
    assert rates[:21] == [1.0] * 21
    for epoch in range(21, 30):
        assert rates[epoch] == pytest.approx(rates[epoch - 1] * (30 - epoch) / 10)
    assert rates[29] == pytest.approx(3.6e-4, abs=5e-6)  # two digits are given


def test_a_step_without_a_classifier_says_how_to_give_one(batch, state):
    net = GCNet(backbones.build("small"), CLASSES)
    with pytest.raises(MethodError, match=r"gc_net: has no classifier .* networks = {classifier = \"STAGE\"}$"):
        net.training_step(batch, state)


def test_a_classifier_of_other_classes_is_refused(batch, state):
    net = build()
    net.take_network("classifier", classifier_of(7))
    with pytest.raises(MethodError, match=r"^gc_net: classifier: it knows 7 classes, expected 5$"):
        net.training_step(batch, state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "circle"}, "gc_net: shape: .*circle"),
        ({"grid": 0}, "gc_net: grid: expected at least 1, got 0"),
        ({"back_weight": -1.0}, "gc_net: back_weight: expected at least 0, got -1.0"),
        ({"area_weight": -0.5}, "gc_net: area_weight: expected at least 0, got -0.5"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def generator_of(shape="rectangle"):
    torch.manual_seed(2)
    return ShapeGenerator(backbones.build("small"), CLASSES, shape=shape)


def taught_by_a_generator(**options):
    net = build(generator="cnn", **options).float()
    net.take_network("classifier", classifier_of().float())
    net.take_network("generator", generator_of(net.shape).eval().requires_grad_(False))
    return net


def test_the_dice_loss_squares_its_denominator():
    mask, truth = torch.tensor([[[0.5, 0.2], [1.0, 0.0]]]), torch.tensor([[[True, False], [True, True]]])
    expected = 1 - (2 * 1.5 + 1) / (0.25 + 0.04 + 1 + 3 + 1)
    assert squared_dice_loss(mask, truth).item() == pytest.approx(expected)
    assert squared_dice_loss(torch.zeros(2, 3, 3), torch.zeros(2, 3, 3, dtype=torch.bool)) == 0


@pytest.mark.parametrize(("shape", "count"), [("rectangle", 4), ("ellipse", 5)])
def test_the_generator_has_the_released_layers(shape, count):
    net = generator_of(shape)
    sizes = [list(parameter.shape) for name, parameter in net.named_parameters() if "backbone" not in name]
    assert [size for size in sizes if len(size) > 1] == [
        [144, count],
        [1, 256, 3, 3],
        [256, 128, 4, 4],
        [128, 64, 4, 4],
        [64, 1, 4, 4],
    ]
    assert net.seed_map(torch.rand(2, count)).shape == (2, 1, 12, 12)
    assert [net.layers[:stop](torch.rand(2, 1, 12, 12)).shape[1:] for stop in (3, 6, 9)] == [
        (256, 14, 14),
        (128, 28, 28),
        (64, 56, 56),
    ]
    assert net.draw(torch.rand(2, count)).shape == (2, 224, 224)


def test_the_generator_learns_to_draw_six_shapes(batch, state):
    net = generator_of().train()
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(12):
        losses.append(net.training_step(batch, state)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_shapes_that_are_drawn_depend_on_the_image_and_the_step_alone(batch, state):
    net = generator_of().eval()
    whole = net.training_step(batch, state)["loss"]
    assert torch.equal(whole, net.training_step(batch, state)["loss"])
    assert not torch.equal(whole, net.training_step(batch, TrainState(0, 1, 1, 10))["loss"])


def test_a_generator_draws_what_the_classifier_sees_and_stands_still(batch, state):
    net = taught_by_a_generator()
    net.train()
    net.training_step(batch, state)["loss"].backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in net.head.parameters())
    assert all(parameter.grad is None for parameter in net.frozen["generator"].parameters())
    parameters = torch.rand(2, 4)
    drawn = functional.interpolate(net.frozen["generator"].draw(parameters)[:, None], (64, 64), mode="bilinear")
    assert torch.equal(net.mask(parameters, (64, 64)), drawn[:, 0])


def test_a_rectangle_of_the_generator_is_described_by_half_its_extents():
    parameters = [0.5, 0.5, 0.2, 0.3]
    image = torch.zeros(1, 3, 40, 80, dtype=torch.uint8)
    found = answering(taught_by_a_generator(), parameters).eval().localize(image).boxes[0, 0]
    assert_close(found, torch.tensor([0.3 * 80, 0.2 * 40, 0.7 * 80, 0.8 * 40]))
    turned = answering(taught_by_a_generator(shape="ellipse"), [*parameters, 0.5]).eval().localize(image).boxes[0, 0]
    assert_close(turned, torch.tensor([0.4 * 80, 0.35 * 40, 0.6 * 80, 0.65 * 40]))


def test_a_generator_of_another_shape_is_refused():
    net = build(generator="cnn")
    assert net.networks == ("classifier", "generator")
    with pytest.raises(
        ValueError, match=r"^gc_net: expected a ShapeGenerator of shape 'rectangle', got shape 'ellipse'$"
    ):
        net.take_network("generator", generator_of("ellipse"))
    with pytest.raises(ValueError, match=r"of shape 'rectangle', got CAM$"):
        net.take_network("generator", classifier_of())
