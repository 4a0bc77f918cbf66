"""gaussian_prior_labels, one Gaussian per map or per contour: the same bytes as the CPU kernel."""

import math
import random
from dataclasses import replace

import pytest
import torch
from cuda_emulated import H200, ORDERS
from mask_shapes import SHAPES

from wsolfast import ops
from wsolfast.ops import GAUSSIAN_PRIORS, GaussianPrior
from wsolfast.testing import seeded

pytestmark = pytest.mark.skipif(ops.extension_status() is not None, reason=f"CPU kernel: {ops.extension_status()}")
PAPER, RELEASED = GAUSSIAN_PRIORS["paper"], GAUSSIAN_PRIORS["released"]
# Runs or contours of most maps do not fit the first kernel; several slots are left for them, then one.
SMALL = [(2, 600, 1 << 20), (132, 600, 1 << 10)]


def random_prior(generator):
    source = generator.choice(["both", "both", "both", "cam", "gaussian"])
    return GaussianPrior(
        weight_low=generator.choice([0.0, 0.0, 0.05, 0.3]),
        weight_high=generator.choice([math.inf, math.inf, 1.0, 0.6]),
        per_contour=generator.random() < 0.5,
        min_area=generator.choice([0.0, 1.0, 2.5, 20.0]),
        covariance_scale=generator.choice([0.01, 0.1, 1.0, 3.7]),
        norm=generator.choice(["peak", "grid_max"]),
        gate=generator.choice([0.05, 0.25, 0.7, 1.0] + [None] * (source != "gaussian")),
        object_threshold=generator.uniform(0, 1),
        background_threshold=generator.choice([0.0, 0.004, 0.3]),
        source=source,
        quantize=generator.random() < 0.5,
        empty=generator.choice(["ignore", "background"]),
    )


def random_maps(generator, seed):
    """Noise around zero, few pixels, one line or a plateau, of any size."""
    h, w = generator.choice([(1, 1), (1, 9), (8, 1), (7, 5), (13, 32), (40, 3)])
    maps = seeded((2, h, w), "cpu", torch.float64, seed=seed)
    kind = generator.choice(["noise", "points", "line", "plateau"])
    if kind == "points":
        return maps * (seeded((2, h, w), "cpu", torch.float64, seed=seed + 1) > 1.2)
    if kind == "line":
        return torch.where(torch.arange(h)[:, None] == h // 2, maps.abs(), 0.0)
    return maps.round() if kind == "plateau" else maps


def speckled_maps(seed, density, h, w):
    """A band with holes of pixels above and below it, islands in the holes, and contacts at corners."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(2, h, w, generator=generator, dtype=torch.float64)
    band = torch.rand(2, h, w, generator=generator) < density
    maps = torch.where(band, 0.1 + 0.3 * values, 0.9 * (values < 0.5))
    maps[:, 0, 0] = 1
    return maps


def assert_equal_to_the_cpu(library, maps, size, prior, limits=H200):
    inputs = (maps, *size, *prior.codes())
    labels = library.gaussian_prior_labels(*inputs, limits=limits)
    assert torch.equal(labels, torch.ops.wsolfast.gaussian_prior_labels(*inputs)), (maps.shape, size, prior, limits)


@pytest.mark.parametrize("seed", range(12))
def test_random_maps_and_priors(library, seed):
    generator = random.Random(seed)
    library.set_order(ORDERS[seed % 3], seed)
    for draw in range(15):
        size = generator.choice([(1, 1), (1, 70), (65, 1), (9, 7), (33, 40), (64, 80), (5, 261)])
        limits = generator.choice([H200, *SMALL])
        assert_equal_to_the_cpu(
            library, random_maps(generator, 100 * seed + draw), size, random_prior(generator), limits
        )


@pytest.mark.parametrize("limits", [H200, *SMALL], ids=["usual", "small", "one_slot"])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
def test_speckled_maps(library, density, limits):
    library.set_order("shuffled", 5)
    for seed, min_area in enumerate([0.0, 1.0, 2.0, 3.5, 8.0, 20.0]):
        h, w = [(29, 33), (33, 29), (1, 60), (48, 70), (64, 64), (40, 5)][seed]
        prior = replace(RELEASED, min_area=min_area, object_threshold=2.0, background_threshold=0.2)
        prior = replace(prior, norm="grid_max" if seed % 2 else "peak", gate=[0.05, 0.25, None][seed % 3])
        assert_equal_to_the_cpu(library, speckled_maps(seed, density, h, w), (h, w), prior, limits)


@pytest.mark.parametrize("name", SHAPES)
def test_masks_of_every_kind(emulated, name):
    """Nested rings, spirals, checkerboards, contacts with the border."""
    band = torch.from_numpy(SHAPES[name] > 0)
    for outside in (0.0, 0.9):
        maps = torch.where(band, 0.3, outside)[None].double()
        # The last pixel sets the scale, and lies in the band of no map.
        maps = torch.nn.functional.pad(maps, (0, 1, 0, 1), value=outside)
        maps[0, -1, -1] = 1
        for min_area in (0.0, 3.0, 20.0):
            prior = replace(RELEASED, min_area=min_area, object_threshold=2.0, covariance_scale=1.0)
            assert_equal_to_the_cpu(emulated, maps, tuple(maps.shape[1:]), prior)


@pytest.mark.parametrize("area", [4, 5, 12, 13])
def test_rings_around_the_least_area(library, area):
    """Rings of 3x3 and 4x5 pixels: their polygons have 4 and 12, with holes that the bounds cannot decide."""
    library.set_order("ascending")
    maps = torch.zeros(1, 8, 14, dtype=torch.float64)
    maps[0, 1:4, 1:4] = maps[0, 2:6, 6:11] = 0.3
    maps[0, 2, 2] = maps[0, 3:5, 7:10] = 0.9
    maps[0, 7, 13] = 1
    prior = replace(RELEASED, min_area=float(area), gate=0.3, covariance_scale=1.0, object_threshold=2.0)
    by_cam = library.gaussian_prior_labels(maps, 8, 14, *replace(prior, source="cam").codes())
    labels = library.gaussian_prior_labels(maps, 8, 14, *prior.codes())
    assert [bool((labels != by_cam)[0, :, part].any()) for part in (slice(5), slice(5, 13))] == [area <= 4, area <= 12]
    assert_equal_to_the_cpu(library, maps, (8, 14), prior)


def plan(library, height, width, images, limits):
    """How the contours of maps would be spread over a device."""
    names = ("run_capacity", "item_capacity", "shared_bytes", "ctas", "slots")
    return library.numbers("plan_contours", names, height, width, images, torch.tensor(limits))


def test_what_fits_the_first_kernel(library):
    """The maps of training do; maps of speckles do not, under small limits hardly any."""
    assert plan(library, 256, 256, 64, H200) == {
        "run_capacity": 8 * 256 + 64,
        "item_capacity": (8 * 256 + 64) // 6,
        "shared_bytes": 4 * (257 + 3 * 2112 + 1 + 7 * 352),
        "ctas": 64,
        "slots": 18,
    }
    assert plan(library, 40, 40, 300, H200)["slots"] == 264
    assert plan(library, 6, 5, 3, H200)["slots"] == 0
    for limits, slots in zip(SMALL, (2, 1), strict=True):
        planned = plan(library, 64, 64, 1000, limits)
        assert planned["run_capacity"] < 64
        assert planned["slots"] == slots
    with pytest.raises(RuntimeError, match="labels of 16383x1: expected at most 16382 pixels a side"):
        plan(library, 16383, 1, 1, H200)


@pytest.mark.parametrize("norm", ["peak", "grid_max"])
@pytest.mark.parametrize("band", [(0.0, math.inf), (0.1, 0.5)], ids=["whole", "band"])
@pytest.mark.parametrize("per_contour", [False, True], ids=["per_map", "per_contour"])
def test_the_size_of_training(library, per_contour, band, norm):
    library.set_order("shuffled", 3)
    maps = seeded((2, 32, 32), "cpu", torch.float64).relu()
    low, high = band
    prior = replace(PAPER, weight_low=low, weight_high=high, norm=norm, per_contour=per_contour)
    assert_equal_to_the_cpu(library, maps, (256, 256), prior)


@pytest.mark.parametrize("prior", [PAPER, RELEASED, replace(RELEASED, min_area=100.0)])
def test_the_gaussian_matters_on_such_maps(library, prior):
    """Without it the tests above would not see the fit."""
    maps = seeded((2, 32, 32), "cpu", torch.float64).relu()
    by_cam = library.gaussian_prior_labels(maps, 64, 64, *replace(prior, source="cam").codes())
    assert (library.gaussian_prior_labels(maps, 64, 64, *prior.codes()) != by_cam).flatten(1).any(1).all()


@pytest.mark.parametrize("prior", [PAPER, RELEASED], ids=["paper", "released"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_not_finite_is_ignored(emulated, bad, prior):
    maps = seeded((3, 9, 8), "cpu", torch.float32)
    maps[1, 4, 5] = bad
    codes = replace(prior, empty="background").codes()
    labels = emulated.gaussian_prior_labels(maps, 20, 21, *codes)
    assert (labels[1] == 255).all()
    rest = maps[[0, 2]]
    assert torch.equal(labels[[0, 2]], torch.ops.wsolfast.gaussian_prior_labels(rest, 20, 21, *codes))
