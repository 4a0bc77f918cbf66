"""Reference of :func:`wsolfast.ops.multiplicative_fusion`: every resized branch in memory."""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def multiplicative_fusion(
    first: Tensor,
    second: Tensor,
    third: Tensor | None,
    fourth: Tensor | None,
    align_corners: bool,
    reduce: str,
    mode: str,
) -> Tensor:
    """Branches [N, C, h_i, w_i] to [N, C, h, w], or to [N, C] if reduced by their mean."""
    size = first.shape[2:]
    fused = _combine([_resize(branch, size, align_corners) for branch in _given(first, second, third, fourth)], mode)
    return fused.mean((2, 3)) if reduce == "mean" else fused.contiguous()


def multiplicative_fusion_backward(
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    third: Tensor | None,
    fourth: Tensor | None,
    align_corners: bool,
    reduce: str,
    mode: str,
) -> list[Tensor]:
    """Gradients with respect to the branches given. Resizes are matrices here, so no gradient is summed by atomics."""
    branches = _given(first, second, third, fourth)
    size = first.shape[2:]
    if reduce == "mean":
        grad = (grad / (size[0] * size[1]))[:, :, None, None].expand(first.shape)
    resized = [_resize(branch, size, align_corners) for branch in branches]
    gradients = []
    for i, branch in enumerate(branches):
        others = resized[:i] + resized[i + 1 :]
        gradient = grad * math.prod(others) if mode == "multiply" else grad
        if branch.shape[2:] != size:
            down = _resize_matrix(branch, branch.shape[2], size[0], align_corners)
            across = _resize_matrix(branch, branch.shape[3], size[1], align_corners)
            gradient = down.mT @ gradient @ across
        gradients.append(gradient.contiguous(memory_format=torch.contiguous_format))
    return gradients


def _given(*branches: Tensor | None) -> list[Tensor]:
    return [branch for branch in branches if branch is not None]


def _combine(maps: list[Tensor], mode: str) -> Tensor:
    return math.prod(maps[1:], start=maps[0]) if mode == "multiply" else sum(maps[1:], start=maps[0])


def _resize(branch: Tensor, size: torch.Size, align_corners: bool) -> Tensor:
    if branch.shape[2:] == size:
        return branch
    if branch.shape[0] == 0 or branch.shape[1] == 0:
        return branch.new_empty(*branch.shape[:2], *size)
    return interpolate(branch, size=tuple(size), mode="bilinear", align_corners=align_corners)


def _resize_matrix(like: Tensor, source: int, target: int, align_corners: bool) -> Tensor:
    """[target, source], the bilinear resize of one axis."""
    impulses = torch.eye(source, dtype=like.dtype, device=like.device).unsqueeze(0)
    return interpolate(impulses, size=target, mode="linear", align_corners=align_corners)[0].mT
