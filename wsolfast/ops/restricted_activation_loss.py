"""SPA's restricted activation module (RAM), the loss term that keeps a class map from saturating at object parts."""

from typing import Any

from torch import Tensor

from wsolfast.ops._checks import as_number, as_tensor, check_classes
from wsolfast.ops._registry import define_op
from wsolfast.reference import restricted_activation_loss as reference

_STATISTICS = ("var", "std")
_NORMALIZATIONS = ("minmax", "none")


def _check(class_maps: Tensor, label: Tensor, statistic: str, normalization: str) -> None:
    if class_maps.dim() != 4 or not class_maps.is_floating_point():
        raise ValueError(
            f"restricted_activation_loss: expected floating-point class_maps of shape [N, K, h, w], "
            f"got {class_maps.dtype} {list(class_maps.shape)}"
        )
    check_classes("restricted_activation_loss", "label", label, class_maps.shape[0])
    if statistic not in _STATISTICS:
        raise ValueError(f"restricted_activation_loss: expected statistic in {_STATISTICS}, got {statistic!r}")
    if normalization not in _NORMALIZATIONS:
        raise ValueError(
            f"restricted_activation_loss: expected normalization in {_NORMALIZATIONS}, got {normalization!r}"
        )


def _fake(class_maps: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    n, _, h, w = class_maps.shape
    return class_maps.new_empty(()), class_maps.new_empty(n, h, w)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    class_maps, label = inputs[:2]
    slope = output[1]
    ctx.classes = class_maps.shape[1]
    ctx.mark_non_differentiable(slope)
    ctx.save_for_backward(slope, label)


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    slope, label = ctx.saved_tensors
    return _BACKWARD(grad, slope, label, ctx.classes), None, None, None, None, None


def _fake_backward(grad: Tensor, slope: Tensor, label: Tensor, classes: int) -> Tensor:
    n, h, w = slope.shape
    return slope.new_empty(n, classes, h, w)


_FORWARD = define_op(
    "restricted_activation_loss",
    reference=reference.restricted_activation_loss,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    triton="wsolfast.kernels.restricted_activation_loss:restricted_activation_loss",
)
_BACKWARD = define_op(
    "_restricted_activation_loss_backward",
    reference=reference.restricted_activation_loss_backward,
    fake=_fake_backward,
    triton="wsolfast.kernels.restricted_activation_loss:restricted_activation_loss_backward",
)


def restricted_activation_loss(
    class_maps: Tensor,
    label: Tensor,
    *,
    tau: float = 0.1,
    sigma: float = 0.2,
    statistic: str = "var",
    normalization: str = "minmax",
) -> Tensor:
    r"""Push the label's map to 0 where the classes are equally likely and to 1 where they clearly differ.

    .. math:: L = \frac{1}{N h w} \sum_{b, p} s_{bp} [u_{bp} < \tau] + (1 - s_{bp}) [u_{bp} > \tau + \sigma]

    s is the sigmoid of the label's channel. u is the unbiased variance (or its root) over the classes of the softmax
    probabilities, min-max scaled over the positions of each image; it is a constant to the gradient.

    Source: SPA (Pan et al., CVPR 2021), Eqs 2-5. The variance and its scaling are the released code's; the paper speaks
    of a standard deviation and scales nothing (``statistic="std"``, ``normalization="none"``). The defaults of tau and
    sigma are the released CUB setting.

    Args:
        class_maps (Tensor[N, K, h, w]): logits per position, any stride.
        label (Tensor[N]): integer class of each image, in [0, K). Another is an error on a CPU; on a GPU, where
            raising would mean waiting for it, it makes the loss NaN.
        tau: u below it is background.
        sigma: width of the band above tau that is left alone.
        normalization: "minmax" adds 1e-15 to the range; an image whose positions differ by rounding only (constant
            logits, one class) is background throughout.

    Returns:
        Tensor[]: mean over images and positions, float32 or float64; 0 for an empty batch. A NaN or +inf in
        ``class_maps`` makes it NaN.

    Raises:
        ValueError: if shapes or dtypes do not fit or an option is unknown.

    Backends: CPU (C++), CUDA (Triton), elsewhere the reference. Differentiable once, with respect to ``class_maps``;
    only the label's channel receives a gradient. float16 and bfloat16 are computed in float32, and so is their loss.
    Deterministic.

    Example:
        >>> class_maps = torch.tensor([[[[0.0, 20.0]], [[0.0, 0.0]]]])  # [1, 2, 1, 2]
        >>> restricted_activation_loss(class_maps, torch.tensor([0]))  # the mean of sigmoid(0) and 1 - sigmoid(20)
        tensor(0.2500)
    """
    op = "restricted_activation_loss"
    class_maps = as_tensor(op, "class_maps", class_maps)
    label = as_tensor(op, "label", label, class_maps)
    tau, sigma = as_number(op, "tau", tau), as_number(op, "sigma", sigma)
    _check(class_maps, label, statistic, normalization)
    if class_maps.element_size() < 4:
        class_maps = class_maps.float()
    return _FORWARD(class_maps, label.long(), tau, sigma, statistic, normalization)[0]
