"""Launchers and kernels of :func:`wsolfast.ops.co_supervised_loss`.

Distances are sums of squared differences, never products of vectors, and every sum has one order: two kernels forward,
one backward.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from wsolfast.kernels._launch import on_device_of

# Images and elements of a tile of differences, and the images of both sides whose slopes one step takes.
BLOCK_N, BLOCK_E = 8, 512
BLOCK_ROWS, BLOCK_PAIRS = 8, 64


@triton.jit(do_not_specialize=["N"])
def co_supervised_loss_fwd_distances_kernel(
    vectors_ptr,
    distances_ptr,  # [N, N + 2]: D right of the diagonal, then c and b
    N,
    E,
    stride_image,
    stride_part,
    stride_element,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Store part of a row of distances: D[m, n] = |F_m - F_n|, c[m] = |F_m - B_m| and b[m] = |B_m - K_m|."""
    tiles = tl.cdiv(N + 2, BLOCK_N)
    m = (tl.program_id(0) // tiles).to(tl.int64)
    start = (tl.program_id(0) % tiles) * BLOCK_N
    if start + BLOCK_N > m + 1:
        column = start + tl.arange(0, BLOCK_N).to(tl.int64)
        wanted = (column > m) & (column < N + 2)
        within = column >= N
        left = vectors_ptr + m * stride_image + tl.where(column == N + 1, 1, 0) * stride_part
        right = vectors_ptr + tl.where(within, m, column) * stride_image
        right += tl.where(within, column - N + 1, 0) * stride_part
        squares = tl.zeros((BLOCK_N, BLOCK_E), distances_ptr.dtype.element_ty)
        for first in range(0, E, BLOCK_E):
            element = first + tl.arange(0, BLOCK_E).to(tl.int64)[None, :]
            mask = wanted[:, None] & (element < E)
            difference = tl.load(left[:, None] + element * stride_element, mask=mask, other=0)
            difference -= tl.load(right[:, None] + element * stride_element, mask=mask, other=0)
            squares += difference * difference
        tl.store(distances_ptr + m * (N + 2) + column, tl.sqrt(tl.sum(squares, 1)), mask=wanted)


@triton.jit
def _same_pairs(label_ptr, N, BLOCK: tl.constexpr):
    """Return the number of pairs of images of one class, each counted once."""
    equal = tl.zeros((), tl.int64)
    for first in range(0, N, BLOCK):
        m = first + tl.arange(0, BLOCK)[:, None]
        for second in range(0, N, BLOCK):
            n = second + tl.arange(0, BLOCK)[None, :]
            same = tl.load(label_ptr + m, mask=m < N, other=0) == tl.load(label_ptr + n, mask=n < N, other=0)
            equal += tl.sum(tl.sum((same & (m < n) & (n < N)).to(tl.int32), 1), 0)
    return equal


@triton.jit
def _over(slope, distance):
    return tl.where(distance == 0, 0, slope / distance)


@triton.jit(do_not_specialize=["N"])
def co_supervised_loss_fwd_slopes_kernel(
    distances_ptr,  # [N, N + 2]
    label_ptr,
    loss_ptr,  # []
    pair_slope_ptr,  # [N, N]
    image_slope_ptr,  # [N, 2]
    N,
    gamma: tl.float64,
    delta: tl.float64,
    eps: tl.float64,
    MEAN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the loss and its derivatives by distances, all in one program: to add up what many found is a launch more.

    With u = (c[m] + c[n]) / 2 + eps and v = gamma (b[m] + b[n]), a pair of one class has the loss (v + D) / u, another
    v / (u + delta D). Derivatives are stored over their distance.
    """
    compute: tl.constexpr = distances_ptr.dtype.element_ty
    gamma, delta, eps = tl.full((), gamma, compute), tl.full((), delta, compute), tl.full((), eps, compute)
    same_weight, other_weight = tl.full((), 1, compute), tl.full((), 1, compute)
    if MEAN:
        pairs = _same_pairs(label_ptr, N, BLOCK)
        others = tl.full((), N, tl.int64) * (N - 1) // 2 - pairs
        same_weight /= tl.maximum(pairs, 1).to(compute)
        other_weight /= tl.maximum(others, 1).to(compute)
    loss = tl.zeros((BLOCK_M, BLOCK), compute)
    for first in range(0, N, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M).to(tl.int64)
        own = distances_ptr + m * (N + 2) + N
        label = tl.load(label_ptr + m, mask=m < N, other=0)[:, None]
        to_background, spread = tl.load(own, mask=m < N, other=1), tl.load(own + 1, mask=m < N, other=1)
        of_object = tl.zeros((BLOCK_M, BLOCK), compute)
        of_spread = tl.zeros((BLOCK_M, BLOCK), compute)
        for start in range(0, N, BLOCK):
            n = start + tl.arange(0, BLOCK).to(tl.int64)
            theirs = distances_ptr + n * (N + 2) + N
            stored = (m < N)[:, None] & (n < N)[None, :]
            real = stored & (m[:, None] != n[None, :])
            low, high = tl.minimum(m[:, None], n[None, :]), tl.maximum(m[:, None], n[None, :])
            apart = tl.load(distances_ptr + low * (N + 2) + high, mask=real, other=1)  # [BLOCK_M, BLOCK]
            bottom = (to_background[:, None] + tl.load(theirs, mask=n < N, other=1)[None, :]) / 2 + eps
            top = gamma * (spread[:, None] + tl.load(theirs + 1, mask=n < N, other=1)[None, :])
            same = tl.load(label_ptr + n, mask=n < N, other=0)[None, :] == label
            top = tl.where(same, top + apart, top)
            bottom = tl.where(same, bottom, bottom + delta * apart)
            share = top / bottom
            weight = tl.where(same, same_weight, other_weight)
            loss += tl.where(real & (m[:, None] < n[None, :]), weight * share, 0)
            weight = tl.where(real, weight / bottom, 0)
            of_object -= tl.where(real, share / 2 * weight, 0)
            of_spread += gamma * weight
            of_apart = tl.where(real, _over(tl.where(same, weight, -delta * share * weight), apart), 0)
            tl.store(pair_slope_ptr + m[:, None] * N + n[None, :], of_apart, mask=stored)
        tl.store(image_slope_ptr + 2 * m, _over(tl.sum(of_object, 1), to_background), mask=m < N)
        tl.store(image_slope_ptr + 2 * m + 1, _over(tl.sum(of_spread, 1), spread), mask=m < N)
    tl.store(loss_ptr, tl.sum(tl.sum(loss, 1), 0))


@triton.jit(do_not_specialize=["N"])
def co_supervised_loss_bwd_kernel(
    grad_ptr,
    vectors_ptr,
    pair_slope_ptr,  # [N, N]
    image_slope_ptr,  # [N, 2]
    gradient_ptr,  # [N, 3, E]
    N,
    E,
    stride_image,
    stride_part,
    stride_element,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Store some elements of the three gradients of one image.

    With slopes p between and q within images: dF = sum_n p[m, n] (F_m - F_n) + q_c (F_m - B_m),
    dB = q_b (B_m - K_m) - q_c (F_m - B_m), dK = -q_b (B_m - K_m), all times the incoming gradient.
    """
    tiles = tl.cdiv(E, BLOCK_E)
    m = (tl.program_id(0) // tiles).to(tl.int64)
    element = (tl.program_id(0) % tiles) * BLOCK_E + tl.arange(0, BLOCK_E).to(tl.int64)
    real = element < E
    grad = tl.load(grad_ptr)
    foregrounds = vectors_ptr + element * stride_element
    own = foregrounds + m * stride_image
    foreground = tl.load(own, mask=real, other=0)
    background = tl.load(own + stride_part, mask=real, other=0)
    confident = tl.load(own + 2 * stride_part, mask=real, other=0)
    pulls = tl.zeros((BLOCK_N, BLOCK_E), gradient_ptr.dtype.element_ty)
    slopes = pair_slope_ptr + m * N
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N).to(tl.int64)
        slope = tl.load(slopes + n, mask=n < N, other=0)  # [BLOCK_N]
        mask = (n < N)[:, None] & real[None, :]
        others = tl.load(foregrounds[None, :] + n[:, None] * stride_image, mask=mask, other=0)  # [BLOCK_N, BLOCK_E]
        pulls += slope[:, None] * (foreground[None, :] - others)
    of_object = tl.load(image_slope_ptr + 2 * m) * (foreground - background)
    of_spread = tl.load(image_slope_ptr + 2 * m + 1) * (background - confident)
    target = gradient_ptr + m * 3 * E + element
    tl.store(target, grad * (tl.sum(pulls, 0) + of_object), mask=real)
    tl.store(target + E, grad * (of_spread - of_object), mask=real)
    tl.store(target + 2 * E, -grad * of_spread, mask=real)


def co_supervised_loss(
    vectors: Tensor, label: Tensor, gamma: float, delta: float, eps: float, reduction: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss [] and slopes, each over its distance: [N, N] between objects, [N, 2] within images."""
    images, _, elements = vectors.shape
    distances = torch.empty((images, images + 2), dtype=vectors.dtype, device=vectors.device)
    loss = torch.empty((), dtype=vectors.dtype, device=vectors.device)
    pair_slope = torch.empty((images, images), dtype=vectors.dtype, device=vectors.device)
    image_slope = torch.empty((images, 2), dtype=vectors.dtype, device=vectors.device)
    if images == 0:
        return loss.zero_(), pair_slope, image_slope
    with on_device_of(vectors):
        co_supervised_loss_fwd_distances_kernel[(images * triton.cdiv(images + 2, BLOCK_N),)](
            vectors, distances, images, elements, *vectors.stride(), BLOCK_N=BLOCK_N, BLOCK_E=BLOCK_E
        )
        co_supervised_loss_fwd_slopes_kernel[(1,)](
            distances,
            label.contiguous(),
            loss,
            pair_slope,
            image_slope,
            images,
            gamma,
            delta,
            eps,
            MEAN=reduction == "mean",
            BLOCK_M=BLOCK_ROWS,
            BLOCK=BLOCK_PAIRS,
            num_warps=8,
        )
    return loss, pair_slope, image_slope


def co_supervised_loss_backward(grad: Tensor, vectors: Tensor, pair_slope: Tensor, image_slope: Tensor) -> Tensor:
    """Return the gradient [N, 3, D] with respect to the vectors."""
    images, _, elements = vectors.shape
    gradient = torch.empty(vectors.shape, dtype=vectors.dtype, device=vectors.device)
    if gradient.numel() == 0:
        return gradient
    # Of float64 half as many, or registers spill.
    block_e = BLOCK_E if vectors.element_size() < 8 else BLOCK_E // 2
    with on_device_of(vectors):
        co_supervised_loss_bwd_kernel[(images * triton.cdiv(elements, block_e),)](
            grad,
            vectors,
            pair_slope.contiguous(),
            image_slope.contiguous(),
            gradient,
            images,
            elements,
            *vectors.stride(),
            BLOCK_N=BLOCK_N,
            BLOCK_E=block_e,
        )
    return gradient
