"""The Triton launchers against the reference; interpreted on the CPU where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from wsolfast.kernels import confident_segmentation_loss as launcher

from wsolfast.reference import confidence_mask as mask_reference
from wsolfast.reference import confident_segmentation_loss as reference
from wsolfast.testing import OP_CASES, assert_close, seeded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = OP_CASES["confident_segmentation_loss"]
# Interpreted kernels take weights in float32 even where they are declared float64.
TOLERANCES = {torch.bfloat16: 1e-5, torch.float16: 1e-5, torch.float32: 1e-5, torch.float64: 1e-7}
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")


def assert_agrees(late, early, weight):
    expected_loss, *expected = reference.confident_segmentation_loss(late, early, weight)
    loss, *found = launcher.confident_segmentation_loss(late, early, weight)
    assert_close(loss, expected_loss, TOLERANCES[late.dtype])
    for actual, wanted in zip(found, expected, strict=True):
        assert actual.dtype == wanted.dtype
        assert actual.is_contiguous()
        # Mask and signs are exact.
        torch.testing.assert_close(actual, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["bf16", "f16", "f32", "f64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_loss_mask_and_signs(case, dtype):
    assert_agrees(*case.make_inputs(DEVICE, dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=["bf16", "f32", "f64"])
@pytest.mark.parametrize("case", OP_CASES["confidence_mask"], ids=lambda case: case.name)
def test_mask(case, dtype):
    (maps,) = case.make_inputs(DEVICE, dtype)
    mask = launcher.confidence_mask(maps)
    expected = mask_reference.confidence_mask(maps)
    assert mask.dtype == expected.dtype
    assert mask.is_contiguous()
    assert torch.equal(mask, expected)


def test_more_positions_than_one_block(monkeypatch):
    monkeypatch.setattr(launcher, "BLOCK", 16)
    late, early = seeded((3, 9, 13), DEVICE), seeded((3, 9, 13), DEVICE, seed=1)
    assert_agrees(late, early, 0.5)
    assert_agrees(late.mT, early.mT, 0.5)
    sign = seeded((3, 9, 13), DEVICE).sign()
    grad = torch.tensor(3.0, device=DEVICE)
    assert_close(
        launcher.confident_segmentation_loss_backward(grad, sign, 0.25),
        reference.confident_segmentation_loss_backward(grad, sign, 0.25),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 1, 1), (0, 3, 3), (3, 5, 7), (2, 33, 32)])
def test_gradient(shape, dtype):
    sign = seeded(shape, DEVICE).sign().to(dtype)
    grad = torch.tensor(3.0, device=DEVICE, dtype=torch.promote_types(dtype, torch.float32))
    actual = launcher.confident_segmentation_loss_backward(grad, sign, 1 / 48)
    assert actual.dtype == dtype
    assert_close(actual, reference.confident_segmentation_loss_backward(grad, sign, 1 / 48))


def test_strided_signs():
    sign, grad = seeded((3, 4, 10), DEVICE).sign().transpose(1, 2)[:, ::2], torch.tensor(1.0, device=DEVICE)
    actual = launcher.confident_segmentation_loss_backward(grad, sign, 0.5)
    assert torch.equal(actual, reference.confident_segmentation_loss_backward(grad, sign, 0.5))


def test_sums_have_one_order():
    maps = [seeded((5, 40, 40), DEVICE, seed=seed) for seed in (0, 1)]
    first, second = (launcher.confident_segmentation_loss(*maps, 1.0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
