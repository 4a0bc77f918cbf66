"""Classification head on feature maps: 1x1 convolution, ReLU and global mean without the class maps in memory."""

from typing import Any

import torch
from torch import Tensor

from wsolfast.ops import _blocked_class_head
from wsolfast.ops._checks import as_flag, as_tensor
from wsolfast.ops._registry import define_op, widens
from wsolfast.reference import class_head_pool as reference


def _check(features: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if features.dim() != 4 or not features.is_floating_point() or 0 in features.shape[1:]:
        raise ValueError(
            f"class_head_pool: expected floating-point features of shape [N, C, h, w] with C, h, w > 0, "
            f"got {features.dtype} {list(features.shape)}"
        )
    if weight.dim() != 2 or weight.shape[0] == 0 or weight.shape[1] != features.shape[1]:
        raise ValueError(
            f"class_head_pool: expected a weight of shape [K, {features.shape[1]}] with K > 0 for features "
            f"{list(features.shape)}, got {list(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"class_head_pool: expected a bias of shape [{weight.shape[0]}], got {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != features.dtype:
            raise ValueError(
                f"class_head_pool: expected a {name} like the features, {features.dtype}, got {tensor.dtype}"
            )


def _beside(features: Tensor, parameter: Tensor) -> Tensor:
    """Return a float32 parameter as autocast would hand it over with 16-bit features; any other as it is."""
    half = features.is_floating_point() and features.element_size() == 2
    return parameter.to(features.dtype) if half and parameter.dtype == torch.float32 else parameter


def _fake(features: Tensor, weight: Tensor, *options: Any) -> Tensor:
    return features.new_empty(features.shape[0], weight.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.relu = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, weight, bias = ctx.saved_tensors
    grad_features, grad_weight, grad_bias = _BACKWARD(grad, features, weight, bias, ctx.relu)
    return grad_features, grad_weight, None if bias is None else grad_bias, None


def _fake_backward(grad: Tensor, features: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return features.new_empty(features.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


_FORWARD = define_op(
    "class_head_pool",
    reference=reference.class_head_pool,
    composite=_blocked_class_head.forward,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    triton="wsolfast.kernels.class_head_pool:class_head_pool",
)
_BACKWARD = define_op(
    "_class_head_pool_backward",
    reference=reference.class_head_pool_backward,
    composite=_blocked_class_head.backward,
    fake=_fake_backward,
    triton="wsolfast.kernels.class_head_pool:class_head_pool_backward",
)


def _fake_with_signs(features: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    words = (features.shape[2] * features.shape[3] + 31) // 32
    signs = features.new_empty(features.shape[0], words, weight.shape[0], dtype=torch.int32)
    return _fake(features, weight), signs


def _setup_context_of_signs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, weight, bias = inputs
    ctx.with_bias = bias is not None
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(features, weight, output[1])


def _signs_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    grad_features, grad_weight, grad_bias = _SIGNS_BACKWARD(grad, *ctx.saved_tensors)
    return grad_features, grad_weight, grad_bias if ctx.with_bias else None


_WITH_SIGNS = define_op(
    "_class_head_pool_with_signs",
    reference=reference.class_head_pool_with_signs,
    fake=_fake_with_signs,
    setup_context=_setup_context_of_signs,
    backward=_signs_backward,
    triton="wsolfast.kernels.class_head_pool:class_head_pool_with_signs",
)
_SIGNS_BACKWARD = define_op(
    "_class_head_pool_signs_backward",
    reference=reference.class_head_pool_signs_backward,
    fake=_fake_backward,
    triton="wsolfast.kernels.class_head_pool:class_head_pool_signs_backward",
)


def _keeps_signs(relu: bool, *tensors: Tensor | None) -> bool:
    """Return True if a backward pass may follow where signs are kept for it: on CUDA."""
    given = [tensor for tensor in tensors if tensor is not None]
    return relu and given[0].is_cuda and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)


def class_head_pool(features: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = True) -> Tensor:
    r"""Compute the logits of a head that maps every position to classes, rectifies and averages.

    .. math:: z_k = \frac{1}{hw} \sum_p \mathrm{ReLU}(w_k^\top f_p + b_k)

    Source: the head of SPOL (Wei et al., CVPR 2021), whose ReLU before the mean stands in the released code only.

    Args:
        features (Tensor[N, C, h, w]): floating point, any stride.
        weight (Tensor[K, C]): of the 1x1 convolution, in the features' dtype. A float32 weight or bias beside features
            of 16 bits is rounded to these, as autocast does.
        bias (Tensor[K]): none if None.
        relu: without it the mean commutes with the convolution, and the features are averaged first.

    Returns:
        Tensor[N, K]: dtype of the features. A NaN position makes the logits of its image NaN.

    Raises:
        ValueError: if shapes or dtypes do not fit.

    Backends: CUDA (Triton: no class map in memory), elsewhere library calls on blocks of class maps; at most a megabyte
    of float32 maps, or those of one class, is in memory at once on the CPU. Differentiable once. On CUDA the inputs are
    saved and the signs of the maps, a bit for each class and position. Elsewhere only the inputs are saved and the maps
    are computed again, one matrix product more: on the CPU a training step saves memory, not time. float16 and bfloat16
    are summed in float32 and rounded at the end; float32 is strict unless
    :func:`torch.set_float32_matmul_precision` allows TF32. Deterministic for a fixed number of threads.

    Example:
        >>> features = torch.tensor([[[[1.0, -1.0]], [[0.0, 2.0]]]])  # [1, 2, 1, 2]
        >>> class_head_pool(features, torch.eye(2))
        tensor([[0.5000, 1.0000]])
        >>> class_head_pool(features, torch.eye(2), relu=False)
        tensor([[0., 1.]])
    """
    features = as_tensor("class_head_pool", "features", features)
    weight = _beside(features, as_tensor("class_head_pool", "the weight", weight, features))
    bias = None if bias is None else _beside(features, as_tensor("class_head_pool", "the bias", bias, features))
    relu = as_flag("class_head_pool", "relu", relu)
    _check(features, weight, bias)
    if widens(features):
        bias = None if bias is None else bias.float()
        return _FORWARD(features.float(), weight.float(), bias, relu).to(features.dtype)
    if _keeps_signs(relu, features, weight, bias):
        return _WITH_SIGNS(features, weight, bias)[0]
    return _FORWARD(features, weight, bias, relu)
