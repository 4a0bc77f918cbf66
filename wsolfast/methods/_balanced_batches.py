"""Batches of few classes with several images each, for losses that compare images of one class."""

from collections.abc import Iterator

import torch
from torch import Tensor


class BalancedBatches:
    """One epoch of batches of at most ``classes_per_batch`` classes in equal shares.

    Classes are drawn without replacement, in proportion to the images that this epoch has yet to show; each gives the
    next ones of its own shuffled queue, which starts again when it is empty. The images of a class stand together, so
    ranks that take consecutive equal parts of a batch hold whole shares where their number divides the classes'.

    Args:
        labels (Tensor[n]): class of every image.
        batch_size: images per batch; every batch is full.
        seed: all of the order; another one for every epoch. No global random state is read or moved.
        classes_per_batch: fewer where there are fewer classes or images per batch.
        together: a class's share is a multiple of it; it divides the batch size.
    """

    def __init__(self, labels: Tensor, batch_size: int, seed: int, classes_per_batch: int = 12, together: int = 1):
        self.batch_size, self.seed = batch_size, seed
        order = labels.cpu().argsort(stable=True)
        counts = labels.cpu().unique(return_counts=True)[1]
        self.members = [members.tolist() for members in order.split(counts.tolist())]
        self.length = -(-len(labels) // batch_size)
        groups = batch_size // together
        classes = min(classes_per_batch, len(counts), groups)
        self.shares = [together * (groups // classes + (i < groups % classes)) for i in range(classes)]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed)
        queues = [_Queue(members, generator) for members in self.members]
        left = torch.tensor([len(members) for members in self.members], dtype=torch.float64)
        for _ in range(self.length):
            # Exponential waiting times of rate `left`: the first to ring are drawn in proportion to it. Classes that
            # have shown all their images come last, in random order.
            ring = torch.empty_like(left).exponential_(generator=generator)
            ring = torch.where(left > 0, ring / left.clamp(min=1), 1e9 + ring)
            drawn = ring.argsort(stable=True)[: len(self.shares)].tolist()
            yield [index for at, share in zip(drawn, self.shares, strict=True) for index in queues[at].take(share)]
            for at, share in zip(drawn, self.shares, strict=True):
                left[at] = (left[at] - share).clamp(min=0)


class _Queue:
    def __init__(self, members: list[int], generator: torch.Generator):
        self.members, self.generator = members, generator
        self.waiting: list[int] = []

    def take(self, count: int) -> list[int]:
        """Return the next ``count`` members; none twice unless there are fewer."""
        taken: list[int] = []
        while len(taken) < count:
            if not self.waiting:
                fresh = [self.members[i] for i in torch.randperm(len(self.members), generator=self.generator).tolist()]
                # Those in hand wait longest, so that one batch does not show an image twice.
                self.waiting = sorted(fresh, key=set(taken).__contains__)
            need = count - len(taken)
            taken += self.waiting[:need]
            self.waiting = self.waiting[need:]
        return taken
