"""SPOL's fusion of shallow and deep features: resize to the finest, then multiply."""

from collections.abc import Sequence

from torch import Tensor

from wsolfast.ops._registry import define_op, widens
from wsolfast.reference import multiplicative_fusion as reference

_REDUCTIONS = ("map", "mean")
_MODES = ("multiply", "add")
_MOST_BRANCHES = 4


def _check(features: Sequence[Tensor], reduce: str, mode: str) -> None:
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


def _fake(first, second, third, fourth, align_corners, reduce, mode):
    return first.new_empty(first.shape[:2] if reduce == "mean" else first.shape)


def _setup_context(ctx, inputs, output):
    *branches, ctx.align_corners, ctx.reduce, ctx.mode = inputs
    ctx.save_for_backward(*branches)


def _backward(ctx, grad):
    branches = ctx.saved_tensors
    gradients = iter(_BACKWARD(grad, *branches, ctx.align_corners, ctx.reduce, ctx.mode))
    return *(None if branch is None else next(gradients) for branch in branches), None, None, None


def _fake_backward(grad, first, second, third, fourth, align_corners, reduce, mode):
    return [branch.new_empty(branch.shape) for branch in (first, second, third, fourth) if branch is not None]


_BRANCHES = "Tensor first, Tensor second, Tensor? third, Tensor? fourth, bool align_corners, str reduce, str mode"
_FORWARD = define_op(
    f"multiplicative_fusion({_BRANCHES}) -> Tensor",
    reference=reference.multiplicative_fusion,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    triton="wsolfast.kernels.multiplicative_fusion:multiplicative_fusion",
)
_BACKWARD = define_op(
    f"_multiplicative_fusion_backward(Tensor grad, {_BRANCHES}) -> Tensor[]",
    reference=reference.multiplicative_fusion_backward,
    fake=_fake_backward,
    triton="wsolfast.kernels.multiplicative_fusion:multiplicative_fusion_backward",
)


def multiplicative_fusion(
    features: Sequence[Tensor], *, align_corners: bool = True, reduce: str = "map", mode: str = "multiply"
) -> Tensor:
    r"""Resize every branch bilinearly to the first and multiply them.

    .. math:: P = \prod_i \mathrm{up}(R_i) \qquad\text{or, reduced,}\qquad \frac{1}{hw} \sum_p P_p

    Source: SPOL (Wei et al., CVPR 2021), Eqs 1-2. The aligned corners are the released code's.

    Args:
        features (2 to 4 of Tensor[N, C, h_i, w_i]): floating point, any stride; the finest first, which is taken as it
            is, bit by bit, like any other of its size.
        align_corners: as in :func:`torch.nn.functional.interpolate`.
        reduce: ``"map"``, or ``"mean"`` over the positions.
        mode: ``"multiply"``, or ``"add"`` as in the paper's ablation.

    Returns:
        Tensor[N, C, h, w], or Tensor[N, C] for the mean: dtype of the branches, contiguous. A NaN spreads to the
        positions whose bilinear window holds it.

    Raises:
        ValueError: if the number of branches, shapes or dtypes do not fit or an option is unknown.

    Backends: CPU (C++), CUDA (Triton), elsewhere the reference. Differentiable once; only the branches are saved.
    float16 and bfloat16 are computed in float32 and rounded once, autocast changes nothing. Deterministic.
    """
    _check(features, reduce, mode)
    dtype = features[0].dtype
    branches = [branch.float() if widens(branch) else branch for branch in features]
    missing = [None] * (_MOST_BRANCHES - len(branches))
    return _FORWARD(*branches, *missing, align_corners, reduce, mode).to(dtype)
