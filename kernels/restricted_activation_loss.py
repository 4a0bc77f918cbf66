"""Launchers and kernels of :func:`wsolfast.ops.restricted_activation_loss`."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from wsolfast.kernels._launch import has_one_stride, on_device_of, position_stride

RANGE_EPS = tl.constexpr(1e-15)
# Classes are summed in the map's own precision over BLOCK_K of them, then in double.
BLOCK_K, BLOCK_P = 32, 32
RESTRICT_BLOCK = 1024


@triton.jit
def restricted_activation_loss_fwd_probabilities_kernel(
    maps_ptr,
    squares_ptr,  # [N, P] float64
    K,
    P,
    stride_image,
    stride_class,
    stride_position,
    BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Store sum_k softmax_k(x)^2 = sum_k e^(2 (x_k - max)) / (sum_k e^(x_k - max))^2 of each position.

    The maps are read once: both sums follow the maximum so far, as in online softmax (Milakov and Gimelshein, 2018).
    """
    tiles = tl.cdiv(P, BLOCK_P)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    position = (tl.program_id(0) % tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
    real = (position < P)[None, :]
    source = maps_ptr + image * stride_image + position.to(tl.int64)[None, :] * stride_position
    compute: tl.constexpr = maps_ptr.dtype.element_ty
    highest = tl.full((BLOCK_P,), float("-inf"), compute)
    total = tl.zeros((BLOCK_P,), tl.float64)
    squares = tl.zeros((BLOCK_P,), tl.float64)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K).to(tl.int64)[:, None]
        # Logits of -inf are classes that take no part.
        logits = tl.where(k < K, tl.load(source + k * stride_class, mask=real & (k < K), other=0), float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 0))
        # As long as there is nothing but -inf, any finite number does.
        offset = tl.where(higher == float("-inf"), 0, higher)
        change = tl.exp(highest - offset).to(tl.float64)
        powers = tl.exp(logits - offset[None, :])  # [BLOCK_K, BLOCK_P]
        total = total * change + tl.sum(powers, 0).to(tl.float64)
        squares = squares * (change * change) + tl.sum(powers * powers, 0).to(tl.float64)
        highest = higher
    tl.store(squares_ptr + image * P + position, squares / (total * total), mask=position < P)


@triton.jit
def _spread(squares, K, ROOT: tl.constexpr):
    """Return the unbiased variance of K probabilities, (sum p^2 - 1/K) / (K - 1), or its root."""
    variance = tl.maximum((squares - 1.0 / K) / tl.maximum(K - 1, 1), 0.0)
    return tl.sqrt(variance) if ROOT else variance


@triton.jit
def restricted_activation_loss_fwd_kernel(
    maps_ptr,
    label_ptr,
    squares_ptr,
    loss_ptr,  # [N]: sums over positions
    slope_ptr,  # [N, P]
    K,
    P,
    stride_image,
    stride_class,
    stride_position,
    tau: tl.float64,
    upper: tl.float64,
    rounding: tl.float64,
    weight: tl.float64,
    ROOT: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store loss and slopes of one image, from the range of the spread s over its positions.

    Background is s < tau, object s > tau + sigma, both 0 or 1. With the label's score y = sigmoid(x), the loss is
    y background + (1 - y) object, its slope y (1 - y) (background - object).
    """
    image = tl.program_id(0).to(tl.int64)
    compute: tl.constexpr = slope_ptr.dtype.element_ty
    label = tl.load(label_ptr + image)
    known = (label >= 0) & (label < K)
    low = tl.full((), float("inf"), tl.float64)
    high = tl.full((), float("-inf"), tl.float64)
    broken = tl.zeros((), tl.int32)
    for start in range(0, P, BLOCK):
        position = start + tl.arange(0, BLOCK)
        squares = tl.load(squares_ptr + image * P + position, mask=position < P, other=1)  # [BLOCK]
        low = tl.minimum(low, tl.min(tl.where(position < P, squares, float("inf")), 0))
        high = tl.maximum(high, tl.max(tl.where(position < P, squares, float("-inf")), 0))
        broken += tl.sum((squares != squares).to(tl.int32), 0)
    sound = known & (broken == 0)
    floor = tl.zeros((), tl.float64)
    range_ = tl.full((), 1, tl.float64)
    if SCALED:
        floor = _spread(low, K, ROOT)
        range_ = _spread(high, K, ROOT) - floor + RANGE_EPS
    constant = K == 1
    if SCALED:
        constant = constant | (high - low <= tl.full((), rounding, tl.float64) * high)
    loss = tl.zeros((), tl.float64)
    for start in range(0, P, BLOCK):
        position = start + tl.arange(0, BLOCK)
        squares = tl.load(squares_ptr + image * P + position, mask=position < P, other=1)  # [BLOCK]
        spread = tl.where(constant, 0.0, (_spread(squares, K, ROOT) - floor) / range_).to(compute)
        background = (spread < tl.full((), tau, compute)).to(compute)
        object_ = (spread > tl.full((), upper, compute)).to(compute)
        logit = tl.load(
            maps_ptr + image * stride_image + label * stride_class + position.to(tl.int64) * stride_position,
            mask=(position < P) & known,
            other=0,
        )
        score = tl.sigmoid(logit)
        restricted = score * background + (1 - score) * object_
        loss += tl.sum(tl.where(position < P, restricted, 0), 0).to(tl.float64)
        slope = score * (1 - score) * (background - object_) * tl.full((), weight, compute)
        tl.store(slope_ptr + image * P + position, tl.where(sound, slope, float("nan")), mask=position < P)
    loss = tl.where(sound, loss * tl.full((), weight, tl.float64), float("nan"))
    tl.store(loss_ptr + image, loss.to(compute))


@triton.jit
def restricted_activation_loss_bwd_kernel(
    grad_ptr,
    slope_ptr,  # [N, P]
    label_ptr,
    gradient_ptr,  # [N, K, P]
    K,
    P,
    BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Store the gradient of the class maps: grad slope[p] in the label's channel, zero elsewhere."""
    class_tiles, tiles = tl.cdiv(K, BLOCK_K), tl.cdiv(P, BLOCK_P)
    image = (tl.program_id(0) // (class_tiles * tiles)).to(tl.int64)
    k = (tl.program_id(0) // tiles % class_tiles) * BLOCK_K + tl.arange(0, BLOCK_K)
    position = (tl.program_id(0) % tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
    slope = tl.load(slope_ptr + image * P + position, mask=position < P, other=0) * tl.load(grad_ptr)
    gradient = tl.where((k == tl.load(label_ptr + image))[:, None], slope[None, :], 0)
    target = gradient_ptr + (image * K + k)[:, None] * P + position[None, :]
    tl.store(target, gradient, mask=(k < K)[:, None] & (position < P)[None, :])


def restricted_activation_loss(
    class_maps: Tensor, label: Tensor, tau: float, sigma: float, statistic: str, normalization: str
) -> tuple[Tensor, Tensor]:
    """Return the mean loss [] and its derivative [N, h, w]; maps whose rows do not follow one another are copied.

    A label outside the classes makes the loss NaN: to raise would be to wait for the device.
    """
    images, classes, h, w = class_maps.shape
    positions = h * w
    slope = torch.empty((images, h, w), dtype=class_maps.dtype, device=class_maps.device)
    if class_maps.numel() == 0:
        return class_maps.new_zeros(()), slope.zero_()
    maps = class_maps if has_one_stride(class_maps) else class_maps.contiguous()
    label = label.contiguous()
    strides = maps.stride(0), maps.stride(1), position_stride(maps)
    squares = torch.empty((images, positions), dtype=torch.float64, device=maps.device)
    loss = torch.empty(images, dtype=maps.dtype, device=maps.device)
    with on_device_of(maps):
        restricted_activation_loss_fwd_probabilities_kernel[(images * triton.cdiv(positions, BLOCK_P),)](
            maps, squares, classes, positions, *strides, BLOCK_K=BLOCK_K, BLOCK_P=BLOCK_P
        )
        restricted_activation_loss_fwd_kernel[(images,)](
            maps,
            label,
            squares,
            loss,
            slope,
            classes,
            positions,
            *strides,
            tau,
            tau + sigma,
            8 * torch.finfo(maps.dtype).eps,
            1 / (images * positions),
            ROOT=statistic == "std",
            SCALED=normalization == "minmax",
            BLOCK=min(RESTRICT_BLOCK, triton.next_power_of_2(positions)),
        )
        return loss.sum(), slope


def restricted_activation_loss_backward(grad: Tensor, slope: Tensor, label: Tensor, classes: int) -> Tensor:
    """Return the gradient with respect to the class maps, written in one pass."""
    images, h, w = slope.shape
    gradient = torch.empty((images, classes, h, w), dtype=slope.dtype, device=slope.device)
    if gradient.numel() == 0:
        return gradient
    block_p = min(256, triton.next_power_of_2(h * w))
    with on_device_of(slope):
        restricted_activation_loss_bwd_kernel[(images * triton.cdiv(classes, 16) * triton.cdiv(h * w, block_p),)](
            grad, slope.contiguous(), label.contiguous(), gradient, classes, h * w, BLOCK_K=16, BLOCK_P=block_p
        )
    return gradient
