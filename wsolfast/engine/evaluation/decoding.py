"""Images decoded ahead by threads, batch after batch, into memory that is used again and again."""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsolfast.data import DataError, Dataset, Sample
from wsolfast.engine.run.distributed import split

# Batches that are decoded, or being decoded, while others are computed with.
_AHEAD = 3


class Slot:
    """One batch in memory of its own.

    Args:
        pin: page-locked memory.
        pad: rows that there are at least; those without an image hold anything.

    Attributes:
        indices: which images these are.
        label: int64 [n], n = max(images, pad).
        seconds: that threads spent on decoding, as if one had done it after the other.
    """

    def __init__(self, pin: bool, pad: int):
        self._pin, self._pad, self._lock = pin, pad, threading.Lock()
        self._memory: dict[str, Tensor] = {}
        self._views: dict[str, Tensor] = {}
        self.indices: Sequence[int] = ()
        self.label = torch.empty(0, dtype=torch.int64)
        self.seconds = 0.0
        self.work: list[Future] = []

    def start(self, indices: Sequence[int], labels: Tensor) -> None:
        """Make room for other images."""
        self.indices, self._views = indices, {}
        label = functional.pad(labels[list(indices)], (0, max(0, self._pad - len(indices))))
        self.label = label.pin_memory() if self._pin else label

    def put(self, row: int, sample: Sample) -> None:
        """Take over the pixels of one image; callable from several threads.

        Raises:
            DataError: if it is not of the size of the others.
        """
        for view, pixels in (("image", sample.image), ("wide", sample.wide)):
            if pixels is not None:
                # NumPy copies in this thread alone and without the interpreter's lock; torch would start helpers.
                np.copyto(self._place(view, row, pixels, sample.image_id), pixels.numpy())

    def view(self, name: str) -> Tensor | None:
        """Return the view ``"image"`` or ``"wide"``, uint8 [n, 3, H, W]; None if the data set does not deliver it."""
        return self._views.get(name)

    def _place(self, name: str, row: int, pixels: Tensor, image_id: str) -> np.ndarray:
        with self._lock:
            if name not in self._views:
                self._views[name] = self._room(name, (max(len(self.indices), self._pad), *pixels.shape))
            view = self._views[name]
        if view.shape[1:] != pixels.shape:
            sizes = [list(shape[-2:]) for shape in (pixels.shape, view.shape)]
            raise DataError(f"{image_id} is {sizes[0]} and others are {sizes[1]}: set resize or crop to batch them")
        return view[row].numpy()

    def _room(self, name: str, shape: tuple[int, ...]) -> Tensor:
        size = prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = torch.empty(size, dtype=torch.uint8, pin_memory=self._pin)
        return self._memory[name][:size].view(shape)


class DecodedBatches:
    """Batches in their order; iterating waits for the next one, :meth:`release` gives its memory back.

    Args:
        dataset: gives the samples; its labels are taken as they stand.
        batches: the images of each batch.
        threads: that decode; 0 decodes in the caller's, when a batch is asked for.
        in_use: batches that are not released when the next one is asked for, at most.
        pin: page-locked memory, from which a GPU copies by itself.
        pad: rows that every batch has at least.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Sequence[Sequence[int]],
        *,
        threads: int,
        in_use: int = 1,
        pin: bool = False,
        pad: int = 0,
    ):
        self.dataset, self.threads = dataset, threads
        self._coming = deque(batches)
        self._free = [Slot(pin, pad) for _ in range(in_use + (_AHEAD if threads else 0))]
        self._started: deque[Slot] = deque()
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def running(self) -> Iterator["DecodedBatches"]:
        """Let threads decode while entered; batches that nobody asked for are dropped at the end."""
        self._pool = _single_threaded(self.threads) if self.threads else None
        try:
            self._start()
            yield self
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def next(self) -> Slot | None:
        """Return the next batch, None after the last.

        Raises:
            DataError: an image cannot be read.
        """
        if not self._started:
            return None
        slot = self._started.popleft()
        if self._pool is None:
            slot.seconds = self._decode(slot, range(len(slot.indices)))
        else:
            slot.seconds = sum(piece.result() for piece in slot.work)
        return slot

    def release(self, slot: Slot) -> None:
        """Let a later batch be decoded into the memory of this one."""
        self._free.append(slot)
        self._start()

    def _start(self) -> None:
        while self._coming and self._free:
            slot = self._free.pop()
            slot.start(self._coming.popleft(), self.dataset.labels)
            if self._pool is not None:
                pieces = split(range(len(slot.indices)), min(self.threads, len(slot.indices)))
                slot.work = [self._pool.submit(self._decode, slot, piece) for piece in pieces]
            self._started.append(slot)

    def _decode(self, slot: Slot, rows: Sequence[int]) -> float:
        started = time.perf_counter()
        for row in rows:
            slot.put(row, self.dataset[slot.indices[row]])
        return time.perf_counter() - started


def _single_threaded(threads: int) -> ThreadPoolExecutor:
    """Start threads in which torch starts no further ones: they are the parallelism."""
    usual, ready = torch.get_num_threads(), threading.Barrier(threads + 1)

    def alone() -> None:
        torch.set_num_threads(1)
        # A thread takes over what was last set, by anyone, when it first asks: now, before it is set back below.
        torch.get_num_threads()

    pool = ThreadPoolExecutor(threads, "decode", initializer=alone)
    for _ in range(threads):
        pool.submit(ready.wait)
    ready.wait()
    # Or threads that others start later would begin with one.
    torch.set_num_threads(usual)
    return pool
