"""Thresholded average pooling: logits come from it, maps do not."""

import pytest
import torch

from wsolfast import backbones
from wsolfast.methods import Refined, get_stage
from wsolfast.refinements import thresholded_mean
from wsolfast.testing import assert_close, seeded


def build(method="cam", **options):
    torch.manual_seed(0)
    return get_stage(method)(backbones.build("small"), 5, **options).double().eval()


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, 1.4), (0.1, 2.0)])
def test_pooled_values_by_hand(threshold, expected):
    features = torch.tensor([[[[3.0, 1.0], [0.2, 0.0]]]], dtype=torch.float64)
    assert_close(thresholded_mean(features, threshold), torch.tensor([[expected]], dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 1, 1), (0, 3, 2, 2)])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.9])
def test_pooling_is_the_loop_over_channels(shape, threshold):
    features = seeded(shape, dtype=torch.float64)
    expected = torch.zeros(shape[:2], dtype=torch.float64)
    for n in range(shape[0]):
        for c in range(shape[1]):
            values = features[n, c].flatten().tolist()
            counted = [value for value in values if value > threshold * max(values)]
            expected[n, c] = sum(counted) / max(1, len(counted))
    assert_close(thresholded_mean(features, threshold), expected)


def test_a_dead_channel_counts_nothing():
    assert not thresholded_mean(-torch.ones(1, 2, 3, 3), 0.1).any()
    assert not thresholded_mean(torch.zeros(1, 2, 3, 3), 0.1).any()


def test_gradients_pass_through_the_mean_alone():
    features = torch.tensor([[[[3.0, 1.0], [0.2, 0.0]]]], dtype=torch.float64, requires_grad=True)
    thresholded_mean(features, 0.1).sum().backward()
    assert features.grad.tolist() == [[[[0.5, 0.5], [0.0, 0.0]]]]
    assert torch.autograd.gradcheck(
        lambda x: thresholded_mean(x, 0.4), seeded((2, 3, 3, 4), dtype=torch.float64).requires_grad_()
    )


@pytest.mark.parametrize("method", ["cam", "adl"])
@torch.no_grad()
def test_scores_are_pooled_and_maps_are_not(method, batch):
    plain, tap = build(method), build(method, pool="tap", tap_threshold=0.2)
    features = plain.backbone(batch.image)["conv5"]
    pooled = thresholded_mean(features, 0.2) @ plain.head.classifier.weight.flatten(1).T + plain.head.classifier.bias
    assert_close(tap.classify(batch.image), pooled)
    found, expected = (net.localize(batch.image, batch.label, 0).localization_map for net in (tap, plain))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["grad_cam", "hires_cam", "layer_cam", "grad_cam_pp", "bagcams"])
def test_gradient_maps_know_how_logits_are_pooled(name, batch):
    net = build(pool="tap", tap_threshold=0.3)
    closed = Refined(net, name, **({"layer": "conv5"} if name == "bagcams" else {})).eval()
    by_autograd = Refined(net, name, layer="conv5").eval()
    found, expected = (one.localize(batch.image, batch.label, 1).localization_map for one in (closed, by_autograd))
    assert_close(found, expected)


def test_a_threshold_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"tap_threshold: expected a value in \[0, 1\), got 1"):
        build(pool="tap", tap_threshold=1.0)
