"""Launchers and kernels of :func:`wsolfast.ops.confident_segmentation_loss` and :func:`wsolfast.ops.confidence_mask`.

One program per map; one launch and a sum over images forward, one launch backward. The sum stays a launch of its own:
one program for all maps would take longer than that.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from wsolfast.kernels._launch import check_dtype, on_device_of

BLOCK = 1024


@triton.jit
def confident_segmentation_loss_fwd_kernel(
    late_ptr,
    early_ptr,  # None: the mask alone
    mask_ptr,  # [N, P]
    loss_ptr,  # [N]: sums over positions
    sign_ptr,  # [N, P]
    P,
    w,
    late_image,
    late_row,
    late_column,
    early_image,
    early_row,
    early_column,
    weight: tl.float64,
    BLOCK: tl.constexpr,
):
    """Store the mask of one map, M[p] = [P |P S[p] - sum S| > sum_q |P S[q] - sum S|], and its loss.

    That is |S[p] - mean| > mean deviation, times P squared. The loss is the sum of |E[p] - S[p]| M[p], E the early map.
    """
    image = tl.program_id(0).to(tl.int64)
    compute: tl.constexpr = mask_ptr.dtype.element_ty
    late_ptr += image * late_image
    first = tl.load(late_ptr).to(tl.float64)
    total = tl.zeros((), tl.float64)
    for start in range(0, P, BLOCK):
        position = start + tl.arange(0, BLOCK)
        at = (position // w).to(tl.int64) * late_row + (position % w).to(tl.int64) * late_column
        value = tl.load(late_ptr + at, mask=position < P, other=0).to(tl.float64) - first
        total += tl.sum(tl.where(position < P, value, 0), 0)
    spread = tl.zeros((), tl.float64)
    for start in range(0, P, BLOCK):
        position = start + tl.arange(0, BLOCK)
        at = (position // w).to(tl.int64) * late_row + (position % w).to(tl.int64) * late_column
        value = tl.load(late_ptr + at, mask=position < P, other=0).to(tl.float64) - first
        spread += tl.sum(tl.where(position < P, tl.abs(P * value - total), 0), 0)
    loss = tl.zeros((), tl.float64)
    for start in range(0, P, BLOCK):
        position = start + tl.arange(0, BLOCK)
        real = position < P
        row, column = (position // w).to(tl.int64), (position % w).to(tl.int64)
        late = tl.load(late_ptr + row * late_row + column * late_column, mask=real, other=0)
        confident = P * tl.abs(P * (late.to(tl.float64) - first) - total) > spread
        tl.store(mask_ptr + image * P + position, confident.to(compute), mask=real)
        if early_ptr is not None:
            at = image * early_image + row * early_row + column * early_column
            gap = tl.load(early_ptr + at, mask=real, other=0).to(compute) - late.to(compute)
            finite = gap - gap == 0
            distance = tl.where(finite, tl.where(confident, tl.abs(gap), 0), float("nan"))
            loss += tl.sum(tl.where(real, distance, 0).to(tl.float64), 0)
            side = (gap > 0).to(compute) - (gap < 0).to(compute)
            side = tl.where(finite, tl.where(confident, side, 0), float("nan"))
            tl.store(sign_ptr + image * P + position, side.to(sign_ptr.dtype.element_ty), mask=real)
    if early_ptr is not None:
        tl.store(loss_ptr + image, (loss * tl.full((), weight, tl.float64)).to(compute))


@triton.jit
def confident_segmentation_loss_bwd_kernel(
    grad_ptr, sign_ptr, gradient_ptr, P, weight: tl.float64, BLOCK: tl.constexpr
):
    """Store the gradient of the early maps: grad weight sign[p]."""
    tiles = tl.cdiv(P, BLOCK)
    position = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    at = (tl.program_id(0) // tiles).to(tl.int64) * P + position
    grad = tl.load(grad_ptr)
    slope = grad * tl.full((), weight, grad_ptr.dtype.element_ty)
    sign = tl.load(sign_ptr + at, mask=position < P, other=0).to(grad_ptr.dtype.element_ty)
    tl.store(gradient_ptr + at, (slope * sign).to(gradient_ptr.dtype.element_ty), mask=position < P)


def _wide(maps: Tensor) -> torch.dtype:
    return torch.promote_types(maps.dtype, torch.float32)


def _block(positions: int) -> int:
    return min(BLOCK, triton.next_power_of_2(positions))


def confidence_mask(maps: Tensor) -> Tensor:
    """Return 0 or 1 [..., h, w]; leading dimensions that have no common stride are copied into one."""
    check_dtype("confidence_mask", maps)
    mask = torch.empty(maps.shape, dtype=_wide(maps), device=maps.device)
    if mask.numel() == 0:
        return mask
    flat = maps.reshape(-1, *maps.shape[-2:])
    images, h, w = flat.shape
    with on_device_of(maps):
        confident_segmentation_loss_fwd_kernel[(images,)](
            flat, None, mask, None, None, h * w, w, *flat.stride(), 0, 0, 0, 0.0, BLOCK=_block(h * w)
        )
    return mask


def confident_segmentation_loss(late: Tensor, early: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss [], mask [N, h, w] and the sign of the loss's derivative [N, h, w], from maps of any stride."""
    check_dtype("confident_segmentation_loss", late)
    images, h, w = late.shape
    mask = torch.empty(late.shape, dtype=_wide(late), device=late.device)
    sign = torch.empty(late.shape, dtype=late.dtype, device=late.device)
    if mask.numel() == 0:
        return mask.new_zeros(()), mask, sign
    loss = torch.empty(images, dtype=mask.dtype, device=late.device)
    with on_device_of(late):
        confident_segmentation_loss_fwd_kernel[(images,)](
            late,
            early,
            mask,
            loss,
            sign,
            h * w,
            w,
            *late.stride(),
            *early.stride(),
            weight,
            BLOCK=_block(h * w),
        )
        return loss.sum(), mask, sign


def confident_segmentation_loss_backward(grad: Tensor, sign: Tensor, weight: float) -> Tensor:
    """Return the gradient [N, h, w] with respect to the early maps."""
    sign = sign.contiguous()
    gradient = torch.empty_like(sign)
    if sign.numel() == 0:
        return gradient
    images, positions = len(sign), sign[0].numel()
    block = _block(positions)
    with on_device_of(sign):
        # Not over all images at once: the number of their positions would say less about alignment than a map's.
        confident_segmentation_loss_bwd_kernel[(images * triton.cdiv(positions, block),)](
            grad, sign, gradient, positions, weight, BLOCK=block
        )
    return gradient
