"""Evidence of a kernel's design that needs no GPU: what the compiler made of it, and the launches of a call."""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder
from triton.runtime.jit import JITFunction

from wsolfast.testing.kernel_resources import KernelResources

TABLE = Path(__file__).parents[2] / "bench" / "results" / "kernel_resources.json"


@functools.cache
def _table() -> list[KernelResources]:
    """Return the kept table; ``test_resources.py`` compiles all kernels and holds it to them."""
    return [KernelResources(**row) for row in json.loads(TABLE.read_text())]


def compiled(kernel: str, build: str = "", arch: int = 90) -> list[KernelResources]:
    """Return the rows of a kernel in all builds whose name contains ``build``: at least one."""
    rows = [row for row in _table() if row.kernel == kernel and build in row.build and row.arch == arch]
    assert rows, f"no build {build!r} has a kernel {kernel!r} for sm_{arch}"
    return rows


@contextmanager
def launches() -> Iterator[list[str]]:
    """Yield the names of the Triton kernels that start inside, in their order."""
    names: list[str] = []
    kinds = {kind: kind.run for kind in (InterpretedFunction, JITFunction)}

    def recording(run):
        def recorded(self, *args, **kwargs):
            names.append(self.__name__)
            return run(self, *args, **kwargs)

        return recorded

    try:
        for kind, run in kinds.items():
            kind.run = recording(run)
        yield names
    finally:
        for kind, run in kinds.items():
            kind.run = run


@contextmanager
def reads_of(tensor: Tensor) -> Iterator[list[int]]:
    """Yield a list to which every interpreted load adds the number of elements that it reads of a contiguous tensor."""
    reads: list[int] = []
    load = InterpreterBuilder.create_masked_load
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()

    def counting(self, pointers, mask, *args, **kwargs):
        inside = (pointers.data >= begin) & (pointers.data < end) & mask.data
        reads.append(int(inside.sum()))
        return load(self, pointers, mask, *args, **kwargs)

    InterpreterBuilder.create_masked_load = counting
    try:
        yield reads
    finally:
        InterpreterBuilder.create_masked_load = load


class LibraryCalls(TorchDispatchMode):
    """The names of PyTorch's own operations that run inside: each but views and allocations is a launch on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))
