"""Accuracies from counters over a grid of thresholds."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from wsolfast.ops._checks import as_number

Count = TypeVar("Count", float, Tensor)


def pick(counts: Tensor, thresholds: Sequence[float], at: float | None, metric: str) -> tuple[int, float]:
    """Return the counter [T] at threshold ``at``, or the largest (the first among equals), and its threshold.

    Raises:
        ValueError: if ``at`` is not on the grid.
    """
    index = place(counts, thresholds, at, metric)
    return int(counts[index]), thresholds[index]


def place(values: Tensor | np.ndarray, thresholds: Sequence[float], at: float | None, metric: str) -> int:
    """Return the index of ``at`` on the grid, or that of the largest of ``values`` [T], the first among equals.

    Raises:
        ValueError: if ``at`` is not on the grid.
    """
    if at is None:
        return int(values.argmax())
    at = as_number(metric, "at", at)
    index = min(range(len(thresholds)), key=lambda k: abs(thresholds[k] - at))
    # A threshold that went through float32 is off by less.
    if abs(thresholds[index] - at) > 1e-7:
        raise ValueError(
            f"{metric}: threshold {at:g} was not counted, the nearest is {thresholds[index]:g}; "
            f"give thresholds=[...] when constructing"
        )
    return index


def wanted(at: float | Mapping[str, float] | None, metric: str) -> float | None:
    """Return the threshold that ``at`` asks of this metric."""
    if isinstance(at, Mapping):
        if metric not in at:
            raise ValueError(f"at: no threshold for {metric!r}; it has {sorted(at)}")
        return at[metric]
    return at


def percent(count: Count, images: int) -> Count:
    """Return 100 count / images of a number or of a float64 tensor, multiplied first as the published evaluators do."""
    return count * 100.0 / images
