import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from wsolfast import ops
from wsolfast.ops import GAUSSIAN_PRIORS, GaussianPrior
from wsolfast.reference.gaussian_prior_labels import contour_regions, region_gaussian
from wsolfast.reference.gaussian_prior_labels import gaussian_prior_labels as reference
from wsolfast.testing import assert_close, seeded
from wsolfast.testing.spol_labels import contour_regions as opencv_regions
from wsolfast.testing.spol_labels import numpy_labels

# The specification's example.
EXAMPLE = torch.zeros(5, 5, dtype=torch.float64)
EXAMPLE[1, 1], EXAMPLE[2, 2], EXAMPLE[3, 3], EXAMPLE[1, 3] = 1, 2, 1, 0.5
PRINTED = 5e-5  # printed with four decimals
RELEASED = GAUSSIAN_PRIORS["released"]


def blobs(n, h, w, seed=0):
    coarse = seeded((n, 1, -(-h // 3), -(-w // 3)), dtype=torch.float64, seed=seed)
    return interpolate(coarse, size=(h, w), mode="bilinear")[:, 0].relu()


def gaussian_by_loop(weights, covariance_scale):
    height, width = weights.shape
    pixels = [(x, y, float(weights[y, x])) for y in range(height) for x in range(width)]
    total = sum(w for _, _, w in pixels)
    mean_x, mean_y = sum(w * x for x, _, w in pixels) / total, sum(w * y for _, y, w in pixels) / total
    sxx = covariance_scale * sum(w * (x - mean_x) ** 2 for x, _, w in pixels) / total
    syy = covariance_scale * sum(w * (y - mean_y) ** 2 for _, y, w in pixels) / total
    sxy = covariance_scale * sum(w * (x - mean_x) * (y - mean_y) for x, y, w in pixels) / total
    rho = sxy / math.sqrt(sxx * syy)
    out = torch.zeros_like(weights)
    for x, y, _ in pixels:
        dx, dy = x - mean_x, y - mean_y
        theta = dx**2 / sxx - 2 * rho * dx * dy / math.sqrt(sxx * syy) + dy**2 / syy
        out[y, x] = math.exp(-theta / (2 * (1 - rho**2)))
    return out


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_reference_gaussian_agrees_with_a_loop(scale):
    weights = blobs(1, 9, 7)[0]
    assert_close(region_gaussian(weights, scale), gaussian_by_loop(weights, scale))


def test_gaussian_of_the_specification():
    gaussian = region_gaussian(EXAMPLE, 1.0)
    printed = {(2, 2): 0.9394, (1, 2): 0.3510, (2, 3): 0.3510, (1, 1): 0.3050, (3, 3): 0.3050}
    for pixel, value in printed.items():
        assert gaussian[pixel].item() == pytest.approx(value, abs=PRINTED)


@pytest.mark.parametrize(
    ("gate", "pixels"),
    [(0.7, {(2, 2)}), (0.34, {(2, 2), (1, 2), (2, 3)})],
)
def test_gated_pixels_of_the_specification(gate, pixels):
    labels = ops.gaussian_prior_labels(EXAMPLE[None], (5, 5), prior=GaussianPrior(source="gaussian", gate=gate))
    assert {tuple(pixel) for pixel in (labels[0] == 1).nonzero().tolist()} == pixels
    assert set(labels.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("seed", range(12))
def test_labels_are_those_of_numpy_and_opencv(preset, seed):
    """Multi-peak maps: several contours, holes, islands in holes."""
    cam = blobs(1, 32, 32, seed)
    labels = ops.gaussian_prior_labels(cam, prior=preset)[0].numpy()
    assert np.array_equal(labels, numpy_labels(cam[0].numpy(), (256, 256), GAUSSIAN_PRIORS[preset]))


def test_the_prior_matters_on_those_maps():
    cams = torch.cat([blobs(1, 32, 32, seed) for seed in range(12)])
    labels = ops.gaussian_prior_labels(cams, prior="released")
    by_cam = ops.gaussian_prior_labels(cams, prior=replace(RELEASED, source="cam"))
    assert (labels != by_cam).flatten(1).any(1).any()


@pytest.mark.parametrize("min_area", [0.0, 2.0, 20.0])
@pytest.mark.parametrize("density", [0.3, 0.5, 0.7, 0.9])
def test_reference_regions_are_those_of_opencv(density, min_area):
    generator = torch.Generator().manual_seed(int(10 * density))
    mask = torch.rand(23, 31, generator=generator) < density
    mine = {tuple(region.flatten().tolist()) for region in contour_regions(mask, min_area)}
    theirs = {tuple(region.flatten().tolist()) for region in opencv_regions(mask.numpy().astype(np.uint8), min_area)}
    assert mine == theirs


@pytest.mark.parametrize("min_area", [0.0, 2.0, 20.0])
@pytest.mark.parametrize("density", [0.3, 0.5, 0.7, 0.9])
def test_speckled_maps_agree_with_the_reference(density, min_area):
    """Contours are many, touch diagonally and nest; half of the pixels leave the band upwards."""
    generator = torch.Generator().manual_seed(int(10 * density))
    outside = 0.9 * (torch.rand(3, 29, 33, generator=generator) < 0.5)
    cams = torch.where(
        torch.rand(3, 29, 33, generator=generator) < density,
        0.1 + 0.3 * torch.rand(3, 29, 33, generator=generator),
        outside,
    ).double()
    cams[:, 0, 0] = 1.0
    prior = replace(RELEASED, min_area=min_area, object_threshold=2.0, background_threshold=0.2)
    labels = torch.ops.wsolfast.gaussian_prior_labels.default(cams, 29, 33, *prior.codes())
    assert torch.equal(labels, reference(cams, 29, 33, *prior.codes()))


@pytest.mark.parametrize("prior", ["paper", "released"])
def test_flips_and_transposition_commute(prior):
    cam = blobs(2, 16, 16, seed=5)
    labels = ops.gaussian_prior_labels(cam, (64, 64), prior=prior)
    for change in (lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.mT):
        assert torch.equal(ops.gaussian_prior_labels(change(cam), (64, 64), prior=prior), change(labels))


def test_scale_of_the_map_hardly_matters():
    cam = blobs(2, 16, 16) + 0.1
    assert torch.equal(ops.gaussian_prior_labels(cam, (64, 64)), ops.gaussian_prior_labels(64 * cam, (64, 64)))


def test_a_clean_blob_has_the_radius_of_the_specification():
    """Sigma 20: the paper's gate lies at 0.8446 sigma, within what already exceeds half of the peak."""
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    cam = torch.exp(-((x - 128) ** 2 + (y - 128) ** 2) / (2 * 20**2)).double()
    gated = ops.gaussian_prior_labels(cam[None], prior=GaussianPrior(source="gaussian"))[0] == 1
    assert math.sqrt(gated.sum().item() / math.pi) == pytest.approx(0.8446 * 20, abs=0.2)
    by_cam = ops.gaussian_prior_labels(cam[None], prior=GaussianPrior(source="cam"))
    assert torch.equal(ops.gaussian_prior_labels(cam[None]), by_cam)


def test_a_hollow_map_is_filled():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    ring = torch.exp(-(((x - 32) ** 2 + (y - 32) ** 2).sqrt() - 15).square() / 8).double()
    assert ops.gaussian_prior_labels(ring[None], (64, 64))[0, 32, 32] == 1
    assert ops.gaussian_prior_labels(ring[None], (64, 64), prior=GaussianPrior(source="cam"))[0, 32, 32] == 0


def test_released_background_looks_at_the_map_only():
    """A pixel below the background threshold under the Gaussian's tail is background with a gate, ignored without."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    ring = torch.exp(-(((x - 32) ** 2 + (y - 32) ** 2).sqrt() - 15).square() / 8).double()
    gated = ops.gaussian_prior_labels(ring[None], (64, 64))
    maximum = ops.gaussian_prior_labels(ring[None], (64, 64), prior=GaussianPrior(gate=None))
    assert ((gated == 0) & (maximum == 255)).any()


@pytest.mark.parametrize("prior", ["paper", "released"])
@pytest.mark.parametrize("source", ["both", "cam", "gaussian"])
def test_bytes_are_compared_as_written(prior, source):
    """Map and Gaussian multiplied by 255 and truncated, then compared with 255 times the thresholds."""
    prior = replace(GAUSSIAN_PRIORS[prior], source=source)
    cam = torch.cat([blobs(1, 16, 16, seed) for seed in range(4)])
    found = ops.gaussian_prior_labels(cam, (64, 64), prior=replace(prior, quantize=True))
    for one, labels in zip(cam, found, strict=True):
        soft = interpolate((one / (one.max() + 1e-6))[None, None], (64, 64), mode="bilinear")[0, 0]
        band = torch.where((soft >= prior.weight_low) & (soft <= prior.weight_high), soft, 0.0)
        regions = contour_regions(band > 0, 20) if prior.per_contour else [torch.ones_like(band, dtype=torch.bool)]
        gaussian = torch.stack([region_gaussian(band * region, prior.covariance_scale) for region in regions]).amax(0)
        cam_byte, gaussian_byte = ((255 * x).floor() for x in (soft, gaussian))
        by_cam, by_gaussian = source != "gaussian", source != "cam"
        is_object = (cam_byte > 255 * prior.object_threshold) & by_cam
        is_object |= (gaussian_byte > 255 * prior.gate) & by_gaussian
        below = cam_byte < 255 * prior.background_threshold if by_cam else torch.ones_like(is_object)
        assert torch.equal(labels == 1, is_object)
        assert torch.equal(labels == 0, below & ~is_object)


def test_bytes_of_the_specification():
    """Object from byte 64 and background up to byte 2 on the released thresholds; 128 and 1 on the paper's."""
    for prior, object_byte, background_byte in ((RELEASED, 64, 2), (GAUSSIAN_PRIORS["paper"], 128, 1)):
        bytes_ = torch.arange(1, 255, dtype=torch.float64)
        # A map of one more column, whose maximum makes the division by the maximum exact.
        cam = torch.cat([(bytes_ + 0.5) / 255, torch.tensor([1 - 1e-6], dtype=torch.float64)])[None, None]
        labels = ops.gaussian_prior_labels(cam, (1, 255), prior=replace(prior, source="cam", quantize=True))[0, 0]
        assert (labels[:-1] == 1).nonzero()[0].item() + 1 == object_byte
        assert (labels[:-1] == 0).sum().item() == background_byte


def test_the_largest_value_on_the_grid_becomes_one():
    cam = torch.zeros(1, 6, 6, dtype=torch.float64)
    cam[0, 2:4, 2:4] = 1  # the mean lies between four pixels
    for norm, count in (("peak", 0), ("grid_max", 4)):
        prior = GaussianPrior(source="gaussian", gate=0.9, norm=norm)
        assert (ops.gaussian_prior_labels(cam, (6, 6), prior=prior) == 1).sum() == count


def test_degenerate_maps():
    zeros = torch.zeros(1, 4, 4)
    assert (ops.gaussian_prior_labels(zeros, (8, 8)) == 255).all()
    assert (ops.gaussian_prior_labels(zeros, (8, 8), prior=GaussianPrior(empty="background")) == 0).all()
    # Nothing in the band: the map alone decides.
    assert (ops.gaussian_prior_labels(torch.ones(1, 4, 4), (8, 8), prior="released") == 1).all()
    # One pixel: the covariance of a pixel, whose Gaussian is 1 there and exp(-6) beside it.
    impulse = torch.zeros(1, 5, 5)
    impulse[0, 2, 3] = 1
    for gate, count in ((0.9, 1), (math.exp(-6) * 0.99, 5), (math.exp(-12) * 0.99, 9)):
        prior = GaussianPrior(source="gaussian", gate=gate)
        assert (ops.gaussian_prior_labels(impulse, (5, 5), prior=prior) == 1).sum() == count


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_maps_are_computed_in_float64(dtype):
    cam = blobs(2, 16, 16).to(dtype)
    assert torch.equal(ops.gaussian_prior_labels(cam, (64, 64)), ops.gaussian_prior_labels(cam.double(), (64, 64)))


@pytest.mark.parametrize(
    ("cam", "options", "message"),
    [
        (torch.zeros(3, 3), {}, r"shape \[N, h, w\] with h, w > 0, got torch.float32 \[3, 3\]"),
        (torch.zeros(1, 3, 3).long(), {}, "floating-point"),
        (torch.zeros(1, 0, 3), {}, "h, w > 0"),
        (torch.zeros(1, 3, 3), {"size": (0, 3)}, r"positive size \(H, W\), got \(0, 3\)"),
        (torch.tensor([[[0.0]], [[torch.nan]]]), {}, r"maps \[1\] are not"),
        (torch.tensor([[[torch.inf]]]), {}, r"maps \[0\] are not"),
        (torch.zeros(1, 3, 3), {"prior": "published"}, r"prior in \('paper', 'released'\), got 'published'"),
    ],
)
def test_bad_input_is_named(cam, options, message):
    with pytest.raises(ValueError, match=message):
        ops.gaussian_prior_labels(cam, **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gate": 0.0}, r"gate must be in \(0, 1\] or None"),
        ({"gate": None, "source": "gaussian"}, "needs a gate"),
        ({"weight_low": -0.1}, "weight_low must not be negative"),
        ({"background_threshold": math.nan}, "background_threshold must not be negative"),
        ({"covariance_scale": 0.0}, "covariance_scale must be positive"),
        ({"source": "prior"}, "source must be one of"),
        ({"norm": "density"}, "norm must be one of"),
        ({"empty": "object"}, "empty must be one of"),
    ],
)
def test_bad_prior_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        GaussianPrior(**fields)
