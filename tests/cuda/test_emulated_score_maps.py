"""normalize_score_map and pixel_histogram: the same bits as the CPU kernels."""

import itertools

import pytest
import torch

from wsolfast import ops
from wsolfast.ops import BoxRule
from wsolfast.reference._box_rule import CHOICES
from wsolfast.testing import OP_CASES, seeded

pytestmark = pytest.mark.skipif(ops.extension_status() is not None, reason=f"CPU kernels: {ops.extension_status()}")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


def same_bits(a, b):
    """Equal, -0 apart from 0; which NaN does not matter."""
    a, b = (torch.where(x.isnan(), torch.nan, x) for x in (a, b))
    return torch.equal(a.view(torch.int64), b.view(torch.int64))


@pytest.mark.parametrize("case", OP_CASES["normalize_score_map"], ids=lambda case: case.name)
@DTYPES
def test_normalize_score_map_equals_the_cpu_kernel(emulated, case, dtype):
    inputs = case.make_inputs("cpu", dtype)
    expected = torch.ops.wsolfast.normalize_score_map(*inputs)
    assert same_bits(emulated.normalize_score_map(*inputs), expected)


@pytest.mark.parametrize("interpolation", CHOICES["interpolation"][1:])
def test_every_resize_gives_the_cpu_kernels_bits(library, interpolation):
    library.set_order("shuffled", 3)
    sizes = [((14, 14), (224, 224)), ((7, 9), (37, 300)), ((40, 33), (16, 70)), ((1, 5), (6, 1))]
    switches = itertools.cycle(itertools.product(CHOICES["normalization"], (False, True)))
    for (h, w), (height, width) in sizes:
        maps = seeded((1, h, w), "cpu", torch.float64, seed=h)
        for normalization, first in itertools.islice(switches, 5):
            rule = BoxRule(interpolation, normalization, eps=1e-10, normalize_first=first, quantize=False)
            inputs = (maps, (height, width), rule.pack())
            assert same_bits(library.normalize_score_map(*inputs), torch.ops.wsolfast.normalize_score_map(*inputs))


def test_zeros_keep_the_cpu_kernels_sign(library):
    """The minimum of a map with 0 and -0 is the one that the CPU kernel meets first; it shows in x - min."""
    library.set_order("ascending")
    generator = torch.Generator().manual_seed(0)
    for size in (1, 15, 16, 17, 33, 100, 700):
        places = torch.randint(0, 3, (4, 1, size), generator=generator)
        maps = torch.tensor([-0.0, 0.0, 1.0], dtype=torch.float64)[places]
        inputs = (maps, (1, size), BoxRule("none", "min").pack())
        assert same_bits(library.normalize_score_map(*inputs), torch.ops.wsolfast.normalize_score_map(*inputs))


@pytest.mark.parametrize(
    "case", [case for case in OP_CASES["pixel_histogram"] if case.name != "empty_batch"], ids=lambda case: case.name
)
@DTYPES
def test_pixel_histogram_equals_the_cpu_kernel(emulated, case, dtype):
    inputs = case.make_inputs("cpu", dtype)
    assert torch.equal(emulated.pixel_histogram(*inputs), torch.ops.wsolfast.pixel_histogram(*inputs))


@pytest.mark.parametrize("bins", [1000, 9000], ids=["in shared memory", "in global memory"])
def test_many_bins(emulated, bins):
    maps = seeded((2, 90, 70), "cpu", torch.float64).sigmoid()
    masks = torch.arange(maps.numel()).reshape(maps.shape).remainder(3).to(torch.uint8)
    edges = torch.cat([torch.arange(bins, dtype=torch.float64) / bins, maps[0, 0, :5]]).sort().values
    assert torch.equal(emulated.pixel_histogram(maps, masks, edges), ops.pixel_histogram(maps, masks, edges))
