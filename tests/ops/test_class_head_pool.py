import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import conv2d

from wsolfast import ops
from wsolfast.ops import _blocked_class_head
from wsolfast.reference import class_head_pool as reference
from wsolfast.testing import LargestTensor, assert_close, seeded, tolerance_on


def inputs(n=2, channels=3, size=(3, 4), classes=5, dtype=torch.float64):
    return (
        seeded((n, channels, *size), dtype=dtype),
        seeded((classes, channels), dtype=dtype, seed=1),
        seeded((classes,), dtype=dtype, seed=2),
    )


def by_loop(features, weight, bias, relu):
    n, _, h, w = features.shape
    logits = torch.zeros(n, weight.shape[0], dtype=torch.float64)
    for b, k, y, x in torch.cartesian_prod(*map(torch.arange, (n, weight.shape[0], h, w))).tolist():
        value = float(weight[k] @ features[b, :, y, x]) + (0.0 if bias is None else float(bias[k]))
        logits[b, k] += (max(0.0, value) if relu else value) / (h * w)
    return logits


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_reference_and_op_agree_with_a_loop(relu, with_bias):
    features, weight, bias = inputs()
    bias = bias if with_bias else None
    expected = by_loop(features, weight, bias, relu)
    assert_close(reference.class_head_pool(features, weight, bias, relu), expected)
    assert_close(ops.class_head_pool(features, weight, bias, relu=relu), expected)


@pytest.mark.parametrize("relu", [True, False])
def test_gradients_are_those_of_convolution_relu_and_mean(relu):
    features, weight, bias = (x.requires_grad_() for x in inputs())
    maps = conv2d(features, weight[:, :, None, None], bias)
    expected = (maps.relu() if relu else maps).mean((2, 3))
    logits = ops.class_head_pool(features, weight, bias, relu=relu)
    assert_close(logits, expected)
    grad = seeded(logits.shape, dtype=torch.float64, seed=3)
    for actual, wanted in zip(
        torch.autograd.grad(logits, (features, weight, bias), grad),
        torch.autograd.grad(expected, (features, weight, bias), grad),
        strict=True,
    ):
        assert_close(actual, wanted)


@pytest.mark.parametrize("size", [(3, 4), (8, 8), (5, 13), (1, 1)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_signs_are_all_that_the_gradients_need(size, with_bias):
    features, weight, bias = (x.requires_grad_() for x in inputs(size=size))
    given = features, weight, bias if with_bias else None
    wanted = [x for x in given if x is not None]
    expected = ops.class_head_pool(*given)
    logits, signs = torch.ops.wsolfast._class_head_pool_with_signs(*given)
    assert_close(logits, expected)
    assert signs.shape == (2, -(-size[0] * size[1] // 32), 5)
    maps = reference.class_maps(*given)
    for k, p in torch.cartesian_prod(torch.arange(5), torch.arange(size[0] * size[1])).tolist():
        bits = signs[:, p // 32, k] >> p % 32 & 1
        assert torch.equal(bits.bool(), maps[:, k, p] > 0)
    grad = seeded(logits.shape, dtype=torch.float64, seed=3)
    for actual, exact in zip(
        torch.autograd.grad(logits, wanted, grad), torch.autograd.grad(expected, wanted, grad), strict=True
    ):
        assert_close(actual, exact)


@pytest.mark.parametrize("is_cuda", [True, False])
@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_signs_are_kept_on_cuda_for_a_backward_pass(is_cuda, requires_grad, enabled, relu):
    features, weight = (SimpleNamespace(is_cuda=is_cuda, requires_grad=needs) for needs in (False, requires_grad))
    module = sys.modules[ops.class_head_pool.__module__]
    with torch.set_grad_enabled(enabled):
        found = module._keeps_signs(relu, features, weight, None)
    assert found == (is_cuda and requires_grad and enabled and relu)


def test_class_maps_are_never_in_memory(monkeypatch):
    monkeypatch.setattr(_blocked_class_head, "_CPU_BLOCK", 256)
    features, weight, bias = inputs(n=4, channels=2, size=(8, 8), classes=50)
    with LargestTensor() as largest:
        logits = _blocked_class_head.forward(features, weight, bias, True)
        _blocked_class_head.backward(torch.ones_like(logits), features, weight, bias, True)
    assert largest.numel <= features.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    given = [x.to(dtype) for x in inputs(dtype=torch.float32)]
    logits = ops.class_head_pool(*given)
    assert logits.dtype == dtype
    assert torch.equal(logits, ops.class_head_pool(*(x.float() for x in given)).to(dtype))


def test_permuted_classes_permute_the_logits():
    features, weight, bias = inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    logits = ops.class_head_pool(features, weight[order], bias[order])
    assert_close(logits, ops.class_head_pool(features, weight, bias)[:, order])


@pytest.mark.parametrize(
    ("features", "weight", "bias", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4, 3), None, r"features of shape \[N, C, h, w\].* got torch.float32 \[2, 3\]"),
        (torch.zeros(2, 3, 0, 2), torch.zeros(4, 3), None, "h, w > 0"),
        (torch.zeros(2, 3, 2, 2), torch.zeros(0, 3), None, r"with K > 0"),
        (torch.zeros(2, 3, 2, 2), torch.zeros(4, 5), None, r"weight of shape \[K, 3\]"),
        (torch.zeros(2, 3, 2, 2), torch.zeros(4, 3), torch.zeros(3), r"bias of shape \[4\], got \[3\]"),
        (
            torch.zeros(2, 3, 2, 2),
            torch.zeros(4, 3).double(),
            None,
            "expected a weight like the features",
        ),
    ],
)
def test_bad_input_is_named(features, weight, bias, message):
    with pytest.raises(ValueError, match=message):
        ops.class_head_pool(features, weight, bias)


@pytest.mark.cuda
@pytest.mark.parametrize("with_bias", [True, False])
def test_gradients_on_cuda_come_from_signs(with_bias):
    """As users call it, with the gradient of a sum, whose strides are zero."""
    found = []
    for device in ("cpu", "cuda"):
        given = [x.float().to(device).requires_grad_() for x in inputs(channels=40, size=(9, 15), classes=70)]
        given = given if with_bias else [*given[:2], None]
        logits = ops.class_head_pool(*given)
        assert ("with_signs" in type(logits.grad_fn).__name__) == (device == "cuda")
        logits.sum().backward()
        found.append([logits.detach(), *(x.grad for x in given if x is not None)])
    for expected, actual in zip(*found, strict=True):
        unit = max(1.0, expected.abs().max().item())
        assert_close(actual.cpu() / unit, expected / unit, tolerance_on("cuda", "class_head_pool", torch.float32))
