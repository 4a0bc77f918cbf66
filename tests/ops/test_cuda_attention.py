"""Who serves which attention on CUDA, and the calls that need no CUDA to be right."""

import pytest
import torch

from wsolfast.ops import _cuda_attention
from wsolfast.ops._cuda_attention import cuda_route
from wsolfast.reference import non_local_attention as reference
from wsolfast.testing import assert_close, seeded

HALF, BRAIN, FULL, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
TURING, AMPERE, HOPPER = (7, 5), (8, 0), (9, 0)


@pytest.mark.parametrize(
    ("dtype", "positions", "keys", "channels", "capability", "deterministic", "route"),
    [
        (BRAIN, 3136, 3136, (16, 128), HOPPER, False, "library"),
        (HALF, 3136, 784, (16, 128), AMPERE, False, "library"),
        (HALF, 196, 196, (64, 128), HOPPER, False, "library"),
        # Refused by cuDNN: deterministic mode, one key, channels that are no eights, old devices.
        (BRAIN, 3136, 3136, (16, 128), HOPPER, True, "triton"),
        (BRAIN, 196, 196, (16, 128), HOPPER, True, "blocks"),
        (BRAIN, 3136, 1, (16, 128), HOPPER, False, "blocks"),
        (BRAIN, 3136, 3136, (12, 128), HOPPER, False, "triton"),
        (BRAIN, 3136, 3136, (16, 100), HOPPER, False, "triton"),
        (HALF, 3136, 3136, (16, 128), TURING, False, "blocks"),
        # The other blocks of NL-CCAM have few weights.
        (BRAIN, 784, 784, (32, 256), HOPPER, False, "blocks"),
        (BRAIN, 196, 196, (64, 512), HOPPER, False, "blocks"),
        (BRAIN, 3136, 3136, (64, 512), HOPPER, False, "triton"),
        # No library has a fast kernel for float32.
        (FULL, 3136, 3136, (16, 128), HOPPER, False, "triton"),
        (FULL, 3136, 784, (16, 128), AMPERE, False, "triton"),
        (FULL, 784, 784, (32, 256), HOPPER, False, "blocks"),
        (FULL, 12544, 12544, (64, 1024), HOPPER, False, "triton"),
        (FULL, 12544, 12544, (136, 64), HOPPER, False, "blocks"),
        (DOUBLE, 3136, 3136, (16, 128), HOPPER, False, "blocks"),
    ],
)
def test_route(dtype, positions, keys, channels, capability, deterministic, route):
    found = cuda_route(dtype, positions, keys, *channels, capability=capability, deterministic=deterministic)
    assert found == route


def flat_maps(channels_last):
    maps = [seeded((2, c, 4, 6), dtype=HALF, seed=i) for i, c in enumerate((8, 8, 16))]
    if channels_last:
        maps = [x.to(memory_format=torch.channels_last) for x in maps]
    return [x.flatten(2) for x in maps]


def test_libraries_that_are_not_there_leave_it_to_others():
    """This machine's torch has neither of the two; the third, which takes anything, must not be asked."""
    if torch.cuda.is_available():
        pytest.skip(reason="a CUDA device has at least one of the libraries")
    query, key, value = flat_maps(channels_last=False)
    assert not _cuda_attention.by_library(query, key, value, torch.empty_like(value))


@pytest.mark.cuda
@pytest.mark.parametrize("channels_last", [False, True])
def test_library(channels_last):
    query, key, value = (x.cuda() for x in flat_maps(channels_last))
    out = torch.empty_like(value)
    assert _cuda_attention.by_library(query, key, value, out)
    expected = reference.non_local_attention(*(x[..., None].float() for x in (query, key, value)), "embedded_gaussian")
    assert_close(out[..., None], expected)


def test_rows_are_copied_only_where_the_libraries_want_it():
    one = seeded((2, 32, 3, 5), dtype=HALF).to(memory_format=torch.channels_last)
    query, _, value = (x.flatten(2) for x in one.split((8, 8, 16), dim=1))
    for maps in (query, value):
        assert _cuda_attention._rows(maps).data_ptr() == maps.data_ptr()
    odd = seeded((2, 31, 3, 5), dtype=HALF).to(memory_format=torch.channels_last)[:, 1:9].flatten(2)
    for maps in (odd, query.contiguous()):
        rows = _cuda_attention._rows(maps)
        assert rows.is_contiguous()
        assert torch.equal(rows[:, 0].mT, maps)
