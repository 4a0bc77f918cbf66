"""Softmax attention on CUDA: the choice of a library by shape, and the calls.

Left to itself torch falls to its slowest kernel as soon as queries and values differ in width, and to none at all in
deterministic mode; so nothing here is left to it.
"""

import functools
import logging
from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from wsolfast.reference._layout import layout_of

_log = logging.getLogger(__name__)
# Products of all images below which launches are what strict float32 costs: our kernels have one or two where blocks
# have three to nine of some 10 us, and multiply at 12 to 24 TFLOP/s where the library does at 27: estimates
# of an H200.
_FEW_PRODUCTS = 2**29
_AMPERE = (8, 0)
_HALVES = (torch.float16, torch.bfloat16)
_HAS_CUDNN = torch.backends.cudnn.is_available()
# In this order; the last takes whatever the others refuse, and the memory-efficient kernel is not among them.
_BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


def cuda_route(
    dtype: torch.dtype,
    positions: int,
    keys: int,
    query_channels: int,
    value_channels: int,
    *,
    images: int,
    capability: tuple[int, int],
    libraries: Collection[str] = (),
    tf32: bool = False,
) -> str:
    """Return the way the attention of ``positions`` queries to ``keys`` keys is computed, and its gradients.

    ``capability`` is the device's; ``libraries`` are "cudnn" and "flash" where they are there and allowed; ``tf32``
    says that TF32 will do for float32.

    * ``"library"``: cuDNN, the fastest for half precision up to 128 channels, which takes more than one key; or
      FlashAttention, for queries as wide as values. Both take channels by eights.
    * ``"triton"``: our kernels, one launch forward and two backward, no weight in memory: for half precision that no
      library takes, as wide values or in deterministic mode; float32 in TF32, or where it costs launches only.
    * ``"blocks"``: two matrix products and a softmax of a block of weights. Strict float32 is three TF32 products in
      our kernels, and the library's own float32 is faster from some size on.
    """
    half, widest = dtype in _HALVES, max(query_channels, value_channels)
    if half and capability >= _AMPERE and query_channels % 8 == value_channels % 8 == 0:
        cudnn = widest <= 128 and keys > 1
        # Between 192 and 256 channels it cannot be trained through on every device.
        flash = query_channels == value_channels and (widest <= 192 or widest == 256)
        if ("cudnn" in libraries and cudnn) or ("flash" in libraries and flash):
            return "library"
    if query_channels > 128 or capability < _AMPERE:
        return "blocks"
    few = images * positions * keys * (query_channels + value_channels) < _FEW_PRODUCTS
    return "triton" if half or (dtype == torch.float32 and (tf32 or few)) else "blocks"


def libraries() -> tuple[str, ...]:
    """Return the libraries that may be asked now: none in deterministic mode, since their gradients are not."""
    if torch.are_deterministic_algorithms_enabled():
        return ()
    return ("cudnn", "flash") if _HAS_CUDNN else ("flash",)


def capability(device: torch.device) -> tuple[int, int]:
    """Return the device's compute capability, by a call that the compiler takes for a constant."""
    properties = torch.cuda.get_device_properties(device)
    return properties.major, properties.minor


def library_serves(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return True if :func:`by_library` is the way for these maps."""
    if not query.is_cuda or 0 in query.shape or 0 in value.shape:
        return False
    sizes = query.shape[2] * query.shape[3], key.shape[2] * key.shape[3], query.shape[1], value.shape[1]
    route = cuda_route(
        query.dtype, *sizes, images=query.shape[0], capability=capability(query.device), libraries=libraries()
    )
    if route != "library":
        return False
    trained = torch.is_grad_enabled() and any(maps.requires_grad for maps in (query, key, value))
    return torch.compiler.is_compiling() or _library_runs(query.device, query.dtype, *sizes, trained)


@functools.cache
def _library_runs(
    device: torch.device,
    dtype: torch.dtype,
    positions: int,
    keys: int,
    query_channels: int,
    value_channels: int,
    trained: bool,
) -> bool:
    """Return whether a library really computes attention of this size: one image is tried once.

    It is chosen by static checks and may find no plan when it is called, in the backward pass above all.
    """
    sizes = ((positions, query_channels), (keys, query_channels), (keys, value_channels))
    maps = [torch.zeros(1, c, 1, p, device=device, dtype=dtype, requires_grad=trained) for p, c in sizes]
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(trained):
            found = by_library(*maps)
            if trained:
                found.sum().backward()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _log.warning(
            "non_local_attention: the library refuses %s queries of %s channels (%s); the op's own kernels serve them",
            *(positions, query_channels, next(iter(str(error).splitlines()), type(error).__name__)),
        )
        return False
    return True


def by_library(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the attention of maps [N, channels, h, w] by the library's kernels, which also differentiate it."""
    queries, keys, values = (_rows(maps.flatten(2)) for maps in (query, key, value))
    with torch.autocast(query.device.type, enabled=False), sdpa_kernel(_BACKENDS, set_priority=True):
        mixed = functional.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    return mixed[:, 0].mT.unflatten(2, query.shape[2:]).contiguous(memory_format=layout_of(value))


def by_triton(query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
    """Store the attention of flat maps [N, channels, positions] in ``out``."""
    from wsolfast.kernels import non_local_attention as kernels

    kernels.forward(query, key, value, out)


def gradients_by_triton(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, gradients: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Store the gradients of flat query, key and value in ``gradients``, deterministically."""
    from wsolfast.kernels import non_local_attention as kernels

    kernels.backward(grad, query, key, value, *gradients)


def _rows(maps: Tensor) -> Tensor:
    """Return [N, 1, positions, channels] as the libraries want it: channels last, by 16 bytes; a copy if needed."""
    rows = maps.mT
    eights = all(stride % 8 == 0 for stride in rows.stride()[:2])
    # What is compiled has no address yet, and the compiler aligns its inputs.
    aligned = torch.compiler.is_compiling() or rows.data_ptr() % 16 == 0
    return (rows if rows.stride(2) == 1 and eights and aligned else rows.contiguous())[:, None]
