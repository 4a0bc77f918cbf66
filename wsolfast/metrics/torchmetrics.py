"""The accumulators as ``torchmetrics.Metric``: distributed by summing integer counters. Needs ``wsolfast[eval]``."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from wsolfast._compat import import_torchmetrics
from wsolfast.metrics import _accumulator, box_accuracy, error_split, pixel_accuracy

if TYPE_CHECKING:
    from torchmetrics import Metric as _Metric
else:
    _Metric = import_torchmetrics().Metric


class _Wrapped(_Metric):
    """An accumulator whose counters are states of a torchmetrics metric."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    _accumulator: type[_accumulator.Accumulator]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()
        self._counts = self._accumulator(*args, **kwargs)
        for name, zero in self._counts.zeros.items():
            self.add_state(name, zero.clone(), dist_reduce_fx="sum")

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch; the arguments are those of the accumulator's ``count``."""
        for name, value in self._counts.count(*args, **kwargs).items():
            setattr(self, name, getattr(self, name) + value.to(self.device))

    def compute(self) -> dict:
        """Return the numbers of everything counted so far, as the accumulator's ``summarize`` does."""
        return self._counts.summarize(self._state_on_host())

    def scalars(self) -> dict[str, float]:
        """Return :meth:`compute`'s numbers flat, each a plain number, as ``self.log_dict`` takes them."""
        return _accumulator.flat(self.compute())

    def __repr__(self) -> str:
        return _accumulator.described(type(self).__name__, self._counts._config, self._state_on_host())

    def _state_on_host(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).cpu() for name in self._counts.zeros}


class BoxAccuracy(_Wrapped):
    """:class:`wsolfast.metrics.BoxAccuracy` for torchmetrics.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:6, 2:6] = 1
        >>> accuracy = BoxAccuracy("spa", max_box=False)
        >>> accuracy.update(score_map, torch.tensor([[8, 8]]), [torch.tensor([[2.0, 2.0, 6.0, 6.0]])])
        >>> accuracy.compute()["gt_known_loc"]
        100.0
    """

    _accumulator = box_accuracy.BoxAccuracy


class ErrorSplit(_Wrapped):
    """:class:`wsolfast.metrics.ErrorSplit` for torchmetrics.

    Example:
        >>> score_map = torch.zeros(1, 8, 8)
        >>> score_map[0, 2:6, 2:6] = 1
        >>> sizes, gt_boxes = torch.tensor([[8, 8]]), [torch.tensor([[0.0, 0.0, 8.0, 8.0]])]
        >>> split = ErrorSplit("spa")
        >>> split.update(score_map, sizes, gt_boxes, torch.tensor([1]), torch.tensor([[1, 0]]))
        >>> split.compute()["part"]
        100.0
    """

    _accumulator = error_split.ErrorSplit


class PixelAccuracy(_Wrapped):
    """:class:`wsolfast.metrics.PixelAccuracy` for torchmetrics.

    Example:
        >>> score_map, mask = torch.zeros(1, 8, 8), torch.zeros(8, 8, dtype=torch.uint8)
        >>> score_map[0, 2:6, 2:6], mask[2:6, 2:4] = 1, 1
        >>> accuracy = PixelAccuracy(size=8)
        >>> accuracy.update(score_map, [mask])
        >>> accuracy.compute()["px_ap"]
        50.0
    """

    _accumulator = pixel_accuracy.PixelAccuracy
