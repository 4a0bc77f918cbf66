"""CUDA's tolerances hold for what tensor cores compute, here emulated: three TF32 products, sums cut after each step.

No kernel runs: the references do, in float32 with these products, and in float64.
"""

from importlib import import_module

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from wsolfast.testing import CUDA_TOLERANCES, OP_CASES, OpCase, seeded, tolerance_on
from wsolfast.testing.cases.self_correlation_map import case, coarse_cam, layer

# Terms that a tensor core adds at once.
DEPTH = 8
# What emulation leaves out: another order of the sums, and ex2.approx with its two last places.
SHARE = 0.5


def truncated(x):
    """TF32 has 10 of float32's 23 bits; the others are cut off."""
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


def towards_zero(exact):
    near = exact.float()
    return torch.where(near.double().abs() > exact.abs(), torch.nextafter(near, torch.zeros_like(near)), near)


def product(a, b):
    parts = [(truncated(x), truncated(x - truncated(x))) for x in (a, b)]
    (high, low), (other_high, other_low) = parts
    total = torch.zeros((*a.shape[:-1], b.shape[-1]))
    for one, other in ((low, other_high), (high, other_low), (high, other_high)):
        for k in range(0, a.shape[-1], DEPTH):
            step = one[..., k : k + DEPTH].double() @ other[..., k : k + DEPTH, :].double()
            total = towards_zero(total.double() + step)
    return total


class TensorCores(TorchDispatchMode):
    """Products of float32 as CUDA's kernels make them."""

    products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm", "convolution") and args[0].dtype == torch.float32:
            self.products += 1
            if name != "convolution":
                return product(*args)
            maps, weight, bias = args[:3]
            out = product(weight[:, :, 0, 0].expand(len(maps), -1, -1), maps.flatten(2)).unflatten(2, maps.shape[2:])
            return out if bias is None else out + bias[:, None, None]
        assert name not in ("addmm", "baddbmm", "addbmm"), name
        return func(*args, **(kwargs or {}))


def errors(call, inputs, relative_to_largest=False):
    """Return the largest error of each result, relative to max(1, |exact|) or to the largest exact value."""

    def results(values):
        found = call(*values)
        return found if isinstance(found, tuple) else (found,)

    exact = results(tree_map_only(torch.Tensor, lambda x: x.double() if x.is_floating_point() else x, inputs))
    with TensorCores() as cores:
        found = results(inputs)
    assert cores.products, "no product was made"
    units = [x.abs().nan_to_num().max() if relative_to_largest and x.numel() else x.abs().nan_to_num() for x in exact]
    gaps = [(a - b).abs().nan_to_num() / u.clamp(min=1) for a, b, u in zip(found, exact, units, strict=True)]
    return max((gap.max().item() for gap in gaps if gap.numel()), default=0.0)


def correlation(variant, channels, side, **options):
    def make(device, dtype):
        return [layer((1, channels, *side), device, dtype)], coarse_cam((1, 2, *side), device, dtype)

    return case(f"{variant}_{side}", make, variant, **options)


def head(device, dtype):
    weight = seeded((200, 128), device, dtype, 1) / 128**0.5
    return seeded((2, 128, 28, 28), device, dtype), weight, weight[:, 0].contiguous(), True


def attention_of(channels, side):
    def make(device, dtype):
        shapes = ((1, n, side, side) for n in (channels, channels, 8 * channels))
        return *(seeded(shape, device, dtype, i) for i, shape in enumerate(shapes)), "embedded_gaussian"

    return OpCase(f"{side}x{side}", make)


CASES = {
    "self_correlation_map": [
        *OP_CASES["self_correlation_map"],
        *(correlation(variant, 9, (7, 11)) for variant in ("head", "v0", "paper")),
        *(correlation("paper", 5, (11, 13), mode=mode) for mode in ("max", "first", "second")),
        correlation("paper", 512, (14, 14)),
    ],
    "non_local_attention": [*OP_CASES["non_local_attention"], attention_of(64, 14)],
    "class_head_pool": [*OP_CASES["class_head_pool"], OpCase("28x28", head)],
}
# Nothing to multiply.
EMPTY = ("empty_batch", "empty_batch_linear", "no_class")
CASES = {op: [c for c in cases if not c.name.endswith(EMPTY)] for op, cases in CASES.items()}


@pytest.mark.parametrize("op", CUDA_TOLERANCES)
def test_results_are_well_within_the_row(op):
    call = getattr(import_module(f"wsolfast.reference.{op}"), op)
    found = {c.name: errors(call, c.make_inputs("cpu", torch.float32)) for c in CASES[op]}
    assert max(found.values()) <= SHARE * tolerance_on("cuda", op, torch.float32), max(found, key=found.get)


@pytest.mark.parametrize("op", ["non_local_attention", "class_head_pool"])
def test_gradients_are_well_within_the_row(op):
    module = import_module(f"wsolfast.reference.{op}")
    forward, backward = (getattr(module, name) for name in (op, f"{op}_backward"))
    found = {}
    for c in CASES[op]:
        inputs = c.make_inputs("cpu", torch.float32)
        grad = seeded(forward(*inputs).shape, seed=3)
        found[c.name] = errors(backward, (grad, *inputs), relative_to_largest=True)
    assert max(found.values()) <= SHARE * tolerance_on("cuda", op, torch.float32), max(found, key=found.get)


@pytest.mark.parametrize("c", CASES["self_correlation_map"], ids=lambda c: c.name)
def test_no_value_is_so_near_to_a_threshold_that_rounding_decides(c):
    """fo_th and so_th, moved by as much as a similarity may be wrong, leave the maps as they are."""
    features, cam, variant, relu_first, first, second, *options = c.make_inputs("cpu", torch.float64)
    reference = import_module("wsolfast.reference.self_correlation_map").self_correlation_map
    margin = tolerance_on("cuda", "self_correlation_map", torch.float32) / 10
    still = reference(features, cam, variant, relu_first, first, second, *options)
    for factor in (1 - margin, 1 + margin):
        moved = reference(features, cam, variant, relu_first, first * factor, second * factor, *options)
        torch.testing.assert_close(moved, still, rtol=0, atol=margin, equal_nan=True)  # what rounding may move
