"""Random numbers and random fields of a scene."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

Value = TypeVar("Value")


class Draws:
    """A queue of uniform numbers with the few distributions a scene needs."""

    def __init__(self, units: list[float]):
        self._units = iter(units)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._units)

    def one_of(self, choices: Sequence[Value]) -> Value:
        return choices[int(next(self._units) * len(choices))]

    def chance(self, probability: float) -> bool:
        return next(self._units) < probability


@dataclass
class Noise:
    """A pool of random bytes that lattices are taken from."""

    pool: np.ndarray
    used: int = field(default=0)

    def take(self, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        taken = self.pool[self.used : self.used + count].reshape(shape)
        self.used += count
        return taken.astype(np.float32)

    def field(self, size: int, cells: tuple[int, int]) -> np.ndarray:
        """Draw smooth value noise [size, size] in 0..255 with ``cells`` (x, y) across the image."""
        across, down = (min(cell, 60) for cell in cells)
        lattice = self.take(down + 1, across + 1)
        low, weight = _taps(size, down)
        rows = lattice[low] + (lattice[low + 1] - lattice[low]) * weight[:, None]
        low, weight = _taps(size, across)
        left = np.take(rows, low, axis=1)
        return left + (np.take(rows, low + 1, axis=1) - left) * weight


@functools.lru_cache(maxsize=256)
def _taps(size: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each pixel the lattice node before it and the smoothstep weight of the node after it."""
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(cells) / np.float32(size)
    low = np.minimum(position.astype(np.int64), cells - 1)
    t = position - low.astype(np.float32)
    return low, t * t * (3 - 2 * t)
