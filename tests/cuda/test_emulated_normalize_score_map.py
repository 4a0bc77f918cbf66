import itertools

import pytest
import torch
from cuda_emulated import same_bits

from wsolfast import ops
from wsolfast.ops import BoxRule
from wsolfast.reference._box_rule import CHOICES
from wsolfast.testing import seeded

pytestmark = pytest.mark.skipif(ops.extension_status() is not None, reason=f"CPU kernel: {ops.extension_status()}")


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
