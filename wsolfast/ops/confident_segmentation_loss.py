"""CSoA's confident segmentation (ConfSeg): a deep classifier teaches a shallower one where it is sure."""

from typing import Any

import torch
from torch import Tensor

from wsolfast.ops._checks import as_flag, as_tensor, in_one_precision
from wsolfast.ops._registry import define_op, widens
from wsolfast.reference import confident_segmentation_loss as reference

_REDUCTIONS = ("mean", "sum")


def _check(late: Tensor, early: Tensor, reduction: str) -> None:
    if late.dim() != 3 or not late.is_floating_point() or 0 in late.shape[1:]:
        raise ValueError(
            f"confident_segmentation_loss: expected floating-point late maps of shape [N, h, w] with h, w > 0, "
            f"got {late.dtype} {list(late.shape)}"
        )
    if early.shape != late.shape or early.dtype != late.dtype:
        raise ValueError(
            f"confident_segmentation_loss: expected early maps like the late ones, {late.dtype} {list(late.shape)}, "
            f"got {early.dtype} {list(early.shape)}"
        )
    if reduction not in _REDUCTIONS:
        raise ValueError(f"confident_segmentation_loss: expected reduction in {_REDUCTIONS}, got {reduction!r}")


def _fake(late: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(late.dtype, torch.float32)
    return late.new_empty((), dtype=wide), late.new_empty(late.shape, dtype=wide), late.new_empty(late.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *_, ctx.weight = inputs
    _, mask, sign = output
    ctx.mark_non_differentiable(mask, sign)
    ctx.save_for_backward(sign)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    gradient = _BACKWARD(grad, *ctx.saved_tensors, ctx.weight)
    return -gradient if ctx.needs_input_grad[0] else None, gradient, None


def _fake_backward(grad: Tensor, sign: Tensor, *options: Any) -> Tensor:
    return sign.new_empty(sign.shape)


_FORWARD = define_op(
    "confident_segmentation_loss",
    reference=reference.confident_segmentation_loss,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    triton="wsolfast.kernels.confident_segmentation_loss:confident_segmentation_loss",
)
_BACKWARD = define_op(
    "_confident_segmentation_loss_backward",
    reference=reference.confident_segmentation_loss_backward,
    fake=_fake_backward,
    triton="wsolfast.kernels.confident_segmentation_loss:confident_segmentation_loss_backward",
)


def confident_segmentation_loss(
    late: Tensor, early: Tensor, *, detach_teacher: bool = True, reduction: str = "sum"
) -> tuple[Tensor, Tensor]:
    r"""Measure the L1 distance of the early branch's maps to the late branch's where the late ones are confident.

    .. math:: L = \frac{1}{N} \sum_{n, p} |S^F_{np} - S^L_{np}| \hat M_{np}

    with :math:`\hat M` the :func:`confidence_mask` of the late maps, a constant to the gradient.

    Source: CSoA (Kou et al., WACV 2021), Eqs 2-5, a sum over positions; the mean over the batch is ours. Whether a
    gradient reaches the late branch is not said there.

    Args:
        late (Tensor[N, h, w]): S^L, maps of the labels from the late stage, the teacher, as they are; floating point,
            any stride.
        early (Tensor[N, h, w]): S^F, those from the early stage, in the same dtype. Where one of both has 16 bits and
            the other is float32, as under autocast, both are taken as float32.
        detach_teacher: no gradient to ``late``.
        reduction: ``"sum"`` or ``"mean"`` over all h·w positions, confident or not.

    Returns:
        The loss, Tensor[], 0 for an empty batch, NaN when a value is not finite; and the mask, Tensor[N, h, w] of 0 and
        1. Both in the maps' dtype but at least float32.

    Raises:
        ValueError: if shapes or dtypes do not fit or the reduction is unknown.

    Backends: CPU (C++), CUDA (Triton), elsewhere the reference. Differentiable once; equal maps have the gradient 0.
    Deterministic.

    Example:
        >>> late, early = torch.tensor([[[0.0, 2.0, 2.0, 4.0]]]), torch.tensor([[[1.0, 0.0, 0.0, 4.0]]])
        >>> loss, mask = confident_segmentation_loss(late, early)
        >>> loss, mask
        (tensor(1.), tensor([[[1., 0., 0., 1.]]]))
    """
    op = "confident_segmentation_loss"
    late, early = in_one_precision(as_tensor(op, "late maps", late), as_tensor(op, "early maps", early))
    detach_teacher = as_flag(op, "detach_teacher", detach_teacher)
    _check(late, early, reduction)
    if widens(late):
        late, early = late.float(), early.float()
    images, h, w = late.shape
    weight = 1 / (max(1, images) * (h * w if reduction == "mean" else 1))
    return _FORWARD(late.detach() if detach_teacher else late, early, weight)[:2]
