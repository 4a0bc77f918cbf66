"""Counters of several accumulators that see the same images."""

from collections.abc import Mapping

import torch

from wsolfast.engine.run.distributed import sum_over_all, world_size
from wsolfast.metrics import BoxAccuracy, PixelAccuracy


class Counters:
    """Accumulators by name, and numbers of images.

    Args:
        accumulators: of one configuration or several.
        images: how many numbers of images there are.
    """

    def __init__(self, accumulators: Mapping[str, BoxAccuracy] | Mapping[str, PixelAccuracy], images: int):
        self._accumulators, self._images = accumulators, torch.zeros(images, dtype=torch.int64)

    def all_reduce(self) -> None:
        """Add up what all processes have counted."""
        sum_over_all(self._images)
        for accumulator in self._accumulators.values() if world_size() > 1 else ():
            accumulator.all_reduce()

    def state_dict(self) -> dict:
        """Return a copy of all counters."""
        return {name: one.state_dict() for name, one in self._accumulators.items()} | {"images": self._images.clone()}

    def load_state_dict(self, state: Mapping) -> None:
        """Replace the counters by ``state``, which :meth:`state_dict` gave.

        Raises:
            ValueError: if they are of another configuration.
        """
        for name, one in self._accumulators.items():
            one.load_state_dict(state[name])
        self._images = state["images"]
