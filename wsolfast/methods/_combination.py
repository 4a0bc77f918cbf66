"""Combinational class activation maps: the maps of all classes, weighted by the rank of their scores (NL-CCAM)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Gamma = Literal["none", "t1b0", "t1b1", "linear", "nl_quadratic", "ci_quadratic", "sum", "mean"]


@dataclass(frozen=True)
class Combination:
    r"""Weights :math:`\gamma(k)` of the k-th most likely of n classes in :math:`H = \sum_k \gamma(k) M_{t_k}`.

    Attributes:
        gamma: ``"none"``, each class keeps its own map; ``"t1b0"``, the best class alone; ``"t1b1"``, the best minus
            the worst; ``"linear"``, 1 - 2(k-1)/(n-1); ``"nl_quadratic"``, (1 - (k-1)/(m-1))² down to rank m and
            -((k-m-1)/(n-m-1))² below (NL-CCAM); ``"ci_quadratic"``, -((k-1)/(n-1))² (CI-CAM on CUB); ``"sum"``, the
            best minus the last r ranks, growing from 0 to s/r (KG-CI-CAM); ``"mean"``, the best minus the mean of the
            last r.
        m: ranks that count as likely, ``"nl_quadratic"`` only.
        r: ranks that count as unlikely, at most n - 1, ``"sum"`` and ``"mean"`` only.
        s: largest weight times r, ``"sum"`` only.

    Raises:
        ValueError: if m or r is below 1.
    """

    gamma: Gamma
    m: int = 100
    r: int = 20
    s: float = 2.0

    def __post_init__(self) -> None:
        if min(self.m, self.r) < 1:
            raise ValueError(f"gamma: expected m and r of at least 1, got m={self.m}, r={self.r}")

    def of_ranks(self, n: int) -> Tensor:
        """Return the weights of ranks 1 to n, float64 [n]."""
        rank = torch.arange(n, dtype=torch.float64)
        best = (rank == 0).double()
        share = rank / max(1, n - 1)
        if self.gamma == "t1b0":
            return best
        if self.gamma == "t1b1":
            return best - (rank == n - 1).double()
        if self.gamma == "linear":
            return 1 - 2 * share
        if self.gamma == "ci_quadratic":
            return -(share**2)
        if self.gamma == "nl_quadratic":
            likely, unlikely = rank / max(1, self.m - 1), (rank - self.m) / max(1, n - self.m - 1)
            return torch.where(rank < self.m, (1 - likely) ** 2, -(unlikely**2))
        if self.gamma in ("sum", "mean"):
            last = min(self.r, n - 1)
            if last:
                slope = torch.linspace(0, self.s, last, dtype=torch.float64) if self.gamma == "sum" else 1.0
                best[n - last :] = -slope / last
            return best
        raise ValueError("gamma 'none' keeps the classes apart: there is no weight of a rank")

    def class_vectors(self, weight: Tensor, ranking: Tensor, classes: Tensor) -> Tensor:
        """Return what features are multiplied with: combined weights cost one vector, combined maps n maps.

        Args:
            weight (Tensor[K, C]): of the classifier.
            ranking (Tensor[N, K]): scores; of equal ones the lower class comes first.
            classes (Tensor[N, M]): wanted classes.

        Returns:
            Tensor[N, M, C] for ``"none"``, otherwise Tensor[N, 1, C]: one map that serves every class.
        """
        if self.gamma == "none":
            return weight[classes]
        order = ranking.argsort(dim=1, descending=True, stable=True)
        by_rank = self.of_ranks(ranking.shape[1]).to(weight)
        by_class = torch.zeros_like(order, dtype=weight.dtype).scatter_(1, order, by_rank.expand(order.shape))
        return (by_class @ weight)[:, None]


def wanted_classes(ranking: Tensor, label: Tensor | None, topk: int) -> Tensor:
    """Return the classes [N, M] to localise: the label if there is one, then the ``topk`` most likely."""
    predicted = ranking.topk(min(topk, ranking.shape[1]), dim=1).indices
    return predicted if label is None else torch.cat((label[:, None], predicted), dim=1)
