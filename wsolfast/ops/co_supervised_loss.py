"""CSoA's co-supervised augmentation (CoAug), a loss over all pairs of images of a batch."""

from typing import Any

from torch import Tensor

from wsolfast.ops._checks import as_number, as_tensor, check_classes
from wsolfast.ops._registry import define_op
from wsolfast.reference import co_supervised_loss as reference

_REDUCTIONS = ("mean", "sum")


def _check(vectors: Tensor, label: Tensor, reduction: str) -> None:
    if vectors.dim() != 3 or vectors.shape[1] != 3 or not vectors.is_floating_point():
        raise ValueError(
            f"co_supervised_loss: expected floating-point vectors of shape [N, 3, D], "
            f"got {vectors.dtype} {list(vectors.shape)}"
        )
    check_classes("co_supervised_loss", "label", label, vectors.shape[0])
    if reduction not in _REDUCTIONS:
        raise ValueError(f"co_supervised_loss: expected reduction in {_REDUCTIONS}, got {reduction!r}")


def _fake(vectors: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    n = vectors.shape[0]
    return vectors.new_empty(()), vectors.new_empty(n, n), vectors.new_empty(n, 2)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, pair_slope, image_slope = output
    ctx.mark_non_differentiable(pair_slope, image_slope)
    ctx.save_for_backward(inputs[0], pair_slope, image_slope)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return _BACKWARD(grad, *ctx.saved_tensors), None, None, None, None, None


def _fake_backward(grad: Tensor, vectors: Tensor, *slopes: Tensor) -> Tensor:
    return vectors.new_empty(vectors.shape)


_FORWARD = define_op(
    "co_supervised_loss",
    reference=reference.co_supervised_loss,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    triton="wsolfast.kernels.co_supervised_loss:co_supervised_loss",
)
_BACKWARD = define_op(
    "_co_supervised_loss_backward",
    reference=reference.co_supervised_loss_backward,
    fake=_fake_backward,
    triton="wsolfast.kernels.co_supervised_loss:co_supervised_loss_backward",
)


def co_supervised_loss(
    vectors: Tensor,
    label: Tensor,
    *,
    gamma: float = 1.0,
    delta: float = 1.0,
    reduction: str = "sum",
    eps: float = 1e-6,
) -> Tensor:
    r"""Draw objects of one class together, part every object from its background, and draw the background together.

    With :math:`c_m = |F_m - B_m|`, :math:`b_m = |B_m - K_m|` and :math:`D_{mn} = |F_m - F_n|`, over pairs m < n:

    .. math::
        \ell^{same}_{mn} = \frac{\gamma (b_m + b_n) + D_{mn}}{(c_m + c_n)/2 + \epsilon},\quad
        \ell^{diff}_{mn} = \frac{\gamma (b_m + b_n)}{\delta D_{mn} + (c_m + c_n)/2 + \epsilon}

    Source: CSoA (Kou et al., WACV 2021), Eqs 8-12. The superscripts of Eq 12 are swapped in print; the conditions under
    its sums are what is followed here. The scale of the vectors does not matter but for eps.

    Args:
        vectors (Tensor[N, 3, D]): of each image's foreground F, background B and confident background K, any stride.
        label (Tensor[N]): integer classes; only whether two are equal counts.
        gamma: weight of the background distances.
        delta: weight of the distance between classes.
        reduction: ``"sum"`` over all pairs, as printed, or ``"mean"`` over either set of pairs.
        eps: added to the denominators.

    Returns:
        Tensor[]: float32 or float64; a set without pairs adds 0.

    Raises:
        ValueError: if shapes or dtypes do not fit or the reduction is unknown.

    Backends: CUDA (Triton), elsewhere the reference. Differentiable once, with respect to ``vectors``; a distance of 0
    has the gradient 0. float16 and bfloat16 are computed in float32, and so is their loss. Deterministic.

    Example:
        >>> vectors = torch.tensor([[[1.0], [0.0], [0.0]], [[2.0], [0.0], [0.0]]])  # [2, 3, 1]
        >>> co_supervised_loss(vectors, torch.tensor([4, 4]))  # two objects of a class differ
        tensor(0.6667)
        >>> co_supervised_loss(vectors, torch.tensor([4, 5]))
        tensor(0.)
    """
    op = "co_supervised_loss"
    vectors = as_tensor(op, "vectors", vectors)
    label = as_tensor(op, "label", label, vectors)
    gamma, delta, eps = as_number(op, "gamma", gamma), as_number(op, "delta", delta), as_number(op, "eps", eps)
    _check(vectors, label, reduction)
    if vectors.element_size() < 4:
        vectors = vectors.float()
    return _FORWARD(vectors, label.long(), gamma, delta, eps, reduction)[0]
