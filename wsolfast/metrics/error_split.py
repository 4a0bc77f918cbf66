"""Shares of the kinds of errors in the Top-1 localisation error."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from wsolfast.metrics import functional
from wsolfast.metrics._accumulator import Accumulator
from wsolfast.metrics._thresholds import percent, pick
from wsolfast.metrics.box_accuracy import right_classes, with_thresholds
from wsolfast.metrics.frames import as_score_maps, is_constant
from wsolfast.metrics.functional import ERROR_KINDS
from wsolfast.metrics.protocols import Protocol
from wsolfast.ops._checks import as_tensor, holds_integers

_KINDS = len(ERROR_KINDS)


class ErrorSplit(Accumulator):
    """The error analysis of SPA (CVPR 2021, Table 4): wrong class, several instances, part, more, other.

    Args:
        protocol: name or record of one that cuts one box per map.
        thresholds: instead of the protocol's.

    The kinds are those of :func:`wsolfast.metrics.functional.error_kinds`; they exclude each other and add up to 100 %.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:6, 2:6] = 1
        >>> sizes, gt_boxes = torch.tensor([[8, 8]]), [torch.tensor([[0.0, 0.0, 8.0, 8.0]])]
        >>> split = ErrorSplit("spa")
        >>> split.update(score_map, sizes, gt_boxes, torch.tensor([1]), torch.tensor([[1, 0]]))
        >>> split.compute()["part"]
        100.0
    """

    def __init__(self, protocol: str | Protocol = "spa", thresholds: Sequence[float] | float | None = None):
        self.protocol = with_thresholds(protocol, thresholds)
        self._config = {"protocol": asdict(self.protocol)}
        self.zeros = {
            "images": torch.zeros((), dtype=torch.int64),
            "maps_constant": torch.zeros((), dtype=torch.int64),
            "kinds": torch.zeros(len(self.protocol.thresholds), len(ERROR_KINDS), dtype=torch.int64),
        }
        super().__init__()

    def count(
        self,
        score_maps: Tensor | Sequence[Tensor],
        image_sizes: Tensor,
        gt_boxes: Sequence[Tensor],
        label: Tensor,
        topk_classes: Tensor,
    ) -> dict[str, Tensor]:
        """Return the counters of a batch.

        Args:
            score_maps, image_sizes, gt_boxes, label, topk_classes: as for :meth:`BoxAccuracy.count`.

        Raises:
            ValueError: if shapes do not fit or an image has no true box.
        """
        score_maps = as_score_maps(score_maps)
        first, _ = right_classes(label, topk_classes, len(score_maps))
        kinds = functional.error_kinds(score_maps, image_sizes, gt_boxes, first, self.protocol)
        return _kind_counts(kinds) | {"maps_constant": is_constant(score_maps).sum().cpu()}

    def update_kinds(self, kinds: Tensor) -> None:
        """Add images whose kinds (Tensor[N, T], index into ``ERROR_KINDS``) are known already.

        Raises:
            ValueError: if they are no such indices, or not of as many thresholds.
        """
        kinds, wide = as_tensor("ErrorSplit", "kinds", kinds), len(self.protocol.thresholds)
        fits = kinds.dim() == 2 and kinds.shape[1] == wide and holds_integers(kinds)
        if not fits or not ((kinds >= 0) & (kinds < _KINDS)).all():
            raise ValueError(
                f"ErrorSplit: expected kinds as integers from 0 to {_KINDS - 1} of shape [N, {wide}], "
                f"got {kinds.dtype} {list(kinds.shape)}"
            )
        for name, value in _kind_counts(kinds).items():
            self._state[name] += value

    def summarize(self, state: Mapping[str, Tensor], at: float | None = None) -> dict:
        """Return the percentage of images of each kind.

        Args:
            state: counters.
            at: the threshold; None takes the one with most correct images.

        Returns:
            ``cls correct m_ins part more ot``, ``images``, ``maps_constant`` (those whose map has one value everywhere)
            and ``cam_threshold``.

        Raises:
            ValueError: if nothing was counted or ``at`` is not on the grid.
        """
        images = int(state["images"])
        if images == 0:
            raise ValueError("ErrorSplit: no image was counted; call update first")
        correct = state["kinds"][:, ERROR_KINDS.index("correct")]
        _, threshold = pick(correct, self.protocol.thresholds, at, "ErrorSplit")
        counts = state["kinds"][self.protocol.thresholds.index(threshold)].tolist()
        shares = {kind: percent(count, images) for kind, count in zip(ERROR_KINDS, counts, strict=True)}
        constant = int(state["maps_constant"])
        return shares | {"images": images, "maps_constant": constant, "cam_threshold": threshold}


def _kind_counts(kinds: Tensor) -> dict[str, Tensor]:
    one_hot = torch.nn.functional.one_hot(kinds.long(), _KINDS)
    return {"images": torch.tensor(len(kinds)), "kinds": one_hot.sum(0)}
