"""The Triton launcher against the reference; interpreted on the CPU where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from wsolfast.kernels import context_pool_update as launcher

from wsolfast.reference.context_pool_update import context_pool_update as reference
from wsolfast.testing import OP_CASES, assert_close, seeded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Interpreted kernels take rate and eps in float32 even where they are declared float64.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-7}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["f32", "f64"])
@pytest.mark.parametrize("case", OP_CASES["context_pool_update"], ids=lambda case: case.name)
def test_grown_pool(case, dtype):
    inputs = case.make_inputs(DEVICE, dtype)
    actual = launcher.context_pool_update(*inputs)
    assert_close(actual, reference(*inputs), TOLERANCES[dtype])
    assert actual.is_contiguous()


def test_maps_larger_than_a_tile(monkeypatch):
    monkeypatch.setattr(launcher, "TILE", 16)
    inputs = seeded((2, 5, 7), DEVICE), torch.tensor([1, 0, 1], device=DEVICE), seeded((3, 5, 7), DEVICE, seed=1)
    assert_close(launcher.context_pool_update(*inputs, 0.1, 1e-5, False), reference(*inputs, 0.1, 1e-5, False))


def test_order_of_the_batch_leaves_the_same_bits():
    maps, cam = seeded((3, 6, 6), DEVICE), seeded((20, 6, 6), DEVICE, seed=1)
    classes, order = torch.arange(20, device=DEVICE) % 3, torch.arange(20, device=DEVICE).flip(0)
    one = launcher.context_pool_update(maps, classes, cam, 0.1, 1e-5, False)
    assert torch.equal(one, launcher.context_pool_update(maps, classes[order], cam[order], 0.1, 1e-5, False))
