"""Parts of cases, and checks that tests and benches share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

# Largest error relative to max(1, |expected|): rounding of the dtype times the longest sum the ops contain.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
# The same of float32 on CUDA for the ops whose products are three TF32 products: each leaves out 2^-21 of a term, and a
# sum is cut, not rounded, after every eight terms. tests/kernels/test_cuda_tolerances.py emulates both.
CUDA_TOLERANCES = {
    "self_correlation_map": 1e-5,  # 3e-6 is emulated: sums of unit vectors; a released map scales a difference of two
    "non_local_attention": 3e-5,  # 7e-6 is emulated: the exponential of a score of ten carries ten times its error
    "class_head_pool": 2e-4,  # 5e-5 is emulated: weight gradients sum over every position, and cuts add up
}


@dataclass(frozen=True)
class OpCase:
    """One way of calling an op; ``make_inputs(device, dtype)`` gives the arguments of ``torch.ops.wsolfast.<op>``."""

    name: str  # what tests and benches call it
    make_inputs: Callable[[str, torch.dtype], tuple]
    differentiable: bool = True  # gradients are compared, too


def assert_close(actual: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """Check equal shapes, NaNs in the same places, and values within the dtype's tolerance.

    Args:
        actual (Tensor[...]): its dtype decides the tolerance.
        expected (Tensor[...]): converted to it.
        tolerance: absolute and relative, instead of the dtype's.

    Raises:
        AssertionError: if they differ by more.
    """
    tolerance = TOLERANCES[actual.dtype] if tolerance is None else tolerance
    torch.testing.assert_close(actual, expected.to(actual), rtol=tolerance, atol=tolerance, equal_nan=True)


def tolerance_on(device: str, op: str, dtype: torch.dtype) -> float:
    """Return the tolerance of an op's results: the dtype's, on ``cuda`` the op's own row where it has one.

    Example:
        >>> [tolerance_on(device, "class_head_pool", torch.float32) for device in ("cpu", "cuda")]
        [1e-05, 0.0002]
    """
    if device == "cuda" and dtype == torch.float32:
        return CUDA_TOLERANCES.get(op, TOLERANCES[dtype])
    return TOLERANCES[dtype]


def seeded(shape: tuple[int, ...], device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Return standard normal numbers of any ``shape``, ``dtype`` and ``device`` that depend on ``seed`` only."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)


def with_gradients(inputs: tuple) -> tuple[tuple, list[Tensor]]:
    """Return an op's inputs with floating-point tensors that require gradients, and a list of these tensors."""
    values, tree = tree_flatten(inputs)
    leaves = []
    for i, value in enumerate(values):
        if isinstance(value, Tensor) and value.is_floating_point():
            values[i] = value.detach().requires_grad_()
            leaves.append(values[i])
    return tree_unflatten(values, tree), leaves


def with_value(make: Callable[..., Tensor], index: tuple[int, ...], value: float) -> Callable[..., Tensor]:
    """Return a function that makes what ``make`` makes, but for ``value`` at ``index``."""

    def changed(device: str, dtype: torch.dtype) -> Tensor:
        tensor = make(device, dtype)
        tensor[index] = value
        return tensor

    return changed


class LargestTensor(TorchDispatchMode):
    """A counter of the elements of the largest tensor that any library call returns."""

    numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out
