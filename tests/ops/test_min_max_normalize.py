import pytest
import torch

from wsolfast import ops
from wsolfast.reference.min_max_normalize import min_max_normalize as reference
from wsolfast.testing import seeded


def by_loop(maps, eps):
    out = torch.empty_like(maps)
    for n in range(maps.shape[0]):
        values = maps[n].flatten().tolist()
        low, span = min(values), max(values) - min(values) + eps
        out[n] = torch.tensor([(v - low) / span if span else 0.0 for v in values], dtype=maps.dtype).view_as(maps[n])
    return out


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_reference_agrees_with_a_loop(eps):
    maps = seeded((3, 4, 5), dtype=torch.float64)
    torch.testing.assert_close(
        reference(maps, eps), by_loop(maps, eps), rtol=1e-14, atol=0
    )  # same operations, one order


def test_extremes_become_zero_and_one():
    scaled = ops.min_max_normalize(seeded((4, 6, 7)))
    assert torch.equal(scaled.amin((-2, -1)), torch.zeros(4))
    assert torch.equal(scaled.amax((-2, -1)), torch.ones(4))


def test_constant_map_becomes_zero():
    assert torch.equal(ops.min_max_normalize(torch.full((1, 2, 2), 3.0)), torch.zeros(1, 2, 2))


def test_nan_spoils_its_own_map_only():
    maps = torch.tensor([[[0.0, float("nan"), 1.0]], [[1.0, 2.0, 3.0]]])
    scaled = ops.min_max_normalize(maps)
    assert scaled[0].isnan().all()
    assert torch.equal(scaled[1], torch.tensor([[0.0, 0.5, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype(dtype):
    maps = seeded((2, 3, 3)).to(dtype)
    assert torch.equal(ops.min_max_normalize(maps), ops.min_max_normalize(maps.float()).to(dtype))


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (torch.zeros(3), r"expected maps of shape \[\.\.\., h, w\], got \[3\]"),
        (torch.zeros(2, 2, dtype=torch.int64), "floating-point"),
    ],
)
def test_bad_input_is_named(maps, message):
    with pytest.raises(ValueError, match=message):
        ops.min_max_normalize(maps)
