"""Per-map min-max normalisation, the last step of almost every score map."""

from typing import Any

from torch import Tensor

from wsolfast.ops._checks import as_number, as_tensor
from wsolfast.ops._registry import define_op
from wsolfast.reference import min_max_normalize as reference


def _check(maps: Tensor) -> None:
    if maps.dim() < 2:
        raise ValueError(f"min_max_normalize: expected maps of shape [..., h, w], got {list(maps.shape)}")
    if not maps.is_floating_point():
        raise ValueError(f"min_max_normalize: expected floating-point maps, got {maps.dtype}; call .float() first")


def _fake(maps: Tensor, *options: Any) -> Tensor:
    return maps.new_empty(maps.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, ctx.eps = inputs
    ctx.save_for_backward(maps, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    maps, output = ctx.saved_tensors
    return _BACKWARD(grad, maps, output, ctx.eps), None


def _fake_backward(grad: Tensor, maps: Tensor, *options: Any) -> Tensor:
    return maps.new_empty(maps.shape)


_FORWARD = define_op(
    "min_max_normalize",
    reference=reference.min_max_normalize,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
_BACKWARD = define_op(
    "_min_max_normalize_backward",
    reference=reference.min_max_normalize_backward,
    fake=_fake_backward,
)


def min_max_normalize(maps: Tensor, eps: float = 0.0) -> Tensor:
    r"""Scale each map to [0, 1] by its own minimum and maximum.

    .. math:: y = \frac{x - \min x}{\max x - \min x + \epsilon}

    Source: the score-map normalisation of CAM and its successors; SPA's released code adds eps = 1e-10.

    Args:
        maps (Tensor[..., h, w]): floating point, any stride. float16 and bfloat16 are computed in float32.
        eps: added to the range.

    Returns:
        Tensor[..., h, w]: contiguous, same dtype. A constant map with eps = 0 becomes zeros; a map that holds a NaN
        becomes NaN throughout.

    Raises:
        ValueError: if ``maps`` has fewer than two dimensions or is not floating point.

    Backends: CPU (C++), CUDA (C++), elsewhere the reference. Differentiable once; equal extrema share their gradient.
    Deterministic.

    Example:
        >>> min_max_normalize(torch.tensor([[[2.0, 4.0], [6.0, 10.0]]]))
        tensor([[[0.0000, 0.2500],
                 [0.5000, 1.0000]]])
    """
    maps, eps = as_tensor("min_max_normalize", "maps", maps), as_number("min_max_normalize", "eps", eps)
    _check(maps)
    if maps.element_size() < 4:
        return _FORWARD(maps.float(), eps).to(maps.dtype)
    return _FORWARD(maps, eps)
