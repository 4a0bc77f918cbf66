"""SPOL's fusion of shallow and deep features: resize to the finest, then multiply."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wsolfast.ops._checks import as_flag, as_tensor, as_tensors, in_one_precision
from wsolfast.ops._registry import define_op, widens
from wsolfast.reference import multiplicative_fusion as reference
from wsolfast.reference._layout import empty_like_first

_REDUCTIONS = ("map", "mean")
_MODES = ("multiply", "add")
_MOST_BRANCHES = 4


def _check(features: Sequence[Tensor], scale: Tensor | None, shift: Tensor | None, reduce: str, mode: str) -> None:
    if reduce not in _REDUCTIONS:
        raise ValueError(f"multiplicative_fusion: expected reduce in {_REDUCTIONS}, got {reduce!r}")
    if mode not in _MODES:
        raise ValueError(f"multiplicative_fusion: expected mode in {_MODES}, got {mode!r}")
    if not 2 <= len(features) <= _MOST_BRANCHES:
        raise ValueError(f"multiplicative_fusion: expected 2 to {_MOST_BRANCHES} branches, got {len(features)}")
    first = features[0]
    for i, branch in enumerate(features):
        if branch.dim() != 4 or not branch.is_floating_point() or 0 in branch.shape[2:]:
            raise ValueError(
                f"multiplicative_fusion: expected floating-point branches of shape [N, C, h, w] with h, w > 0, "
                f"got {branch.dtype} {list(branch.shape)} for branch {i}"
            )
        if branch.shape[:2] != first.shape[:2] or branch.dtype != first.dtype:
            raise ValueError(
                f"multiplicative_fusion: branch {i} is {branch.dtype} {list(branch.shape)}, the first "
                f"{first.dtype} {list(first.shape)}: N, C and dtype must agree"
            )
        if branch.shape[2] > first.shape[2] or branch.shape[3] > first.shape[3]:
            raise ValueError(
                f"multiplicative_fusion: branch {i} of {list(branch.shape[2:])} is larger than the first of "
                f"{list(first.shape[2:])}; put the finest branch first"
            )
    shapes = [[len(features), *first.shape[1:2]], [len(features), *first.shape[:2]]]
    for name, vectors in (("scale", scale), ("shift", shift)):
        if vectors is not None and (list(vectors.shape) not in shapes or not vectors.is_floating_point()):
            raise ValueError(
                f"multiplicative_fusion: expected a floating-point {name} of shape {shapes[0]} or {shapes[1]}, "
                f"got {vectors.dtype} {list(vectors.shape)}"
            )


def _fake(features: Sequence[Tensor], *options: Any) -> Tensor:
    *_, reduce, _ = options
    first = features[0]
    return first.new_empty(first.shape[:2]) if reduce == "mean" else empty_like_first(first, first)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, scale, shift, ctx.relu, *ctx.options = inputs
    ctx.save_for_backward(*features, scale, shift)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *features, scale, shift = ctx.saved_tensors
    fused = [x.to(features[0].dtype) for x in reference.activated(features, scale, shift, ctx.relu)]
    gradients = _BACKWARD(grad, fused, *ctx.options)
    return *reference.activation_backward(gradients, features, fused, scale, shift, ctx.relu), None, None, None, None


def _fake_backward(grad: Tensor, features: Sequence[Tensor], *options: Any) -> list[Tensor]:
    return [empty_like_first(branch, features[0]) for branch in features]


_FORWARD = define_op(
    "multiplicative_fusion",
    reference=reference.multiplicative_fusion,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    triton="wsolfast.kernels.multiplicative_fusion:multiplicative_fusion",
)
_BACKWARD = define_op(
    "_multiplicative_fusion_backward",
    reference=reference.multiplicative_fusion_backward,
    fake=_fake_backward,
    triton="wsolfast.kernels.multiplicative_fusion:multiplicative_fusion_backward",
)


def multiplicative_fusion(
    features: Sequence[Tensor],
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    relu: bool = False,
    align_corners: bool = True,
    reduce: str = "map",
    mode: str = "multiply",
) -> Tensor:
    r"""Resize every branch bilinearly to the first and multiply them.

    .. math:: P = \prod_i \mathrm{up}(R_i) \qquad\text{or, reduced,}\qquad \frac{1}{hw} \sum_p P_p

    What stands between a branch's convolution and its fusion in evaluation can be done on the way, without another
    pass: :math:`R_i = \mathrm{ReLU}(a_i x_i + b_i)` with a batch norm folded to a and b, or with one of each image,
    as where a channel gate multiplies it.

    Source: SPOL (Wei et al., CVPR 2021), Eqs 1-2. The aligned corners are the released code's.

    Args:
        features (2 to 4 of Tensor[N, C, h_i, w_i]): floating point, any stride; the finest first, which is taken as it
            is, bit by bit, like any other of its size. Branches of 16 bits beside float32 ones, as under autocast, are
            taken as float32.
        scale (Tensor[branches, C] or Tensor[branches, N, C]): a, none if None; of float64 maps in float64, else in
            float32.
        shift (Tensor[branches, C] or Tensor[branches, N, C]): b, none if None.
        relu: rectify the branches, after scale and shift.
        align_corners: as in :func:`torch.nn.functional.interpolate`.
        reduce: ``"map"``, or ``"mean"`` over the positions.
        mode: ``"multiply"``, or ``"add"`` as in the paper's ablation.

    Returns:
        Tensor[N, C, h, w], or Tensor[N, C] for the mean: dtype of the branches, channels last if the first branch is. A
        NaN spreads to the positions whose bilinear window holds it.

    Raises:
        ValueError: if the number of branches, shapes or dtypes do not fit or an option is unknown.

    Backends: CPU (C++), CUDA (Triton), elsewhere the reference. Differentiable once, also with respect to scale and
    shift; only the arguments are saved. float16 and bfloat16 are computed in float32 and rounded once, autocast changes
    nothing. Deterministic.

    Example:
        >>> fine, coarse = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[[0.0, 10.0]]]])
        >>> multiplicative_fusion([fine, coarse])
        tensor([[[[ 0., 10., 30.]]]])
        >>> multiplicative_fusion([fine, coarse], mode="add")
        tensor([[[[ 1.,  7., 13.]]]])
    """
    op = "multiplicative_fusion"
    features = as_tensors(op, "features", features)
    if features:
        features = in_one_precision(*features)
        scale = None if scale is None else as_tensor(op, "scale", scale, features[0])
        shift = None if shift is None else as_tensor(op, "shift", shift, features[0])
    relu, align_corners = as_flag(op, "relu", relu), as_flag(op, "align_corners", align_corners)
    _check(features, scale, shift, reduce, mode)
    dtype = features[0].dtype
    branches = [branch.float() if widens(branch) else branch for branch in features]
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    vectors = [x if x is None else x.to(computed) for x in (scale, shift)]
    return _FORWARD(branches, *vectors, relu, align_corners, reduce, mode).to(dtype)
