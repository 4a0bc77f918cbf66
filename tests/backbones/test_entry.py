"""A backbone entered at a stage: what stands above it, and gradients that end there."""

import copy

import pytest
import torch

from wsolfast import backbones
from wsolfast.backbones import BackboneError
from wsolfast.testing import assert_close

STAGES = ["conv2", "conv3", "conv4", "conv5"]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return backbones.build("small").double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image():
    return torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)


@pytest.mark.parametrize("stage", STAGES)
def test_what_stands_above_a_stage_is_computed_from_its_features(net, image, stage):
    whole = net(image)
    above = net.extract_from(stage, whole[stage])
    assert list(above) == STAGES[STAGES.index(stage) + 1 :]
    assert all(torch.equal(features, whole[name]) for name, features in above.items())


@pytest.mark.parametrize("stage", STAGES)
def test_a_graph_begins_at_a_stage(net, image, stage):
    found, whole = net.features_with_graph(image, stage), net.extract(net.normalize(image).requires_grad_())
    assert list(found) == STAGES
    at = STAGES.index(stage)
    assert [one.requires_grad for one in found.values()] == [False] * at + [True] * (4 - at)
    assert found[stage].is_leaf
    for name in STAGES:
        assert torch.equal(found[name], whole[name])
    weight = torch.rand_like(found["conv5"])
    gradients = [torch.autograd.grad((one["conv5"] * weight).sum(), one[stage])[0] for one in (found, whole)]
    assert_close(*gradients)
    assert gradients[0].any()


def test_what_is_inserted_stands_above_its_stage_no_more(image):
    net = backbones.build("small").eval()
    net.insert("conv4", "doubled", torch.nn.Conv2d(96, 96, 1, groups=96, bias=False))
    leaf = net.features_with_graph(image, "conv4")["conv4"]
    assert torch.equal(leaf, net(image)["conv4"])
    assert list(net.extract_from("conv4", leaf)) == ["conv5"]


@pytest.mark.parametrize(
    "name", ["googlenet", "inception_v3", "mobilenet_v1", "mobilenet_v2", "resnet50", "squeezenet1_1", "vgg16"]
)
def test_no_layer_above_a_stage_writes_into_it(name):
    """A ReLU in place would be an error, since the stage is a leaf; what the numbers are plays no role."""
    with torch.device("meta"):
        net = backbones.build(name, layout=backbones.list_layouts(name)[-1]).eval().requires_grad_(False)
        image = torch.empty(1, 3, 107, 75, dtype=torch.uint8)
    for stage in net.stages:
        found = net.features_with_graph(image, stage.name)
        (gradient,) = torch.autograd.grad(found[net.stages[-1].name].sum(), found[stage.name])
        assert gradient.shape == found[stage.name].shape


@pytest.mark.parametrize("training", [False, True])
def test_constant_layers_give_the_features_and_gradients_of_a_copy_and_do_not_train(image, training):
    torch.manual_seed(0)
    net = backbones.build("small").double().train(training)
    features = net(image)["conv3"].detach().requires_grad_()
    twin = copy.deepcopy(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found, expected = net.extract_from("conv3", features, constant=True), twin.extract_from("conv3", features)
    assert list(found) == ["conv4", "conv5"]
    for stage in found:
        assert torch.equal(found[stage], expected[stage])
    gradients = [torch.autograd.grad(one["conv5"].square().sum(), features)[0] for one in (found, expected)]
    assert torch.equal(*gradients)
    net.extract_from("conv3", features, constant=True)["conv5"].sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(twin.conv4[1].running_mean, before["conv4.1.running_mean"]) != training


def test_a_stage_that_is_not_there_is_named(net, image):
    for enter in (lambda: net.extract_from("conv9", image), lambda: net.features_with_graph(image, "conv9")):
        with pytest.raises(BackboneError, match="no stage 'conv9' to start from; there are conv2, conv3, conv4, conv5"):
            enter()
