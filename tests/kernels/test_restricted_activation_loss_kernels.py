"""The Triton launchers against the reference; interpreted on the CPU where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from static_evidence import compiled, launches, reads_of
from wsolfast.kernels import restricted_activation_loss as launcher

from wsolfast.reference import restricted_activation_loss as reference
from wsolfast.testing import OP_CASES, assert_close, seeded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = OP_CASES["restricted_activation_loss"]
# Interpreted kernels take thresholds and weights in float32 even where they are declared float64.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-7}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["f32", "f64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_loss_and_slope(case, dtype):
    inputs = case.make_inputs(DEVICE, dtype)
    expected = reference.restricted_activation_loss(*inputs)
    for actual, wanted in zip(launcher.restricted_activation_loss(*inputs), expected, strict=True):
        assert_close(actual, wanted, TOLERANCES[dtype])
        assert actual.is_contiguous()


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 5, 7), (0, 3, 3), (1, 17, 16)])
@pytest.mark.parametrize("classes", [1, 3, 37])
def test_gradient(shape, classes):
    slope = seeded(shape, DEVICE)
    label = torch.arange(shape[0], device=DEVICE) * 2 % classes
    grad = torch.tensor(3.0, device=DEVICE)
    actual = launcher.restricted_activation_loss_backward(grad, slope, label, classes)
    assert torch.equal(actual, reference.restricted_activation_loss_backward(grad, slope, label, classes))


def test_strided_slope_and_label():
    slope = seeded((3, 4, 10), DEVICE).transpose(1, 2)[:, ::2]
    label = torch.tensor([2, 9, 0, 9, 1], device=DEVICE)[::2]
    grad = torch.tensor(1.0, device=DEVICE)
    actual = launcher.restricted_activation_loss_backward(grad, slope, label, 4)
    assert torch.equal(actual, reference.restricted_activation_loss_backward(grad, slope, label, 4))


@pytest.mark.parametrize("outside", [-1, 5])
def test_label_outside_the_classes_is_told_without_waiting(outside):
    maps = seeded((2, 5, 3, 3), DEVICE)
    label = torch.tensor([1, outside], device=DEVICE)
    loss, slope = launcher.restricted_activation_loss(maps, label, 0.1, 0.2, "var", "minmax")
    assert loss.isnan()
    assert slope[0].isfinite().all()
    assert slope[1].isnan().all()


def test_more_positions_than_one_block(monkeypatch):
    monkeypatch.setattr(launcher, "RESTRICT_BLOCK", 16)
    inputs = CASES[[case.name for case in CASES].index("many_positions")].make_inputs(DEVICE, torch.float32)
    expected = reference.restricted_activation_loss(*inputs)
    for actual, wanted in zip(launcher.restricted_activation_loss(*inputs), expected, strict=True):
        assert_close(actual, wanted, TOLERANCES[torch.float32])


@pytest.mark.parametrize("absent", [slice(0, 40), slice(33, 40), slice(0, 37)])
def test_classes_that_take_no_part(absent):
    """Whole tiles of classes at -inf, the first or the last ones, as a mask makes them."""
    maps = seeded((2, 40, 3, 5), DEVICE)
    maps[:, absent] = -torch.inf
    inputs = maps, torch.tensor([39, 38], device=DEVICE), 0.1, 0.2, "var", "minmax"
    expected = reference.restricted_activation_loss(*inputs)
    for actual, wanted in zip(launcher.restricted_activation_loss(*inputs), expected, strict=True):
        assert_close(actual, wanted, TOLERANCES[torch.float32])


@pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter counts what is read")
def test_maps_are_read_once():
    """And the label's channel once more, by the second of two launches."""
    maps = seeded((2, 70, 5, 7))
    with launches() as names, reads_of(maps) as reads:
        launcher.restricted_activation_loss(maps, torch.tensor([3, 69]), 0.1, 0.2, "var", "minmax")
    assert len(names) == 2
    assert sum(reads) == maps.numel() + maps[:, 0].numel()


def test_ctas_keep_enough_bytes_on_their_way():
    """A tile of 4 KB each; a multiprocessor needs some 23 KB to read at the speed of a copy."""
    for row in compiled("restricted_activation_loss_fwd_probabilities_kernel", "float32"):
        assert row.spilled_bytes == 0
        assert row.ctas_per_multiprocessor * launcher.BLOCK_K * launcher.BLOCK_P * 4 >= 32 * 1024
