"""Order of a stage's training images: the batches of every epoch, and each process's parts of them."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from wsolfast.engine.run import distributed
from wsolfast.recipe import RecipeError, StageSpec
from wsolfast.types import derive_seed

Sampler = Callable[[Tensor, int, int], Iterable[list[int]] | None]
# The images of a batch, and this process's share of them for each turn of gradient accumulation.
BatchParts = tuple[list[int], list[list[int]]]


@dataclass
class TrainPosition:
    """Position in a stage: ``step_in_epoch`` batches of ``epoch`` are done, ``step`` in all."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0

    def advance(self, steps_per_epoch: int) -> None:
        """Count one more batch; after the last one of an epoch the next epoch begins."""
        self.step += 1
        self.step_in_epoch += 1
        if self.step_in_epoch == steps_per_epoch:
            self.epoch, self.step_in_epoch = self.epoch + 1, 0


class DataOrder:
    """Batches of a stage, which follow from the seed and the epoch alone.

    Args:
        labels (Tensor[n]): int64, of every training image.
        stage: gives the batch size, and the turns in which each batch is worked through.
        seed: another one for every stage of a recipe.
        sampler: the method's :meth:`wsolfast.methods.Method.batch_sampler`.
        held_out: indices of images that no batch shows.
    """

    def __init__(self, labels: Tensor, stage: StageSpec, seed: int, sampler: Sampler, held_out: Collection[int] = ()):
        left_out = set(held_out)
        self.images = [index for index in range(len(labels)) if index not in left_out]
        self.labels, self.stage, self.seed, self.sampler = labels[self.images], stage, seed, sampler
        self.steps_per_epoch = len(self.batches(0))

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the indices of every batch of an epoch, by the method's own sampler if it has one.

        Raises:
            RecipeError: if the method cannot make batches of that size.
        """
        size = self.stage.batch_size
        try:
            sampled = self.sampler(self.labels, size, _epoch_seed(self.seed, epoch))
        except ValueError as error:
            raise RecipeError(f"stage.{self.stage.name}: {error}") from error
        if sampled is not None:
            return [[self.images[place] for place in batch] for batch in sampled]
        order = [self.images[place] for place in epoch_order(self.seed, epoch, len(self.labels)).tolist()]
        return [order[i : i + size] for i in range(0, len(order), size)]

    def remaining(self, at: TrainPosition) -> list[BatchParts]:
        """Return what is left of the epoch: the indices of each batch, and this process's parts of it.

        Raises:
            RecipeError: if a batch has fewer images than there are processes.
            ValueError: if the method's sampler gives another number of batches than in the first epoch.
        """
        batches = self.batches(at.epoch)
        # Schedules, and the end of an epoch, are counted in steps.
        if len(batches) != self.steps_per_epoch:
            raise ValueError(
                f"stage.{self.stage.name}: the method's batch_sampler gives {len(batches)} batches in epoch "
                f"{at.epoch}, {self.steps_per_epoch} in epoch 0"
            )
        return [(batch, self._parts(batch)) for batch in batches[at.step_in_epoch :]]

    def _parts(self, batch: list[int]) -> list[list[int]]:
        ranks = distributed.world_size()
        if len(batch) < ranks:
            raise RecipeError(
                f"stage.{self.stage.name}.batch_size: an epoch of {len(self.labels)} images has a batch of "
                f"{len(batch)}, too few for {ranks} processes; choose another batch_size or fewer processes"
            )
        turns = distributed.split(batch, min(self.stage.accumulate, len(batch) // ranks))
        return [list(distributed.split(turn, ranks)[distributed.rank()]) for turn in turns]


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """Return a permutation of ``count`` images that depends on ``(seed, epoch)`` alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_epoch_seed(seed, epoch)))


def _epoch_seed(seed: int, epoch: int) -> int:
    return derive_seed(f"{seed}/{epoch}")
