"""CoAug's loss against numbers worked by hand, loops in float64, and what its equations promise."""

import math

import pytest
import torch

from wsolfast import ops
from wsolfast.reference.co_supervised_loss import co_supervised_loss as reference
from wsolfast.testing import OP_CASES, assert_close, seeded

F64 = {"dtype": torch.float64}
CASES = OP_CASES["co_supervised_loss"]

# The specification's example: two images of one class and one of another.
FOREGROUND = torch.tensor([[0, 0], [3, 4], [0, 5]], **F64)
BACKGROUND = torch.tensor([[1, 0], [3, 6], [4, 5]], **F64)
CONFIDENT = torch.tensor([[1, 1], [3, 6.5], [4, 7]], **F64)
EXAMPLE = torch.stack((FOREGROUND, BACKGROUND, CONFIDENT), dim=1)
LABEL = torch.tensor([0, 0, 1])


def test_golden():
    vectors = EXAMPLE.clone().requires_grad_()
    loss = ops.co_supervised_loss(vectors, LABEL, eps=0)
    torch.testing.assert_close(loss.item(), 5.1390275, rtol=0, atol=1e-7)  # printed digits
    (grad,) = torch.autograd.grad(loss, vectors)
    expected = torch.tensor(
        [
            [[1.071111, -0.48], [-1.471111, -0.8], [0, 0.8]],
            [[0.3375433, 2.0315142], [0, -2.3063063], [0, 0.8289443]],
            [[0.1220409, -0.0741522], [-0.0595842, -0.2956110], [0, 0.2956110]],
        ],
        **F64,
    )
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-6)  # printed digits
    mean = ops.co_supervised_loss(EXAMPLE, LABEL, reduction="mean", eps=0)
    torch.testing.assert_close(mean.item(), 13 / 3 + (0.4 + 0.4056942) / 2, rtol=0, atol=1e-7)


@pytest.mark.parametrize("label", [[0, 1, 0, 2, 1], [0] * 5, list(range(5)), [3]])
def test_agrees_with_a_loop(label):
    n, gamma, delta, eps = len(label), 0.7, 1.9, 1e-3
    vectors = seeded((n, 3, 6), **F64)
    apart = [math.dist(f, b) for f, b, _ in vectors.tolist()]
    spread = [math.dist(b, k) for _, b, k in vectors.tolist()]
    sets = {True: [], False: []}
    for m in range(n):
        for k in range(m + 1, n):
            between = math.dist(vectors[m, 0].tolist(), vectors[k, 0].tolist())
            top, bottom = gamma * (spread[m] + spread[k]), (apart[m] + apart[k]) / 2 + eps
            same = label[m] == label[k]
            sets[same].append((top + between) / bottom if same else top / (delta * between + bottom))
    options = {"gamma": gamma, "delta": delta, "eps": eps}
    loss = ops.co_supervised_loss(vectors, torch.tensor(label), **options)
    torch.testing.assert_close(loss.item(), math.fsum(sets[True] + sets[False]))
    mean = ops.co_supervised_loss(vectors, torch.tensor(label), reduction="mean", **options)
    torch.testing.assert_close(mean.item(), sum(math.fsum(part) / max(1, len(part)) for part in sets.values()))


def test_scale_of_the_embedding_and_names_of_classes_do_not_matter():
    vectors, label = seeded((6, 3, 8), **F64), torch.tensor([0, 1, 2, 0, 1, 1])
    loss = ops.co_supervised_loss(vectors, label, eps=0)
    torch.testing.assert_close(ops.co_supervised_loss(37 * vectors, label, eps=0), loss)
    torch.testing.assert_close(ops.co_supervised_loss(vectors, torch.tensor([2, 0, 1])[label], eps=0), loss)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(ops.co_supervised_loss(vectors[order], label[order], eps=0), loss)


def test_equal_images_and_single_ones_stay_finite():
    same = seeded((1, 3, 4), **F64).expand(3, -1, -1)
    flat = torch.zeros(3, 3, 4, **F64)
    for start in (same, flat):
        vectors = start.clone().requires_grad_()
        loss = ops.co_supervised_loss(vectors, torch.tensor([0, 0, 1]))
        (grad,) = torch.autograd.grad(loss, vectors)
        assert loss.isfinite()
        assert grad.isfinite().all()
    assert ops.co_supervised_loss(same[:1], torch.tensor([0])) == 0
    assert ops.co_supervised_loss(same[:0], torch.tensor([], dtype=torch.long)) == 0


@pytest.mark.parametrize("case", [case for case in CASES if case.differentiable], ids=lambda case: case.name)
def test_gradient_agrees_with_autograd_through_reference_and_loop(case):
    vectors, *rest = case.make_inputs("cpu", torch.float64)

    def gradient(function):
        own = vectors.clone().requires_grad_()
        (3 * function(own, *rest)).backward()
        return own.grad

    actual = gradient(lambda *inputs: torch.ops.wsolfast.co_supervised_loss(*inputs)[0])
    assert_close(actual, gradient(lambda *inputs: reference(*inputs)[0]))
    assert_close(actual, gradient(loss_by_loop))


def loss_by_loop(vectors, label, gamma, delta, eps, reduction):
    """The loss by pairs, for autograd."""
    foreground, background, confident = vectors.unbind(1)
    totals, counts = [0.0 * vectors.sum()] * 2, [0, 0]
    for m in range(len(label)):
        for n in range(m + 1, len(label)):
            pair = [m, n]
            between = (foreground[m] - foreground[n]).norm()
            top = gamma * (background[pair] - confident[pair]).norm(dim=1).sum()
            bottom = (foreground[pair] - background[pair]).norm(dim=1).mean() + eps
            same = int(label[m] == label[n])
            totals[same] = totals[same] + ((top + between) / bottom if same else top / (bottom + delta * between))
            counts[same] += 1
    return sum(t / (max(1, c) if reduction == "mean" else 1) for t, c in zip(totals, counts, strict=True))


def test_equal_objects_do_not_pull_at_each_other():
    vectors = seeded((2, 3, 4), **F64)
    vectors[1, 0] = vectors[0, 0]
    _, pair_slope, _ = reference(vectors, torch.tensor([0, 0]), 1.0, 1.0, 0.0, "sum")
    assert pair_slope.abs().sum() == 0


def test_objects_that_nearly_agree_keep_their_digits():
    """In float32, |a|² + |b|² - 2ab of these would be 0 or noise."""
    vectors = (100 + seeded((1, 3, 64), **F64)).repeat(2, 1, 1)
    vectors[:, 1:] += seeded((2, 2, 64), seed=1, **F64)
    vectors[1, 0, 0] += 1e-3
    vectors = vectors.float()
    label = torch.tensor([0, 0])
    expected = ops.co_supervised_loss(vectors.double(), label, gamma=0.0)
    assert ops.co_supervised_loss(vectors, label, gamma=0.0).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    vectors, label = seeded((3, 3, 4)).to(dtype).requires_grad_(), torch.tensor([2, 0, 2])
    loss = ops.co_supervised_loss(vectors, label)
    loss.backward()
    assert loss.dtype == torch.float32
    assert vectors.grad.dtype == dtype
    assert torch.equal(loss, ops.co_supervised_loss(vectors.detach().float(), label))


def test_fullgraph_compile_sees_loss_and_gradient():
    def gradient(function):
        vectors = seeded((3, 3, 4)).requires_grad_()
        (2 * function(vectors, torch.tensor([2, 0, 2]))).backward()
        return vectors.grad

    compiled = torch.compile(ops.co_supervised_loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(gradient(compiled), gradient(ops.co_supervised_loss))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(3, 4), LABEL), {}, r"vectors of shape \[N, 3, D\], got torch.float32 \[3, 4\]"),
        ((torch.zeros(3, 2, 4), LABEL), {}, r"\[N, 3, D\]"),
        ((torch.zeros(3, 3, 4, dtype=torch.int64), LABEL), {}, "floating-point"),
        ((torch.zeros(1, 3, 4), LABEL), {}, r"integers of shape \[1\] for label, got torch.int64 \[3\]"),
        ((torch.zeros(3, 3, 4), torch.zeros(3)), {}, "expected integers"),
        ((torch.zeros(3, 3, 4), LABEL), {"reduction": "none"}, "expected reduction in"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ops.co_supervised_loss(*arguments, **options)
