"""CCAM: Yang et al., "Combinational Class Activation Maps for Weakly Supervised Object Localization", WACV 2020.

The map of an image combines those of all classes by the rank of their scores; inside NL-CCAM and CI-CAM and behind any
method with a linear classifier.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.backbones import StageInfo
from wsolfast.refinements._base import Needs, Refinement, Seen, project

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
        """Return the weights of ranks 1 to n, float64 [n].

        Raises:
            ValueError: if ``gamma`` is ``"none"``.
        """
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
        # Narrowed first: a device may have no float64.
        by_rank = self.of_ranks(ranking.shape[1]).to(weight.dtype).to(weight.device)
        by_class = torch.zeros_like(order, dtype=weight.dtype).scatter_(1, order, by_rank.expand(order.shape))
        return (by_class @ weight)[:, None]


class CombinationalMaps(Refinement):
    """One map for all classes: those of a linear classifier, weighted by the rank of their classes.

    Args:
        stages: of the backbone.
        gamma: weights of the ranks, see :class:`Combination`; with ``"none"`` each class keeps its CAM.
        gamma_m: ranks that count as likely in ``"nl_quadratic"``.
        gamma_r: ranks that count as unlikely in ``"sum"`` and ``"mean"``.
        gamma_s: largest weight times ``gamma_r`` in ``"sum"``.

    Raises:
        ValueError: if an option is none of its choices or out of range.
    """

    def __init__(
        self,
        stages: Sequence[StageInfo],
        *,
        gamma: Gamma = "nl_quadratic",
        gamma_m: int = 100,
        gamma_r: int = 20,
        gamma_s: float = 2.0,
    ):
        self.combination = Combination(gamma, gamma_m, gamma_r, gamma_s)

    def needs(self, has_head: bool) -> Needs:
        return Needs(head=True)

    def __call__(self, seen: Seen) -> Tensor:
        assert seen.head is not None
        assert seen.ranking is not None
        vectors = self.combination.class_vectors(seen.head.weight, seen.ranking, seen.classes)
        return ops.min_max_normalize(project(vectors, seen.head.features))


NAME = "CCAM"
REFINEMENT = CombinationalMaps
