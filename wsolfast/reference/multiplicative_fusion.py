"""Reference of :func:`wsolfast.ops.multiplicative_fusion`: every resized branch in memory."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wsolfast.reference._layout import layout_of


def multiplicative_fusion(
    features: Sequence[Tensor],
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    align_corners: bool,
    reduce: str,
    mode: str,
) -> Tensor:
    """Fuse branches [N, C, h_i, w_i] to [N, C, h, w], or to [N, C] if reduced by their mean."""
    first = features[0]
    size = first.shape[2:]
    branches = activated(features, scale, shift, relu)
    fused = _combine([_resize(branch, size, align_corners) for branch in branches], mode).to(first.dtype)
    return fused.mean((2, 3)) if reduce == "mean" else fused.contiguous(memory_format=layout_of(first))


def multiplicative_fusion_backward(
    grad: Tensor, features: Sequence[Tensor], align_corners: bool, reduce: str, mode: str
) -> list[Tensor]:
    """Return the branches' gradients. Resizes are matrices here, so no gradient is summed by atomics."""
    first = features[0]
    size = first.shape[2:]
    if reduce == "mean":
        grad = (grad / (size[0] * size[1]))[:, :, None, None].expand(first.shape)
    resized = [_resize(branch, size, align_corners) for branch in features]
    gradients = []
    for i, branch in enumerate(features):
        others = resized[:i] + resized[i + 1 :]
        gradient = grad * math.prod(others) if mode == "multiply" else grad
        if branch.shape[2:] != size:
            down = _resize_matrix(branch, branch.shape[2], size[0], align_corners)
            across = _resize_matrix(branch, branch.shape[3], size[1], align_corners)
            gradient = down.mT @ gradient @ across
        gradients.append(gradient.contiguous(memory_format=layout_of(first)))
    return gradients


def activated(branches: Sequence[Tensor], scale: Tensor | None, shift: Tensor | None, relu: bool) -> list[Tensor]:
    """Return the branches as they are fused; half precision becomes float32 where a factor or a summand is."""
    if scale is not None:
        branches = [branch * factor[..., None, None] for branch, factor in zip(branches, scale, strict=True)]
    if shift is not None:
        branches = [branch + summand[..., None, None] for branch, summand in zip(branches, shift, strict=True)]
    return [branch.relu() for branch in branches] if relu else list(branches)


def activation_backward(
    gradients: Sequence[Tensor],
    branches: Sequence[Tensor],
    fused: Sequence[Tensor],
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """Turn gradients with respect to ``fused`` into those with respect to the branches, ``scale`` and ``shift``."""
    if relu:
        gradients = [gradient.masked_fill(x <= 0, 0) for gradient, x in zip(gradients, fused, strict=True)]
    grad_scale = grad_shift = None
    if shift is not None:
        grad_shift = _sums_like(shift, gradients)
    if scale is not None:
        grad_scale = _sums_like(scale, [g * branch for g, branch in zip(gradients, branches, strict=True)])
        gradients = [g * factor[..., None, None] for g, factor in zip(gradients, scale, strict=True)]
    gradients = [gradient.to(branch.dtype) for gradient, branch in zip(gradients, branches, strict=True)]
    return gradients, grad_scale, grad_shift


def _sums_like(vectors: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """Sum each branch's maps to [branches, C] or [branches, N, C]."""
    axes = (0, 2, 3) if vectors.dim() == 2 else (2, 3)
    return torch.stack([x.sum(axes, dtype=vectors.dtype) for x in maps])


def _combine(maps: list[Tensor], mode: str) -> Tensor:
    return math.prod(maps[1:], start=maps[0]) if mode == "multiply" else sum(maps[1:], start=maps[0])


def _resize(branch: Tensor, size: torch.Size, align_corners: bool) -> Tensor:
    if branch.shape[2:] == size:
        return branch
    if branch.shape[0] == 0 or branch.shape[1] == 0:
        return branch.new_empty(*branch.shape[:2], *size)
    return interpolate(branch, size=tuple(size), mode="bilinear", align_corners=align_corners)


def _resize_matrix(like: Tensor, source: int, target: int, align_corners: bool) -> Tensor:
    """Return the matrix [target, source] of the bilinear resize of one axis."""
    impulses = torch.eye(source, dtype=like.dtype, device=like.device).unsqueeze(0)
    return interpolate(impulses, size=target, mode="linear", align_corners=align_corners)[0].mT
