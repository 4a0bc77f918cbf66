import math

import pytest
import torch

from wsolfast import ops
from wsolfast.ops import _chunked_attention
from wsolfast.reference import non_local_attention as reference
from wsolfast.testing import LargestTensor, assert_close, seeded

KINDS = ("embedded_gaussian", "dot_product")


def by_loop(query, key, value, kind):
    query, key, value = (x.flatten(2) for x in (query, key, value))
    out = torch.empty(query.shape[0], value.shape[1], query.shape[2], dtype=query.dtype)
    for n in range(query.shape[0]):
        for i in range(query.shape[2]):
            scores = [float(query[n, :, i] @ key[n, :, j]) for j in range(key.shape[2])]
            if kind == "embedded_gaussian":
                exponentials = [math.exp(score - max(scores)) for score in scores]
                weights = [e / sum(exponentials) for e in exponentials]
            else:
                weights = [score / len(scores) for score in scores]
            out[n, :, i] = sum(weight * value[n, :, j] for j, weight in enumerate(weights))
    return out


def maps(n, d, c, positions, keys, dtype=torch.float64):
    return (
        seeded((n, d, *positions), dtype=dtype),
        seeded((n, d, *keys), dtype=dtype, seed=1),
        seeded((n, c, *keys), dtype=dtype, seed=2),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [(3, 4), (2, 2), (1, 1)])
def test_reference_agrees_with_a_loop(kind, keys):
    inputs = maps(2, 3, 5, (3, 4), keys)
    assert_close(reference.non_local_attention(*inputs, kind).flatten(2), by_loop(*inputs, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_reference_backward_agrees_with_autograd_through_the_reference(kind):
    inputs = [x.requires_grad_() for x in maps(2, 3, 4, (3, 3), (2, 4))]
    out = reference.non_local_attention(*inputs, kind)
    grad = seeded(out.shape, dtype=torch.float64, seed=3)
    expected = torch.autograd.grad(out, inputs, grad)
    for actual, wanted in zip(reference.non_local_attention_backward(grad, *inputs, kind), expected, strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [(2, 4), (3, 3), (1100, 1100)], ids=["narrow", "equal", "wide"])
def test_no_weight_matrix_is_ever_in_memory(kind, channels):
    """At 1024 positions and more; wide dot products are not reordered, so they go by blocks as well."""
    side = 32 if channels[0] > 3 else 56
    inputs = maps(1, *channels, (side, side), (side, side), torch.float32)
    with LargestTensor() as largest:
        out = _chunked_attention.forward(*inputs, kind)
        _chunked_attention.backward(torch.ones_like(out), *inputs, kind)
    allowed = max(_chunked_attention._CPU_BLOCK, *(x.numel() for x in inputs), channels[0] * channels[1])
    assert largest.numel <= allowed
    if channels[0] <= 3:
        assert largest.numel < side**4 / 30


def test_dot_product_never_weighs_positions_when_that_costs_more():
    inputs = maps(1, 2, 3, (16, 16), (16, 16), torch.float32)
    with LargestTensor() as largest:
        out = _chunked_attention.forward(*inputs, "dot_product")
        _chunked_attention.backward(torch.ones_like(out), *inputs, "dot_product")
    assert largest.numel <= 3 * 16 * 16


def test_weights_of_a_position_sum_to_one():
    query, key, _ = maps(2, 3, 1, (4, 5), (2, 3))
    ones = torch.ones(2, 1, 2, 3, dtype=torch.float64)
    assert_close(ops.non_local_attention(query, key, ones), torch.ones(2, 1, 4, 5, dtype=torch.float64))


def test_scores_are_not_scaled():
    query, key, value = maps(1, 16, 1, (2, 2), (2, 2))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.flatten(2).mT[:, None] for x in (query, key, value)), scale=1.0
    )
    assert_close(ops.non_local_attention(query, key, value).flatten(2), expected[:, 0].mT)


def test_order_of_the_keys_does_not_matter():
    query, key, value = maps(2, 3, 4, (3, 3), (1, 6))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for kind in KINDS:
        assert_close(
            ops.non_local_attention(query, key[..., order], value[..., order], kind=kind),
            ops.non_local_attention(query, key, value, kind=kind),
        )


def test_large_scores_stay_finite():
    query, key, value = (x.requires_grad_() for x in maps(1, 4, 3, (4, 4), (4, 4), torch.float32))
    out = ops.non_local_attention(300 * query, key, value)
    out.sum().backward()
    for tensor in (out, query.grad, key.grad, value.grad):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_float32(dtype, kind):
    inputs = [(10 * x).to(dtype) for x in maps(2, 3, 4, (3, 5), (2, 2), torch.float32)]
    expected = ops.non_local_attention(*(x.float() for x in inputs), kind=kind).to(dtype)
    assert torch.equal(ops.non_local_attention(*inputs, kind=kind), expected)


def test_output_has_the_layout_of_the_value():
    query, key, value = maps(2, 3, 4, (3, 5), (3, 5), torch.float32)
    assert ops.non_local_attention(query, key, value).is_contiguous()
    last = ops.non_local_attention(query, key, value.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_images_do_not_mix():
    query, key, value = maps(3, 2, 4, (3, 3), (3, 3))
    together = ops.non_local_attention(query, key, value)
    for n in range(3):
        assert_close(together[n : n + 1], ops.non_local_attention(*(x[n : n + 1] for x in (query, key, value))))


@pytest.mark.parametrize(
    ("shapes", "kind", "message"),
    [
        (
            ((1, 2, 3), (1, 2, 3, 3), (1, 2, 3, 3)),
            "dot_product",
            r"query maps of shape \[N, C, h, w\], got torch.float32 \[1",
        ),
        (
            ((1, 2, 3, 3), (1, 3, 3, 3), (1, 2, 3, 3)),
            "dot_product",
            r"query \[1, 2, 3, 3\] and key \[1, 3, 3, 3\] differ",
        ),
        (((1, 2, 3, 3), (1, 2, 3, 3), (1, 2, 3, 4)), "dot_product", "differ in N or h x w"),
        (((1, 2, 3, 3), (1, 2, 0, 3), (1, 2, 0, 3)), "dot_product", "at least one key position"),
        (((1, 2, 3, 3), (1, 2, 3, 3), (1, 2, 3, 3)), "gaussian", r"kind in \('embedded_gaussian', 'dot_product'\)"),
    ],
)
def test_bad_input_is_named(shapes, kind, message):
    with pytest.raises(ValueError, match=message):
        ops.non_local_attention(*(torch.zeros(shape) for shape in shapes), kind=kind)


def test_mixed_dtypes_are_named():
    with pytest.raises(ValueError, match=r"differ in dtype: torch\.float32, torch\.float32, torch\.float64"):
        ops.non_local_attention(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).double())
