"""Reference of :func:`wsolfast.ops.self_correlation_map`, in the steps of SPA's text: similarity, orders, map.

P = h·w positions. "head" and "v0" hold the map of position j in column j of a correlation matrix, "paper" in row j.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

NORM_EPS = 1e-10
FIRST_ORDER_EPS = 1e-5
COLUMN_EPS = 1e-10
RANGE_EPS = 1e-10


def self_correlation_map(
    features: Sequence[Tensor],
    cam: Tensor,
    variant: str,
    relu_first: bool,
    fo_th: float,
    so_th: float,
    so_weight: float,
    mode: str,
    delta_h: float,
    delta_l: float,
    post: str,
    eps: float,
    precision: str,
) -> Tensor:
    """Refine a coarse Tensor[N, K, h, w] in [0, 1] by layers Tensor[N, C, h, w] to localization maps [N, K, h, w].

    Computed in the type of ``cam``; ``precision`` is advice to kernels.
    """
    if cam.numel() == 0:
        return cam.new_empty(cam.shape)
    features = [layer.to(cam.dtype) for layer in features]
    correlation = functools.reduce(
        torch.add,
        (
            layer_correlation(similarity(layer), variant, relu_first, fo_th, so_th, so_weight, mode, eps)
            for layer in features
        ),
    )
    position_maps = correlation if variant == "paper" else correlation.transpose(1, 2)
    coarse = cam.flatten(2)
    maps = aggregate(position_maps, coarse, delta_h, delta_l, post)
    finite = coarse.isfinite().all(2)  # [N, K]
    for layer in features:
        finite = finite & torch.linalg.vector_norm(layer, dim=1).isfinite().flatten(1).all(1, keepdim=True)
    return torch.where(finite.unsqueeze(2), maps, torch.nan).view(cam.shape)


def similarity(features: Tensor) -> Tensor:
    """Return the cosine of every two positions, [N, C, h, w] to [N, P, P]; a zero feature is similar to nothing."""
    rows = features.flatten(2).transpose(1, 2)  # [N, P, C]
    rows = rows / (torch.linalg.vector_norm(rows, dim=2, keepdim=True) + NORM_EPS)
    return rows @ rows.transpose(1, 2)


def layer_correlation(
    similarity: Tensor,
    variant: str,
    relu_first: bool,
    fo_th: float,
    so_th: float,
    so_weight: float,
    mode: str,
    eps: float,
) -> Tensor:
    """Return the hierarchical correlation of one layer, [N, P, P]; ``mode`` keeps one of its orders or the larger."""
    if variant == "paper":
        first = similarity.relu()
        if mode == "first":
            return first
        second = second_order_paper(similarity, relu_first, eps)
        return second if mode == "second" else torch.maximum(first, second)
    kept = cut_below(similarity.relu(), fo_th)
    if mode == "first":
        return first_order_head(kept) if variant == "head" else kept
    second = second_order_head(kept, so_th) if variant == "head" else second_order_v0(kept, so_th)
    if mode == "second":
        return second
    first = first_order_head(kept) if variant == "head" else kept
    larger = torch.maximum(first, so_weight * second)
    return larger / (larger.sum(1, keepdim=True) + COLUMN_EPS)


def first_order_head(kept: Tensor) -> Tensor:
    """Scale the columns of the kept similarities to sum to one."""
    return kept / (kept.sum(1, keepdim=True) + FIRST_ORDER_EPS)


def second_order_head(kept: Tensor, so_th: float) -> Tensor:
    """Return two steps of a random walk that never stays; entries below ``so_th`` times the uniform 1/P are dropped."""
    step = first_order_head(without_diagonal(kept))
    walk = step @ step
    walk = walk / (walk.sum(1, keepdim=True) + COLUMN_EPS)
    return cut_below(walk, so_th / kept.shape[1])


def second_order_v0(kept: Tensor, so_th: float) -> Tensor:
    """Return paths of length two, each column scaled to [0, 1]; entries below ``so_th`` are dropped."""
    step = without_diagonal(kept)
    paths = step @ step
    paths = paths - paths.amin(1, keepdim=True)
    paths = paths / (paths.amax(1, keepdim=True) + RANGE_EPS)
    return cut_below(paths, so_th)


def second_order_paper(similarity: Tensor, relu_first: bool, eps: float) -> Tensor:
    """Sum S_ik S_kj over k that is neither i nor j (Eq. 8), each row scaled to [0, 1]; a constant row becomes zero."""
    base = similarity.relu() if relu_first else similarity
    own = base.diagonal(dim1=1, dim2=2)  # [N, P]: 1, or 0 for a zero feature
    paths = base @ base - (own.unsqueeze(1) + own.unsqueeze(2)) * base
    # On the diagonal k = i and k = j are one term, which the line above took away twice.
    paths = (paths + torch.diag_embed(own * own)) / base.shape[1]
    low = paths.amin(2, keepdim=True)
    span = paths.amax(2, keepdim=True) - low + eps
    return torch.where(span > 0, (paths - low) / span, 0 * paths)


def aggregate(position_maps: Tensor, coarse: Tensor, delta_h: float, delta_l: float, post: str) -> Tensor:
    """Subtract maps of the background's positions from the object's: [N, P, P] (row = position) and [N, K, P]."""
    if post == "paper":
        difference = mean_of(position_maps, coarse > delta_h) - mean_of(position_maps, coarse < delta_l)
        return difference.relu()
    scaled = stretch(position_maps)
    inside = (coarse >= delta_h).to(scaled.dtype) @ scaled
    outside = (coarse <= delta_l).to(scaled.dtype) @ scaled
    return stretch((stretch(inside) - stretch(outside)).relu())


def mean_of(position_maps: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen rows, zero when none is chosen."""
    return chosen.to(position_maps.dtype) @ position_maps / chosen.sum(2, keepdim=True).clamp(min=1)


def stretch(maps: Tensor) -> Tensor:
    """Scale to [0, 1] over the last axis with SPA's 1e-10 in the denominator."""
    low = maps.amin(-1, keepdim=True)
    return (maps - low) / (maps.amax(-1, keepdim=True) - low + RANGE_EPS)


def cut_below(values: Tensor, threshold: float) -> Tensor:
    """Return ``values`` with zeros where they are below ``threshold``."""
    return torch.where(values < threshold, torch.zeros_like(values), values)


def without_diagonal(matrices: Tensor) -> Tensor:
    """Return matrices [N, P, P] with zeros on their diagonals."""
    return matrices - torch.diag_embed(matrices.diagonal(dim1=1, dim2=2))
