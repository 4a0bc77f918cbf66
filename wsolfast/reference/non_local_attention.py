"""Reference of :func:`wsolfast.ops.non_local_attention`: every weight of every query and key in memory."""

import torch
from torch import Tensor


def non_local_attention(query: Tensor, key: Tensor, value: Tensor, kind: str) -> Tensor:
    """Mix the values [N, C, h', w'] of keys [N, D, h', w'] for queries [N, D, h, w] to [N, C, h, w]."""
    weights = _weights(query, key, kind)  # [N, P, M]
    return (value.flatten(2) @ weights.mT).unflatten(2, query.shape[2:]).contiguous()


def non_local_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to ``query``, ``key`` and ``value``."""
    weights = _weights(query, key, kind)
    grad = grad.flatten(2)
    grad_value = grad @ weights
    grad_scores = grad.mT @ value.flatten(2)  # [N, P, M]
    if kind == "embedded_gaussian":
        grad_scores = weights * (grad_scores - (grad_scores * weights).sum(-1, keepdim=True))
    else:
        grad_scores = grad_scores / weights.shape[2]
    grad_query = key.flatten(2) @ grad_scores.mT
    grad_key = query.flatten(2) @ grad_scores
    return tuple(
        flat.unflatten(2, maps.shape[2:]).contiguous()
        for flat, maps in ((grad_query, query), (grad_key, key), (grad_value, value))
    )


def _weights(query: Tensor, key: Tensor, kind: str) -> Tensor:
    scores = query.flatten(2).mT @ key.flatten(2)
    return torch.softmax(scores, dim=-1) if kind == "embedded_gaussian" else scores / scores.shape[2]
