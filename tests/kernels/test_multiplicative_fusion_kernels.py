"""The Triton kernels of ``multiplicative_fusion`` agree with the reference; interpreted where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from static_evidence import compiled, launches
from torch.utils._pytree import tree_map_only
from wsolfast.kernels import multiplicative_fusion as kernels

from wsolfast.reference import multiplicative_fusion as reference
from wsolfast.testing import OP_CASES, assert_close, seeded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = OP_CASES["multiplicative_fusion"]
BACKWARD = (
    *("spol", "spol_mean", "odd_half_pixel", "wide_row", "two_of_one_size", "same_height_only", "four_half_pixel_mean"),
    *("add_mean", "one_by_one", "empty_batch", "no_channels", "channels_last", "not_contiguous", "first_channels_last"),
)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter runs them one after the other."""
    monkeypatch.setattr(kernels, "_ENOUGH_PROGRAMS", 1)
    monkeypatch.setattr(kernels, "_ENOUGH_BACKWARD", 1)


def on_device(inputs):
    return tree_map_only(torch.Tensor, lambda x: x.to(DEVICE), inputs)


def widened(inputs):
    return tree_map_only(torch.Tensor, torch.Tensor.float, inputs)


def strides(tensor):
    """Those that lead somewhere."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def check_forward(inputs, tolerance=None):
    actual = kernels.multiplicative_fusion(*on_device(inputs))
    expected = reference.multiplicative_fusion(*inputs)
    assert_close(actual.cpu(), expected, tolerance)
    assert strides(actual) == strides(expected)


def check_backward(inputs):
    """Of inputs without scale, shift and ReLU, which backward does not take."""
    features, _, _, _, *options = inputs
    grad = seeded(reference.multiplicative_fusion(*inputs).shape, dtype=features[0].dtype, seed=7)
    given = grad, features, *options
    expected = reference.multiplicative_fusion_backward(*given)
    found = kernels.multiplicative_fusion_backward(*on_device(given))
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual.cpu(), wanted)
        assert strides(actual) == strides(wanted)


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "real_sizes"], ids=lambda case: case.name)
def test_forward(case):
    check_forward(case.make_inputs("cpu", torch.float32))


@pytest.mark.parametrize("case", [case for case in CASES if case.name in BACKWARD], ids=lambda case: case.name)
def test_backward(case):
    check_backward(case.make_inputs("cpu", torch.float32))


def branches(*sizes, n=1, channels=3, dtype=torch.float32):
    return [seeded((n, channels, *size), dtype=dtype, seed=i) for i, size in enumerate(sizes)]


PLAIN = (None, None, False)  # neither scale nor shift nor ReLU


@pytest.mark.parametrize("align_corners", [True, False])
def test_ratio_that_is_no_integer(align_corners):
    check_forward((branches((29, 3), (14, 2), channels=2), *PLAIN, align_corners, "map", "multiply"))
    check_backward((branches((9, 29), (4, 14), channels=2), *PLAIN, align_corners, "mean", "multiply"))


def test_rows_split_among_programs(monkeypatch):
    monkeypatch.setattr(kernels, "_ENOUGH_PROGRAMS", 4)
    check_forward((branches((7, 4), (3, 2), (2, 1), channels=1), *PLAIN, False, "map", "multiply"))


@pytest.mark.parametrize("align_corners", [True, False])
def test_rows_of_gradients_split_among_programs(align_corners, monkeypatch):
    """Each source row is stored once, whole, whatever rows its owner has; of five rows the fourth program owns none."""
    monkeypatch.setattr(kernels, "_ENOUGH_BACKWARD", 4)
    for sizes in (((7, 4), (3, 2), (2, 1)), ((5, 2), (1, 1))):
        check_backward((branches(*sizes, channels=1), *PLAIN, align_corners, "map", "multiply"))


def test_a_pass_is_one_launch():
    features, options = branches((4, 4), (2, 2), (1, 1)), (True, "map", "multiply")
    with launches() as names:
        out = kernels.multiplicative_fusion(*on_device((features, *PLAIN, *options)))
        kernels.multiplicative_fusion_backward(out, *on_device((features, *options)))
    assert names == ["multiplicative_fusion_fwd_kernel", "multiplicative_fusion_bwd_kernel"]


# SPOL's three branches: of 32 bits, or of any width with the channels together, which are copied 16 bytes at a time.
COPIED = ("28x128 N=128 map nchw float32", "28x128 N=128 map nhwc", "112x128 N=128 map")


@pytest.mark.parametrize("build", COPIED)
@pytest.mark.parametrize("arch", [80, 90])
def test_rows_are_copied_ahead_and_nothing_spills(build, arch):
    for kernel in ("multiplicative_fusion_fwd_kernel", "multiplicative_fusion_bwd_kernel"):
        for row in compiled(kernel, build, arch):
            assert row.async_copies > 0, row
            assert row.spilled_bytes == 0, row


@pytest.mark.parametrize("arch", [80, 90])
def test_two_programs_of_three_branches_stand_on_a_multiprocessor(arch):
    rows = [row for row in compiled("multiplicative_fusion_bwd_kernel", arch=arch) if " x4 " not in row.build]
    assert not [row for row in rows if row.registers > 128 or row.ctas_per_multiprocessor < 2]


def test_no_gradient_is_a_product_of_matrices():
    """Columns are gathered: a product with the matrix of a resize costs more than the rows that it shrinks."""
    for row in compiled("multiplicative_fusion_bwd_kernel"):
        assert row.tensor_core_instructions == 0


def test_float64_keeps_its_precision():
    inputs = (branches((5, 4), (3, 2), dtype=torch.float64), *PLAIN, True, "map", "multiply")
    check_forward(inputs)
    check_backward(inputs)


def test_half_precision_is_rounded_once():
    """The product of the first two overflows float16; times the others it fits again."""
    features = branches((4, 3), (2, 2), (2, 1), (4, 3))
    features = [(x * scale).half() for x, scale in zip(features, (300, 300, 1, 1e-3), strict=True)]
    inputs = (features, *PLAIN, True, "map", "multiply")
    expected = reference.multiplicative_fusion(*widened(inputs))
    actual = kernels.multiplicative_fusion(*on_device(inputs)).cpu()
    # Half a unit in the last place, and the float32 rounding before it.
    torch.testing.assert_close(actual.float(), expected, rtol=torch.finfo(torch.float16).eps / 2 + 1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_have_the_dtype_of_the_branches(dtype):
    inputs = ([x.to(dtype) for x in branches((4, 3), (2, 2), (2, 1))], True, "mean", "multiply")
    grad = seeded((1, 3), seed=7).to(dtype)
    expected = reference.multiplicative_fusion_backward(grad.float(), *widened(inputs))
    found = kernels.multiplicative_fusion_backward(*on_device((grad, *inputs)))
    for actual, wanted in zip(found, expected, strict=True):
        assert actual.dtype == dtype
        # The interpreter cuts bfloat16 off instead of rounding it.
        assert_close(actual.cpu(), wanted, torch.finfo(dtype).eps)


def test_other_dtypes_are_named():
    features = [x.to(torch.float8_e5m2) for x in branches((2, 2), (1, 1))]
    with pytest.raises(TypeError, match="float16, bfloat16, float32, float64, got float8_e5m2"):
        kernels.multiplicative_fusion(features, *PLAIN, True, "map", "multiply")
