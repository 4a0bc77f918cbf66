"""BagCAMs against its formula, with rectifiers that clip negative gradients by a function of their own."""

import warnings

import pytest
import torch
from torch import nn

from wsolfast import backbones
from wsolfast.methods import Refined, get_stage
from wsolfast.refinements import get_refinement
from wsolfast.testing import assert_close

STAGES = (backbones.StageInfo("conv4", 6, 8), backbones.StageInfo("conv5", 6, 8))


class GuidedReLU(nn.Module):
    """A ReLU whose backward pass lets positive gradients through alone."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient.clamp(min=0) * (x > 0)

    def forward(self, x):
        return self.Function.apply(x)


def build(**options):
    torch.manual_seed(0)
    method = get_stage("cam")(backbones.build("small"), 5, **options).double().eval().requires_grad_(False)
    # Logits that are positive have a logarithm.
    method.head.classifier.bias.fill_(20)
    return method


def of_image(features, gradient, score):
    """The formula for one image, channel by channel: A and the gradient of the logit [C, h, w]."""
    total = torch.zeros_like(features[0])
    for a, g in zip(features, gradient / max(abs(score), 1e-6), strict=True):
        regional = 1 + (g * a).mean()
        total += (regional * g * a).clamp(min=0)
    return total


def scaled(one):
    return (one - one.min()) / (one.max() - one.min())


def expected_maps(method, image, layer, classes, guided):
    if guided:
        for path, module in list(method.named_modules()):
            if isinstance(module, nn.ReLU):
                method.set_submodule(path, GuidedReLU())
    maps = torch.zeros(*classes.shape, *method.backbone(image)[layer].shape[2:], dtype=torch.float64)
    for n in range(len(image)):
        leaf = method.backbone(image[n : n + 1])[layer].requires_grad_()
        last = leaf if layer == "conv5" else method.backbone.extract_from(layer, leaf)["conv5"]
        logits = method.classify_features({"conv5": last})
        for m, k in enumerate(classes[n]):
            gradient = torch.autograd.grad(logits[0, k], leaf, retain_graph=True)[0]
            maps[n, m] = scaled(of_image(leaf.detach()[0], gradient[0], logits[0, k].item()))
    return maps


def test_hand_checked_values():
    features = torch.tensor([[2.0, 0], [1, 3]], dtype=torch.float64).view(1, 2, 1, 2)
    gradient = torch.tensor([[0.5, 0.1], [-0.2, 0.4]], dtype=torch.float64).view(1, 2, 1, 2)
    found = get_refinement("bagcams")(STAGES).of_class(features, gradient, torch.tensor([2.0], dtype=torch.float64))
    assert_close(found.flatten(), torch.tensor([0.625, 0.75]))


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("layer", ["conv3", "conv4", "conv5"])
@pytest.mark.parametrize("head", ["linear", "conv2"])
def test_equals_the_formula(layer, guided, head, batch):
    options = {} if head == "linear" else {"head": "conv2", "hidden_channels": 16}
    image = batch.image[:2, :, :48]
    found = Refined(build(**options), "bagcams", layer=layer, guided=guided).localize(image, batch.label[:2], topk=1)
    assert_close(found.localization_map, expected_maps(build(**options), image, layer, found.classes, guided))


def test_clipping_matters_at_an_inner_layer_and_not_at_the_last(batch):
    maps = {
        (layer, guided): Refined(build(), "bagcams", layer=layer, guided=guided)
        .localize(batch.image, batch.label)
        .localization_map
        for layer in ("conv4", "conv5")
        for guided in (True, False)
    }
    assert torch.equal(maps["conv5", True], maps["conv5", False])
    assert not torch.allclose(maps["conv4", True], maps["conv4", False], atol=1e-2)  # differences that are seen


def test_by_default_the_layer_before_the_last_is_read_and_clipped(batch):
    plain = Refined(build(), "bagcams").localize(batch.image, batch.label)
    named = Refined(build(), "bagcams", layer="conv4", guided=True).localize(batch.image, batch.label)
    assert torch.equal(plain.localization_map, named.localization_map)


def test_a_logit_that_is_not_positive_is_told(batch):
    method = build()
    method.head.classifier.bias.fill_(-20)
    refined = Refined(method, "bagcams", guided=False)
    with pytest.warns(UserWarning, match="bagcams: a logit is not positive; the logarithm of its absolute value is us"):
        found = refined.localize(batch.image[:2], batch.label[:2], topk=0)
    expected = expected_maps(method, batch.image[:2], "conv4", found.classes, guided=False)
    assert_close(found.localization_map, expected)


def test_a_logit_of_zero_gives_a_finite_map():
    features, gradient = torch.ones(1, 1, 1, 2), torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
    with pytest.warns(UserWarning, match="not positive"):
        assert get_refinement("bagcams")(STAGES).of_class(features, gradient, torch.zeros(1)).isfinite().all()


def test_positive_logits_are_not_told(batch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Refined(build(), "bagcams").localize(batch.image, batch.label)


def test_without_clipping_rectifiers_are_as_they_were(batch):
    """The mode ends with the map."""
    method = build()
    Refined(method, "bagcams").localize(batch.image, batch.label)
    x = torch.tensor([1.0, -1], requires_grad=True)
    (torch.relu(x) * torch.tensor([-2.0, 1])).sum().backward()
    assert x.grad.tolist() == [-2, 0]
