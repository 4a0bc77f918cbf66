"""Launcher and kernel of :func:`wsolfast.ops.context_pool_update`: one program per class, all in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from wsolfast.kernels._launch import on_device_of

# Values of a tile of the batch's maps.
TILE = 2048


@triton.jit
def _standardized(values, real, P, eps):
    """Return (x - mean) / sqrt(variance + eps) over the real values, in double."""
    mean = tl.sum(tl.where(real, values, 0), 0) / P
    offset = tl.where(real, values - mean, 0)
    variance = tl.sum(offset * offset, 0) / P
    return offset / tl.sqrt(variance + eps)


@triton.jit(do_not_specialize=["N"])
def context_pool_update_fwd_kernel(
    maps_ptr,  # [K, P]
    classes_ptr,
    cam_ptr,  # [N, P]
    grown_ptr,  # [K, P]
    K,
    N,
    P,
    rate: tl.float64,
    eps: tl.float64,
    TOUCHED_ONLY: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Store one class of the pool: BN(Q_k + rate BN(M_k)), M_k the sum of the batch's maps of class k."""
    k = tl.program_id(0).to(tl.int64)
    compute: tl.constexpr = maps_ptr.dtype.element_ty
    rate, eps = tl.full((), rate, tl.float64), tl.full((), eps, tl.float64)
    position = tl.arange(0, BLOCK_P)
    real = position < P
    sums = tl.zeros((BLOCK_N, BLOCK_P), tl.float64)
    touched = tl.zeros((), tl.int32)
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N).to(tl.int64)
        of = tl.load(classes_ptr + n, mask=n < N, other=-1)
        # All maps that take part are read: as in a matrix product, 0 times NaN is seen.
        mask = ((of >= 0) & (of < K))[:, None] & real[None, :]
        cam = tl.load(cam_ptr + n[:, None] * P + position[None, :], mask=mask, other=0)  # [BLOCK_N, BLOCK_P]
        sums += (of == k).to(tl.float64)[:, None] * cam.to(tl.float64)
        touched += tl.sum((of == k).to(tl.int32), 0)
    row = tl.load(maps_ptr + k * P + position, mask=real, other=0)
    batch = tl.sum(sums, 0).to(compute).to(tl.float64)
    grown = row.to(tl.float64) + rate * _standardized(batch, real, P, eps)
    grown = _standardized(grown, real, P, eps).to(compute)
    if TOUCHED_ONLY:
        grown = tl.where(touched > 0, grown, row)
    tl.store(grown_ptr + k * P + position, grown, mask=real)


def context_pool_update(
    maps: Tensor, classes: Tensor, cam: Tensor, rate: float, eps: float, touched_only: bool
) -> Tensor:
    """Return the grown pool [K, h, w]."""
    grown = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    if grown.numel() == 0:
        return grown
    positions = maps.shape[1] * maps.shape[2]
    block_p = triton.next_power_of_2(positions)
    with on_device_of(maps):
        context_pool_update_fwd_kernel[(len(maps),)](
            maps.contiguous(),
            classes.contiguous(),
            cam.contiguous(),
            grown,
            len(maps),
            len(cam),
            positions,
            rate,
            eps,
            TOUCHED_ONLY=touched_only,
            BLOCK_N=max(1, min(16, TILE // block_p)),
            BLOCK_P=block_p,
            num_warps=4 if block_p <= TILE else 16,
        )
    return grown
