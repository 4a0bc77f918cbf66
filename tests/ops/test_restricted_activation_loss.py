import math

import pytest
import torch

from wsolfast import ops
from wsolfast.reference.restricted_activation_loss import class_spread
from wsolfast.reference.restricted_activation_loss import restricted_activation_loss as reference
from wsolfast.testing import assert_close, seeded

# The specification's example: three classes, 2 x 2 positions.
EXAMPLE = torch.tensor([[[2.0, 0, 1, -1], [0, 0, 1, 3], [-1, 0, 0, 0]]], dtype=torch.float64).view(1, 3, 2, 2)
LABEL = torch.tensor([0])
PRINTED = {"rtol": 0, "atol": 5e-7}  # printed with six decimals


def spread_by_loop(class_maps, statistic, normalization):
    n, classes, h, w = class_maps.shape
    spread = torch.zeros(n, h * w, dtype=torch.float64)
    flat = class_maps.flatten(2)
    for b in range(n):
        for p in range(h * w):
            exponentials = [math.exp(x) for x in flat[b, :, p].tolist()]
            probabilities = [e / sum(exponentials) for e in exponentials]
            mean = sum(probabilities) / classes
            variance = sum((q - mean) ** 2 for q in probabilities) / (classes - 1)
            spread[b, p] = variance if statistic == "var" else math.sqrt(variance)
        if normalization == "minmax":
            low, high = spread[b].min().item(), spread[b].max().item()
            spread[b] = (spread[b] - low) / (high - low + 1e-15)
    return spread.view(n, h, w)


def loss_by_loop(class_maps, label, tau, sigma, statistic, normalization):
    spread = spread_by_loop(class_maps, statistic, normalization)
    total = 0.0
    for b, y, x in torch.cartesian_prod(*map(torch.arange, spread.shape)).tolist():
        score = 1 / (1 + math.exp(-class_maps[b, label[b], y, x]))
        if spread[b, y, x] < tau:
            total += score
        if spread[b, y, x] > tau + sigma:
            total += 1 - score
    return total / spread.numel()


@pytest.mark.parametrize("statistic", ["var", "std"])
@pytest.mark.parametrize(("normalization", "tau", "sigma"), [("minmax", 0.1, 0.2), ("none", 0.02, 0.03)])
def test_reference_agrees_with_a_loop(statistic, normalization, tau, sigma):
    class_maps = seeded((2, 5, 4, 3), dtype=torch.float64)
    label = torch.tensor([4, 1])
    loss, _ = reference(class_maps, label, tau, sigma, statistic, normalization)
    expected = loss_by_loop(class_maps, label, tau, sigma, statistic, normalization)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("statistic", "normalization", "spread", "loss"),
    [
        ("var", "minmax", (0.721051, 0, 0.087067, 1), 0.520330),
        ("std", "minmax", (0.849147, 0, 0.295071, 1), 0.337565),
        ("var", "none", (0.196731, 0, 0.023755, 0.272839), 0.307765),
    ],
)
def test_values_of_the_specification(statistic, normalization, spread, loss):
    actual = class_spread(EXAMPLE, statistic, normalization).flatten()
    torch.testing.assert_close(actual, torch.tensor(spread, dtype=torch.float64), **PRINTED)
    settings = {"tau": 0.1, "sigma": 0.2, "statistic": statistic, "normalization": normalization}
    assert ops.restricted_activation_loss(EXAMPLE, LABEL, **settings).item() == pytest.approx(loss, abs=5e-7)


def test_sets_of_the_specification():
    class_maps = EXAMPLE.clone().requires_grad_()
    ops.restricted_activation_loss(class_maps, LABEL, tau=0.1, sigma=0.2).backward()
    # Background is pushed down, the object up: positions 1 and 2, then 0 and 3.
    assert class_maps.grad[0, 0].flatten().sign().tolist() == [-1, 1, 1, -1]


def test_only_the_labels_channel_receives_the_gradient_of_the_formula():
    class_maps = seeded((2, 4, 3, 5), dtype=torch.float64).requires_grad_()
    label = torch.tensor([3, 0])
    (3 * ops.restricted_activation_loss(class_maps, label)).backward()
    spread = spread_by_loop(class_maps.detach(), "var", "minmax")
    expected = torch.zeros_like(class_maps)
    for b in range(2):
        score = class_maps[b, label[b]].detach().sigmoid()
        background, object_ = (spread[b] < 0.1).double(), (spread[b] > 0.3).double()
        expected[b, label[b]] = 3 * score * (1 - score) * (background - object_) / spread.numel()
    assert_close(class_maps.grad, expected)


def test_gradient_agrees_with_autograd_through_the_reference():
    label = torch.tensor([1, 2])
    mine, theirs = (seeded((2, 3, 4, 4), dtype=torch.float64).requires_grad_() for _ in range(2))
    ops.restricted_activation_loss(mine, label, statistic="std").backward()
    reference(theirs, label, 0.1, 0.2, "std", "minmax")[0].backward()
    assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("normalization", ["minmax", "none"])
@pytest.mark.parametrize("statistic", ["var", "std"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positions_that_differ_by_rounding_are_background(statistic, normalization, dtype):
    """Equal logits at each position, another constant at each: the probabilities are equal but for rounding."""
    class_maps = seeded((2, 1, 5, 5), dtype=dtype).expand(2, 200, 5, 5).contiguous()
    label = torch.tensor([0, 199])
    settings = {"statistic": statistic, "normalization": normalization, "tau": 1e-3}
    loss = ops.restricted_activation_loss(class_maps, label, **settings)
    assert_close(loss, class_maps[:, 0].sigmoid().mean())


def test_shifted_copies_of_one_position_are_background():
    class_maps = seeded((1, 7, 1, 1)) + seeded((1, 1, 4, 4), seed=1)
    loss = ops.restricted_activation_loss(class_maps, torch.tensor([2]))
    assert_close(loss, class_maps[:, 2].sigmoid().mean())


def test_one_class_is_background():
    class_maps = seeded((2, 1, 3, 3))
    assert_close(ops.restricted_activation_loss(class_maps, torch.tensor([0, 0])), class_maps.sigmoid().mean())


def test_empty_batch_costs_nothing():
    class_maps = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = ops.restricted_activation_loss(class_maps, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert class_maps.grad.shape == (0, 3, 4, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_logit_makes_loss_and_its_own_images_gradient_nan(value):
    class_maps = seeded((2, 3, 2, 2))
    class_maps[1, 2, 0, 1] = value
    class_maps.requires_grad_()
    loss = ops.restricted_activation_loss(class_maps, torch.tensor([0, 1]))
    loss.backward()
    assert loss.isnan()
    assert class_maps.grad[0].isfinite().all()
    assert class_maps.grad[1, 1].isnan().all()


def test_ruled_out_class_changes_nothing_but_the_mean():
    """A class at minus infinity has probability zero; u is scaled, so only its absolute size would move."""
    class_maps = seeded((2, 4, 3, 3), dtype=torch.float64)
    ruled_out = torch.cat([class_maps, torch.full((2, 1, 3, 3), -torch.inf, dtype=torch.float64)], 1)
    label = torch.tensor([3, 1])
    assert_close(ops.restricted_activation_loss(ruled_out, label), ops.restricted_activation_loss(class_maps, label))


def test_large_logits_neither_overflow_nor_vanish():
    class_maps = 500 * seeded((1, 3, 3, 3))
    expected, _ = reference(class_maps.double(), torch.tensor([1]), 0.1, 0.2, "var", "minmax")
    assert_close(ops.restricted_activation_loss(class_maps, torch.tensor([1])), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    class_maps = seeded((2, 3, 4, 4)).to(dtype).requires_grad_()
    loss = ops.restricted_activation_loss(class_maps, torch.tensor([2, 0]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert class_maps.grad.dtype == dtype
    assert torch.equal(loss, ops.restricted_activation_loss(class_maps.detach().float(), torch.tensor([2, 0])))


def test_fullgraph_compile_sees_loss_and_gradient():
    def gradient(function):
        class_maps = seeded((2, 3, 4, 4)).requires_grad_()
        (2 * function(class_maps, torch.tensor([2, 0]))).backward()
        return class_maps.grad

    compiled = torch.compile(ops.restricted_activation_loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(gradient(compiled), gradient(ops.restricted_activation_loss))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(3, 4), LABEL), {}, r"class_maps of shape \[N, K, h, w\], got torch.float32 \[3, 4\]"),
        (
            (torch.zeros(1, 2, 2, 2), torch.zeros(2).long()),
            {},
            r"integers of shape \[1\] for label, got torch.int64 \[2\]",
        ),
        ((torch.zeros(1, 2, 2, 2), torch.zeros(1)), {}, "expected integers"),
        ((torch.zeros(1, 2, 2, 2), LABEL), {"statistic": "mad"}, "expected statistic in"),
        ((torch.zeros(1, 2, 2, 2), LABEL), {"normalization": "max"}, "expected normalization in"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ops.restricted_activation_loss(*arguments, **options)


def test_label_outside_the_classes_is_an_error():
    with pytest.raises((RuntimeError, IndexError), match=r"label|index"):
        ops.restricted_activation_loss(torch.zeros(1, 2, 2, 2), torch.tensor([2]))
