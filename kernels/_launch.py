"""Helpers of all launchers."""

from contextlib import nullcontext

import torch
import triton
from torch import Tensor

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def on_device_of(tensor: Tensor):
    """Return a context in which kernels go to the tensor's device and its current stream; nothing to do off CUDA."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def architecture(tensor: Tensor) -> int:
    """Return what kernels are compiled for, 90 on Hopper, or 0 where they are interpreted."""
    return 0 if tensor.device.type == "cpu" else triton.runtime.driver.active.get_current_target().arch


def check_dtype(op: str, tensor: Tensor, *, wide: bool = True) -> None:
    """Raise a TypeError that names the dtypes the kernels of ``op`` take; float64 is among them if ``wide``."""
    taken = _DTYPES if wide else _DTYPES[:-1]
    if tensor.dtype not in taken:
        names = ", ".join(str(dtype)[6:] for dtype in taken)
        raise TypeError(f"{op}: the CUDA kernels take {names}, got {str(tensor.dtype)[6:]}")


def dot_precision(dtype: torch.dtype) -> str:
    """Return ``input_precision`` of a kernel's dots.

    Strict in float32 unless :func:`torch.set_float32_matmul_precision` says that TF32 will do: three TF32 products have
    float32's precision, and Triton's own default has not.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def has_one_stride(maps: Tensor) -> bool:
    """Return True if in [N, C, h, w] one stride leads from any position to the next, row by row."""
    h, w = maps.shape[2:]
    return h == 1 or w == 1 or maps.stride(2) == w * maps.stride(3)


def position_stride(maps: Tensor) -> int:
    """Return the stride that leads from a position to the next."""
    return maps.stride(3) if maps.shape[3] > 1 else maps.stride(2)
