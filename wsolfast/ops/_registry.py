"""Definition of ops: schema, reference, fake and autograd; the dispatcher then picks a kernel for a device.

The ladder, settled at import: compiled kernel, then Triton (CUDA only), then library calls or the PyTorch reference.
Compiled kernels are loaded before the schemas are defined, so a binary whose signature differs is a Python error that
names both.
"""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from wsolfast import _extension

_NAMESPACE = "wsolfast"
# Of a CUDA device: what setup.py compiles for and Triton's tiles are made for.
_LEAST_CAPABILITY = (8, 0)
_LIBRARY = torch.library.Library(_NAMESPACE, "FRAGMENT")
_TRITON: set[str] = set()
_COMPOSITE: set[str] = set()
_OPS: list[str] = []
_REFERENCES: dict[torch._ops.OpOverload, Callable] = {}


def define_op(
    name: str,
    *,
    reference: Callable,
    fake: Callable,
    setup_context: Callable | None = None,
    backward: Callable | None = None,
    triton: str | None = None,
    composite: Callable | None = None,
) -> torch._ops.OpOverload:
    """Register an op and return its callable overload.

    Args:
        name: of the op, without the namespace; one that is not public begins with an underscore.
        reference: plain PyTorch implementation, serves every device that has no kernel. Its annotated signature is the
            op's schema: types as :func:`torch.library.infer_schema` takes them, no default values.
        fake: shapes, dtypes and strides of the outputs, for ``torch.compile`` and export.
        setup_context: saves what ``backward`` needs (:func:`torch.library.register_autograd`).
        backward: gradient formula; both or neither of the two are given.
        triton: ``"module:function"`` of a launcher, imported at the first CUDA call when csrc has no CUDA kernel.
        composite: library calls that serve every device without a kernel, where the reference would need too much
            memory to do so; the reference then is the oracle of the tests only.
    """
    qualified = f"{_NAMESPACE}::{name}"
    _LIBRARY.define(torch.library.infer_schema(reference, op_name=name, mutates_args=()))
    _LIBRARY.impl(name, _without_autocast(composite or reference), "CompositeExplicitAutograd")
    if composite is not None:
        _COMPOSITE.add(name)
    if triton is not None and not _has_kernel(qualified, "CUDA"):
        _LIBRARY.impl(name, lazy_launcher(name, triton), "CUDA")
        _TRITON.add(name)
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_LIBRARY)
    _OPS.append(name)
    overload = getattr(getattr(torch.ops, _NAMESPACE), name).default
    _REFERENCES[overload] = reference
    return overload


def widens(tensor: torch.Tensor) -> bool:
    """Return True if an op gets half precision as float32: not on CUDA, whose kernels widen it in registers."""
    return tensor.element_size() < 4 and not tensor.is_cuda


def backends() -> dict[str, dict[str, str]]:
    """Return what serves each op on each device, e.g. ``{"min_max_normalize": {"cpu": "csrc", "cuda": "triton"}}``.

    The answers are "csrc", "triton", "composite" and "reference". Private backward ops (leading underscore) are listed
    too.

    Example:
        >>> sorted(backends()["min_max_normalize"])
        ['cpu', 'cuda']
    """
    table = {}
    for name in sorted(_OPS):
        qualified = f"{_NAMESPACE}::{name}"
        fallback = "composite" if name in _COMPOSITE else "reference"
        cuda = "triton" if name in _TRITON else "csrc" if _has_kernel(qualified, "CUDA") else fallback
        table[name] = {"cpu": "csrc" if _has_kernel(qualified, "CPU") else fallback, "cuda": cuda}
    return table


def references() -> dict[torch._ops.OpOverload, Callable]:
    """Return plain PyTorch in place of each op: a table for ``ExportedProgram.run_decompositions``.

    Example:
        >>> references()[torch.ops.wsolfast.min_max_normalize.default].__module__
        'wsolfast.reference.min_max_normalize'
    """
    return dict(_REFERENCES)


def extension_status() -> str | None:
    """Return None when the compiled kernels are loaded, otherwise one line that says why they are not.

    Example:
        >>> compiled = extension_status() is None
        >>> backends()["pixel_histogram"]["cpu"] == ("csrc" if compiled else "reference")
        True
    """
    return _extension.MISSING_BECAUSE


def _without_autocast(function: Callable) -> Callable:
    """Return the function without autocast, which would round the matrix products inside an op."""

    def run(*args: Any) -> Any:
        device = _device_of(args).type
        if not torch.is_autocast_enabled(device):
            return function(*args)
        with torch.autocast(device, enabled=False):
            return function(*args)

    return run


def _has_kernel(qualified: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(qualified, key)


def _device_of(args: tuple[Any, ...]) -> torch.device:
    values = (value for x in args for value in (x if isinstance(x, list | tuple) else (x,)))
    return next(value.device for value in values if isinstance(value, torch.Tensor))


@cache
def why_not_on(device: torch.device) -> str | None:
    """Return the reason why Triton's kernels cannot run there, or None."""
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) >= _LEAST_CAPABILITY:
        return None
    return (
        f"the CUDA kernels want compute capability 8.0 (Ampere) or newer, {torch.cuda.get_device_name(device)} has "
        f"{major}.{minor}; call it with tensors on the CPU"
    )


def lazy_launcher(name: str, path: str) -> Callable:
    module, function = path.split(":")

    def launch(*args: Any) -> Any:
        if reason := why_not_on(_device_of(args)):
            raise RuntimeError(f"{name}: {reason}")
        return getattr(importlib.import_module(module), function)(*args)

    return _without_autocast(launch)
