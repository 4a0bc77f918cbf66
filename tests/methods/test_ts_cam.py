import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.backbones import CLASS_ATTENTION
from wsolfast.methods import get_stage
from wsolfast.methods._coupled_maps import maps_of_classes, mean_of_convolution
from wsolfast.testing import assert_close, seeded


def build(method="ts_cam", num_classes=5):
    torch.manual_seed(0)
    return get_stage(method)(backbones.build("small_vit", input_size=32), num_classes).double().eval()


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "shape", [(2, 6, 14, 14), (3, 4, 5, 7), (1, 1, 1, 1), (2, 3, 1, 4), (1, 2, 3, 1), (0, 2, 3, 3)]
)
def test_logits_are_the_means_of_the_convolution(shape):
    width = shape[1]
    features, weight = seeded(shape, dtype=torch.float64), seeded((7, width, 3, 3), dtype=torch.float64)
    bias = seeded((7,), dtype=torch.float64)
    expected = functional.conv2d(features, weight, bias, padding=1).mean((2, 3))
    found = mean_of_convolution(features, weight, bias)
    # Sums in another order: a few units in the last place of sums that are around 1.
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=5e-15)


def test_nine_sums_are_exact_to_the_last_place():
    """Of values whose sums are exact in any order, nothing but the division rounds."""
    features = torch.randint(-8, 9, (2, 4, 16, 16), generator=torch.Generator().manual_seed(0)).double()
    weight = torch.randint(-8, 9, (5, 4, 3, 3), generator=torch.Generator().manual_seed(1)).double()
    bias = torch.arange(5).double()
    expected = functional.conv2d(features, weight, bias, padding=1).mean((2, 3))
    # Whole numbers: nothing is rounded but the mean.
    torch.testing.assert_close(mean_of_convolution(features, weight, bias), expected, rtol=2e-16, atol=0)


def test_gradients_of_logits_are_those_of_the_convolution():
    inputs = [seeded(shape, dtype=torch.float64).requires_grad_() for shape in ((2, 3, 4, 5), (6, 3, 3, 3), (6,))]
    features, weight, bias = inputs
    pull = seeded((2, 6), dtype=torch.float64)
    expected = torch.autograd.grad(
        (functional.conv2d(features, weight, bias, padding=1).mean((2, 3)) * pull).sum(), inputs
    )
    found = torch.autograd.grad((mean_of_convolution(features, weight, bias) * pull).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("shape", [(2, 6, 4, 5), (1, 1, 1, 1), (0, 2, 3, 3)])
def test_maps_of_wanted_classes_are_those_of_the_convolution(shape):
    count, width, *_ = shape
    features, weight = seeded(shape, dtype=torch.float64), seeded((7, width, 3, 3), dtype=torch.float64)
    bias = seeded((7,), dtype=torch.float64)
    classes = torch.tensor([[3, 0, 3], [6, 5, 1]])[:count]
    every = functional.conv2d(features, weight, bias, padding=1)
    expected = every.gather(1, classes[:, :, None, None].expand(-1, -1, *shape[2:]))
    assert_close(maps_of_classes(features, weight, bias, classes), expected)


@pytest.mark.parametrize(("method", "scaled"), [("ts_cam", False), ("scm", True)])
@torch.no_grad()
def test_maps_are_attention_times_class_maps(method, scaled, images):
    net = build(method)
    label = torch.tensor([4, 2])
    found = net.localize(images, label, topk=2)
    features = net.backbone(images)
    every = net.head(features[net.last_stage])
    assert_close(found.logits, every.mean((2, 3)))
    attention = features[CLASS_ATTENTION].mean(2).sum(1)
    if scaled:
        low, high = attention.amin((1, 2), keepdim=True), attention.amax((1, 2), keepdim=True)
        attention = (attention - low) / (high - low)
    for image, classes in enumerate(found.classes):
        for place, number in enumerate(classes.tolist()):
            product = attention[image] * every[image, number]
            expected = (product - product.min()) / (product.max() - product.min())
            assert_close(found.localization_map[image, place], expected)
    assert torch.equal(found.classes[:, 0], label)
    assert torch.equal(found.classes[:, 1:], every.mean((2, 3)).topk(2).indices)


@torch.no_grad()
def test_the_linear_head_is_the_convolution_over_windows(images):
    net = build()
    features = net.features(images)
    head = net.linear_head(features)
    classes = torch.tensor([[0, 3], [4, 4]])
    assert_close(head.logits(), net.classify_features(features))
    every = net.head(features[net.last_stage])
    expected = every.gather(1, classes[:, :, None, None].expand(-1, -1, *every.shape[2:]))
    assert_close(head.class_maps(classes), expected)


def test_training_computes_no_attention(images):
    net = build().train()
    assert CLASS_ATTENTION not in net.features(images)
    assert CLASS_ATTENTION in net.eval().features(images)


def test_the_head_starts_as_a_convolution_does():
    torch.manual_seed(3)
    expected = torch.nn.Conv2d(96, 5, 3, padding=1)
    backbone = backbones.build("small_vit", input_size=32)
    torch.manual_seed(3)
    found = get_stage("ts_cam")(backbone, 5).head
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.bias, expected.bias)
