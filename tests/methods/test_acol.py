import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.methods.acol import erase
from wsolfast.testing import assert_close, seeded

ACoL = get_stage("acol")


def model(**options):
    torch.manual_seed(0)
    return ACoL(backbones.build("small"), 5, **{"head": "linear"} | options).double().eval()


def score_map(cam):
    low, high = cam.min(), cam.max()
    return (cam - low) / (high - low) if high > low else torch.zeros_like(cam)


def erased_by_loop(features, score, threshold):
    result = features.clone()
    for y in range(features.shape[1]):
        for x in range(features.shape[2]):
            if score[y, x] >= threshold:
                result[:, y, x] = 0
    return result


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
def test_both_losses_are_those_of_the_loop_over_images(batch, state, threshold):
    net = model(erase_threshold=threshold)
    losses = net.training_step(batch, state)
    features = net.backbone(batch.image)["conv5"]
    logits, second = [], []
    for n, label in enumerate(batch.label):
        maps = net.head.class_maps(features[n : n + 1])[0]
        logits.append(maps.mean((1, 2)))
        left = erased_by_loop(features[n], score_map(maps[label]), threshold)
        second.append(net.second_head.class_maps(left[None])[0].mean((1, 2)))
    assert_close(losses["loss_cls"], functional.cross_entropy(torch.stack(logits), batch.label))
    assert_close(losses["loss_cls_second"], functional.cross_entropy(torch.stack(second), batch.label))
    assert_close(losses["loss"], losses["loss_cls"] + losses["loss_cls_second"])


@pytest.mark.parametrize("label", [True, False])
@torch.no_grad()
def test_every_class_gets_the_larger_of_its_two_maps(batch, label):
    net = model(erase_threshold=0.6)
    found = net.localize(batch.image, batch.label if label else None, topk=2)
    features = net.backbone(batch.image)["conv5"]
    assert found.classes.shape == (6, 2 + label)
    for n in range(6):
        for m, k in enumerate(found.classes[n]):
            first = score_map(net.head.class_maps(features[n : n + 1])[0, k])
            left = erased_by_loop(features[n], first, 0.6)
            second = score_map(net.second_head.class_maps(left[None])[0, k])
            assert_close(found.localization_map[n, m], torch.maximum(first, second))


def test_second_classifier_teaches_the_features_but_not_the_first_one(batch, state):
    net = model(erase_threshold=0.5)
    net.training_step(batch, state)["loss_cls_second"].backward()
    assert all(parameter.grad is None for parameter in net.head.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in net.backbone.parameters())


def test_gradients_are_those_of_finite_differences():
    features = seeded((2, 3, 3, 4), dtype=torch.float64).requires_grad_()
    score = seeded((2, 1, 3, 4), dtype=torch.float64, seed=1).sigmoid()
    assert torch.autograd.gradcheck(lambda x: erase(x, score, 0.5), (features,))


@torch.no_grad()
def test_constant_maps_erase_nothing(batch, state):
    net = model(erase_threshold=0.9)
    net.head.classifier.weight.zero_()
    net.second_head.load_state_dict(net.head.state_dict())
    losses = net.training_step(batch, state)
    assert torch.equal(losses["loss_cls"], losses["loss_cls_second"])
    assert not net.localize(batch.image, batch.label).localization_map.any()


@torch.no_grad()
def test_everything_erased_leaves_the_bias_and_the_first_map(batch, state):
    net = model(erase_threshold=0.0)
    net.second_head.classifier.bias.copy_(seeded((5,)))
    bias = net.second_head.classifier.bias.expand(6, 5)
    losses = net.training_step(batch, state)
    assert_close(losses["loss_cls_second"], functional.cross_entropy(bias, batch.label))
    cam = net.head.localize(net.backbone(batch.image)["conv5"], batch.label, 0)[2]
    expected = torch.stack([score_map(one[0]) for one in cam])
    assert_close(net.localize(batch.image, batch.label, topk=0).localization_map[:, 0], expected)
