"""The Triton kernels of ``class_head_pool`` agree with the reference; interpreted where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from static_evidence import compiled, launches
from wsolfast.kernels import class_head_pool as kernels

from wsolfast.reference import class_head_pool as reference
from wsolfast.testing import OP_CASES, assert_close, seeded, tolerance_on

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# What "blocks" cases ask of the CPU's blocks is asked of tiles below, at sizes that the interpreter can bear.
CASES = [case for case in OP_CASES["class_head_pool"] if "blocks" not in case.name]


def on_device(inputs):
    return [x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in inputs]


def check(inputs, tolerance=None):
    tolerance = tolerance_on(DEVICE, "class_head_pool", inputs[0].dtype) if tolerance is None else tolerance
    logits = reference.class_head_pool(*inputs)
    assert_close(kernels.class_head_pool(*on_device(inputs)).cpu(), logits, tolerance)
    grad = seeded(logits.shape, dtype=logits.dtype, seed=3)
    expected = reference.class_head_pool_backward(grad, *inputs)
    found = kernels.class_head_pool_backward(*on_device((grad, *inputs)))
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual.cpu(), wanted, tolerance)
    features, weight, bias, relu = on_device(inputs)
    if relu:
        kept, signs = kernels.class_head_pool_with_signs(features, weight, bias)
        assert_close(kept.cpu(), logits, tolerance)
        kept = kernels.class_head_pool_signs_backward(grad.to(DEVICE), features, weight, signs)
        for actual, wanted in zip(kept, found, strict=True):
            assert_close(actual.cpu(), wanted.cpu(), 0.0)


def head(images, channels, size, classes, dtype=torch.float32):
    weight = seeded((classes, channels), dtype=dtype, seed=1) / channels**0.5
    return seeded((images, channels, *size), dtype=dtype), weight, seeded((classes,), dtype=dtype, seed=2), True


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    check(case.make_inputs("cpu", torch.float32))


@pytest.mark.parametrize("channels", [30, 70], ids=["one_tile_of_channels", "several"])
def test_several_tiles_of_classes_and_positions(channels):
    check(head(2, channels, (9, 5), 70))


@pytest.mark.parametrize("programs", [1, 3, 1000])
def test_split_of_the_work_does_not_matter(programs, monkeypatch):
    monkeypatch.setattr(kernels, "_ENOUGH_PROGRAMS", programs)
    check(head(3, 5, (10, 17), 7))


@pytest.mark.parametrize("size", [(1, 1), (4, 8), (3, 11), (9, 15)])
def test_signs_are_those_of_the_maps(size):
    """Of small integers, whose products are exact: a word less than full, full, and more."""
    features, weight, bias = torch.randint(-3, 4, (2, 5, *size)), torch.randint(-3, 4, (7, 5)), torch.arange(7) - 3
    given = [x.float() for x in (features, weight, bias)]
    logits, signs = kernels.class_head_pool_with_signs(*on_device(given))
    expected, wanted = reference.class_head_pool_with_signs(*given)
    assert_close(logits.cpu(), expected)
    assert torch.equal(signs.cpu(), wanted)


@pytest.mark.parametrize(
    ("images", "summed"), [(2, ["class_head_pool_sum_kernel"]), (4, [])], ids=["few_images", "many_images"]
)
def test_launches(images, summed, monkeypatch):
    """One a pass where there are programs enough, and one that adds up and rounds what splits have found."""
    monkeypatch.setattr(kernels, "_ENOUGH_PROGRAMS", 4)
    *given, _ = on_device(head(images, 5, (9, 9), 7))
    with launches() as names:
        logits, signs = kernels.class_head_pool_with_signs(*given)
    assert names == ["class_head_pool_fwd_kernel", *summed]
    with launches() as names:
        kernels.class_head_pool_signs_backward(torch.ones_like(logits), *given[:2], signs)
    backward = ["class_head_pool_bwd_features_kernel", "class_head_pool_bwd_weight_kernel"]
    assert names == [*backward, "class_head_pool_sum_kernel"]


@pytest.mark.parametrize("kernel", ["fwd", "bwd_features", "bwd_weight"])
@pytest.mark.parametrize("build", ["28x28x128 to 1000 N=128 bfloat16", "28x28x128 to 200 N=128 bfloat16"])
def test_two_ctas_stand_on_a_multiprocessor(kernel, build):
    """One multiplies, by wgmma, while the other expands signs or sums; operands are copied ahead of them."""
    for row in compiled(f"class_head_pool_{kernel}_kernel", build):
        assert row.ctas_per_multiprocessor >= 2
        assert row.spilled_bytes == 0
        assert row.wgmma_instructions > 0
        assert row.async_copies > 0


@pytest.mark.parametrize(
    ("images", "classes", "programs"), [(128, 1000, 264), (128, 200, 256), (30, 200, 260), (1, 200, 26)]
)
def test_gradients_of_weights_are_one_wave(images, classes, programs):
    """28x28 positions, in tiles of 64 positions and 128 classes: no program waits for another to end."""
    groups, steps = -(-classes // 128), images * -(-784 // 64)
    splits = kernels._splits(steps, groups)
    assert groups * splits == programs
    assert (splits - 1) * -(-steps // splits) < steps


def test_float64_keeps_its_precision():
    check(head(2, 20, (3, 5), 7, torch.float64))


BFLOAT16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter multiplies bfloat16's bits as integers"),
)


@pytest.mark.parametrize("dtype", [torch.float16, BFLOAT16])
def test_half_precision_is_summed_in_float32(dtype):
    inputs = [x.to(dtype) if isinstance(x, torch.Tensor) else x for x in head(2, 40, (6, 5), 9)]
    wide = [x.float() if isinstance(x, torch.Tensor) else x for x in inputs]
    expected = reference.class_head_pool(*wide)
    logits = kernels.class_head_pool(*on_device(inputs)).cpu()
    assert logits.dtype == dtype
    assert_close(logits, expected, torch.finfo(dtype).eps)
    # Far below the smallest float16 once divided by the number of positions.
    grad = (1e-6 * seeded(logits.shape, seed=3)).to(dtype)
    found = kernels.class_head_pool_backward(*on_device((grad, *inputs)))
    for actual, wanted in zip(found, reference.class_head_pool_backward(grad.float(), *wide), strict=True):
        assert actual.dtype == dtype
        unit = max(torch.finfo(dtype).eps * wanted.abs().max().item(), torch.finfo(dtype).smallest_normal * 2**-10)
        torch.testing.assert_close(actual.cpu().float(), wanted, rtol=0, atol=unit)


def test_other_dtypes_are_named():
    features, weight = (torch.zeros(shape, dtype=torch.float8_e5m2) for shape in ((1, 2, 2, 2), (3, 2)))
    with pytest.raises(TypeError, match="float16, bfloat16, float32, float64, got float8_e5m2"):
        kernels.class_head_pool(features, weight, None, True)
