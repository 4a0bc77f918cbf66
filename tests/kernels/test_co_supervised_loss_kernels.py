"""The Triton launchers against the reference; interpreted on the CPU where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from static_evidence import LibraryCalls, launches
from wsolfast.kernels import co_supervised_loss as launcher

from wsolfast.reference import co_supervised_loss as reference
from wsolfast.testing import OP_CASES, assert_close, seeded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = OP_CASES["co_supervised_loss"]
# Interpreted kernels take weights in float32 even where they are declared float64.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-7}


def assert_agrees(inputs, tolerance):
    expected = reference.co_supervised_loss(*inputs)
    for actual, wanted in zip(launcher.co_supervised_loss(*inputs), expected, strict=True):
        assert_close(actual, wanted, tolerance)
        assert actual.is_contiguous()
    grad = torch.tensor(3.0, device=DEVICE, dtype=inputs[0].dtype)
    gradients = (side.co_supervised_loss_backward(grad, inputs[0], *expected[1:]) for side in (launcher, reference))
    assert_close(*gradients, tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["f32", "f64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
def test_loss_slopes_and_gradient(case, dtype):
    assert_agrees(case.make_inputs(DEVICE, dtype), TOLERANCES[dtype])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_more_images_and_elements_than_one_tile(monkeypatch, reduction):
    monkeypatch.setattr(launcher, "BLOCK_N", 4)
    monkeypatch.setattr(launcher, "BLOCK_E", 8)
    monkeypatch.setattr(launcher, "BLOCK_ROWS", 4)
    monkeypatch.setattr(launcher, "BLOCK_PAIRS", 8)
    label = torch.arange(19, device=DEVICE) % 5
    assert_agrees((seeded((19, 3, 21), DEVICE), label, 0.7, 1.9, 1e-3, reduction), 1e-5)


def test_strided_label_and_slopes():
    vectors, label = seeded((4, 3, 6), DEVICE), torch.tensor([2, 9, 0, 9, 2, 9, 2, 9], device=DEVICE)[::2]
    assert_agrees((vectors, label, 1.0, 1.0, 1e-6, "mean"), 1e-5)
    grad = torch.tensor(1.0, device=DEVICE)
    slopes = seeded((4, 4), DEVICE).T, seeded((2, 4), DEVICE).T
    assert_close(
        launcher.co_supervised_loss_backward(grad, vectors, *slopes),
        reference.co_supervised_loss_backward(grad, vectors, *slopes),
    )


def test_sums_have_one_order():
    inputs = seeded((9, 3, 600), DEVICE), torch.arange(9, device=DEVICE) % 4, 1.0, 1.0, 1e-6, "mean"
    first, second = (launcher.co_supervised_loss(*inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    # One distance per pair of objects, whoever asks: what one image asks of another is returned in kind.
    assert torch.equal(first[1], first[1].T)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_launches(reduction):
    """Distances, then loss and slopes in one, with nothing left to add up."""
    inputs = seeded((9, 3, 20), DEVICE), torch.arange(9, device=DEVICE) % 4, 1.0, 1.0, 1e-6, reduction
    with launches() as names:
        _, *slopes = launcher.co_supervised_loss(*inputs)
    assert names == [f"co_supervised_loss_fwd_{kernel}_kernel" for kernel in ("distances", "slopes")]
    with launches() as names:
        launcher.co_supervised_loss_backward(torch.tensor(1.0, device=DEVICE), inputs[0], *slopes)
    assert names == ["co_supervised_loss_bwd_kernel"]


@pytest.mark.skipif(DEVICE == "cuda", reason="what is called does not depend on the device")
def test_no_library_call_computes():
    """Results are allocated and written; a library's sum would be a launch that no counter of kernels sees."""
    inputs = seeded((5, 3, 20), DEVICE), torch.arange(5, device=DEVICE) % 4, 1.0, 1.0, 1e-6, "mean"
    with LibraryCalls() as calls:
        launcher.co_supervised_loss(*inputs)
    # The tests' own filling of new tensors, and the interpreter's copies.
    assert not calls.found - {"aten.empty", "aten.fill_", "aten.copy_", "aten.new_empty", "aten.set_"}
