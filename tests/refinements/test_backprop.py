"""Backprop against autograd, and its smoothing against SciPy and against loops."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from wsolfast import backbones
from wsolfast.methods import Refined, get_stage
from wsolfast.refinements.backprop import smoothed
from wsolfast.testing import assert_close, seeded


def build():
    torch.manual_seed(0)
    return get_stage("cam")(backbones.build("small"), 5).double().eval()


def scaled(one):
    return (one - one.min()) / (one.max() - one.min())


def saliency(method, image, k):
    """The largest gradient among the colours, one image and class at a time."""
    leaf = (image[None].double() / 255).requires_grad_()
    (gradient,) = torch.autograd.grad(method.classify(leaf)[0, k], leaf)
    return gradient[0].abs().max(0).values


@pytest.mark.parametrize("smooth", [0.0, 0.02])
def test_equals_autograd(smooth, batch):
    method, image = build(), batch.image[:2, :, :40]
    found = Refined(method, "backprop", smooth=smooth).localize(image, batch.label[:2], topk=1)
    assert found.localization_map.shape == (2, 2, 40, 64)
    for n in range(2):
        for m, k in enumerate(found.classes[n]):
            expected = saliency(method, image[n], k)
            if smooth:
                expected = torch.from_numpy(gaussian_filter(expected.numpy(), 0.02 * 64, mode="mirror", truncate=4))
            assert_close(found.localization_map[n, m], scaled(expected))


def test_floating_point_images_give_the_maps_of_bytes(batch):
    refined = Refined(build(), "backprop")
    expected = refined.localize(batch.image, batch.label)
    found = refined.localize(batch.image / 255, batch.label)
    # Pixels are divided by 255 in float32.
    assert_close(found.localization_map, expected.localization_map, tolerance=1e-5)


def test_the_image_that_is_given_is_left_alone(batch):
    image = batch.image / 255
    before = image.clone()
    Refined(build(), "backprop").localize(image, batch.label)
    assert torch.equal(image, before)
    assert not image.requires_grad


def mirrored(i, size):
    """The index that a position outside mirrors; the border itself is not repeated."""
    return -i if i < 0 else 2 * (size - 1) - i if i >= size else i


def by_loops(row, sigma):
    radius = min(round(4 * sigma), len(row) - 1)
    weights = {k: math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)}
    total = sum(weights.values())
    return [sum(w * row[mirrored(i + k, len(row))] for k, w in weights.items()) / total for i in range(len(row))]


@pytest.mark.parametrize("size", [(7, 9), (3, 12), (1, 8), (2, 1), (1, 1)])
@pytest.mark.parametrize("sigma", [0.3, 1.3])
def test_smoothing_equals_loops(size, sigma):
    maps = seeded((2, 3, *size), dtype=torch.float64)
    found = smoothed(maps, sigma)
    for n in range(2):
        for m in range(3):
            columns = [by_loops(column, sigma) for column in maps[n, m].T.tolist()]
            expected = [by_loops(row, sigma) for row in torch.tensor(columns, dtype=torch.float64).T.tolist()]
            assert_close(found[n, m], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_a_narrow_gaussian_leaves_maps_alone(sigma):
    maps = seeded((1, 2, 6, 5))
    assert torch.equal(smoothed(maps, sigma), maps)


def test_a_constant_map_stays_constant():
    assert_close(smoothed(torch.full((1, 1, 9, 4), 2.5), 1.5), torch.full((1, 1, 9, 4), 2.5))


@pytest.mark.parametrize("smooth", [-0.01, 0.2])
def test_a_width_out_of_range_is_refused(smooth):
    with pytest.raises(ValueError, match=rf"backprop: smooth: expected a share in \[0, 0.1\], got {smooth}"):
        Refined(build(), "backprop", smooth=smooth)
