"""Softmax attention on CUDA: which library serves which shape, said once, and the calls.

Left to itself torch falls to its slowest kernel as soon as queries and values differ in width, and to none at all in
deterministic mode; so nothing here is left to it.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Weights per image from which writing them costs more than computing them again: those of 56x56 queries and 28x28 keys.
_MANY_WEIGHTS = 1568**2
_AMPERE = (8, 0)
_HALVES = (torch.float16, torch.bfloat16)


def cuda_route(
    dtype: torch.dtype,
    positions: int,
    keys: int,
    query_channels: int,
    value_channels: int,
    *,
    capability: tuple[int, int],
    deterministic: bool,
) -> str:
    """Who computes the attention of ``positions`` queries to ``keys`` keys on a device of this compute capability.

    * ``"library"``: cuDNN, the fastest for half precision up to 128 channels, or FlashAttention where cuDNN is missing.
      It takes channels by eights and more than one key, and torch refuses it in deterministic mode.
    * ``"triton"``: our kernels, for many weights where no library runs well: float32, wide values, deterministic mode.
    * ``"blocks"``: two matrix products and a softmax of a block of weights, which few weights do not suffer from.
    """
    half, wide = dtype in _HALVES, max(query_channels, value_channels)
    by_eights = query_channels % 8 == value_channels % 8 == 0
    if half and capability >= _AMPERE and wide <= 128 and by_eights and keys > 1 and not deterministic:
        return "library"
    fits = query_channels <= 128 and capability >= _AMPERE
    if fits and (half or dtype == torch.float32) and positions * keys >= _MANY_WEIGHTS:
        return "triton"
    return "blocks"


def by_library(query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> bool:
    """Attention of flat maps [N, channels, positions] into ``out``, or False if torch has neither of the libraries."""
    from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows = [_rows(maps) for maps in (query, key, value)]
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]):
        asked = SDPAParams(*rows, None, 0.0, False, False)
        if not (can_use_cudnn_attention(asked) or can_use_flash_attention(asked)):
            return False
        out.copy_(functional.scaled_dot_product_attention(*rows, scale=1.0)[:, 0].mT)
    return True


def by_triton(query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
    """Attention of flat maps into ``out``."""
    from wsolfast.kernels import non_local_attention as kernels

    kernels.forward(query, key, value, out)


def gradients_by_triton(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, gradients: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Gradients with respect to flat query, key and value into ``gradients``: deterministic, whoever went forward."""
    from wsolfast.kernels import non_local_attention as kernels

    kernels.backward(grad, query, key, value, *gradients)


def _rows(maps: Tensor) -> Tensor:
    """[N, 1, positions, channels] as the libraries want it: channels last, by 16 bytes; a copy unless it is so."""
    rows = maps.mT
    eights = all(stride % 8 == 0 for stride in rows.stride()[:2])
    if rows.stride(2) != 1 or not eights or rows.data_ptr() % 16:
        rows = rows.contiguous()
    return rows[:, None]
