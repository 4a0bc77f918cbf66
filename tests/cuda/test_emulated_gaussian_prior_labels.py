"""gaussian_prior_labels with one Gaussian per map: the same bytes as the CPU kernel."""

import math
import random
from dataclasses import replace

import pytest
import torch
from cuda_emulated import ORDERS

from wsolfast import ops
from wsolfast.ops import GAUSSIAN_PRIORS, GaussianPrior
from wsolfast.testing import OP_CASES, seeded

pytestmark = pytest.mark.skipif(ops.extension_status() is not None, reason=f"CPU kernel: {ops.extension_status()}")
PAPER = GAUSSIAN_PRIORS["paper"]


def of_whole_maps(case):
    _, _, _, _, _, per_contour, *_ = case.make_inputs("cpu", torch.float32)
    return not per_contour


WHOLE_MAPS = [case for case in OP_CASES["gaussian_prior_labels"] if of_whole_maps(case)]


def random_prior(generator):
    source = generator.choice(["both", "both", "both", "cam", "gaussian"])
    return GaussianPrior(
        weight_low=generator.choice([0.0, 0.0, 0.05, 0.3]),
        weight_high=generator.choice([math.inf, math.inf, 1.0, 0.6]),
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


def assert_equal_to_the_cpu(library, maps, size, prior):
    inputs = (maps, *size, *prior.codes())
    labels = library.gaussian_prior_labels(*inputs)
    assert torch.equal(labels, torch.ops.wsolfast.gaussian_prior_labels(*inputs)), (maps.shape, size, prior)


@pytest.mark.parametrize("case", WHOLE_MAPS, ids=lambda case: case.name)
def test_op_cases(emulated, case):
    for dtype in (torch.float32, torch.float64):
        inputs = case.make_inputs("cpu", dtype)
        expected = torch.ops.wsolfast.gaussian_prior_labels(*inputs)
        assert torch.equal(emulated.gaussian_prior_labels(*inputs), expected)


@pytest.mark.parametrize("seed", range(12))
def test_random_maps_and_priors(library, seed):
    generator = random.Random(seed)
    library.set_order(ORDERS[seed % 3], seed)
    for draw in range(15):
        size = generator.choice([(1, 1), (1, 70), (65, 1), (9, 7), (33, 40), (64, 80), (5, 261)])
        assert_equal_to_the_cpu(library, random_maps(generator, 100 * seed + draw), size, random_prior(generator))


@pytest.mark.parametrize("norm", ["peak", "grid_max"])
@pytest.mark.parametrize("band", [(0.0, math.inf), (0.1, 0.5)], ids=["whole", "band"])
def test_the_size_of_training(library, band, norm):
    library.set_order("shuffled", 3)
    maps = seeded((2, 32, 32), "cpu", torch.float64).relu()
    low, high = band
    assert_equal_to_the_cpu(library, maps, (256, 256), replace(PAPER, weight_low=low, weight_high=high, norm=norm))


def test_the_gaussian_matters_on_such_maps(library):
    """Without it the tests above would not see the fit."""
    maps = seeded((2, 32, 32), "cpu", torch.float64).relu()
    by_cam = library.gaussian_prior_labels(maps, 64, 64, *replace(PAPER, source="cam").codes())
    assert (library.gaussian_prior_labels(maps, 64, 64, *PAPER.codes()) != by_cam).flatten(1).any(1).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_not_finite_is_ignored(emulated, bad):
    maps = seeded((3, 9, 8), "cpu", torch.float32)
    maps[1, 4, 5] = bad
    codes = replace(PAPER, empty="background").codes()
    labels = emulated.gaussian_prior_labels(maps, 20, 21, *codes)
    assert (labels[1] == 255).all()
    rest = maps[[0, 2]]
    assert torch.equal(labels[[0, 2]], torch.ops.wsolfast.gaussian_prior_labels(rest, 20, 21, *codes))
