"""Images decoded ahead, by threads or a device, batch after batch, into memory that is used again and again."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsolfast.data import DataError, Dataset, DeviceDecoder, Sample
from wsolfast.data.images.decode import PlainJpeg
from wsolfast.engine.run.distributed import split

# Batches that are decoded, or being decoded, while others are computed with.
_AHEAD = 3
# That a device resizes in one go: some 200 MB of float32.
_PIXELS_AT_ONCE = 1 << 24


class Slot:
    """One batch in memory of its own.

    Args:
        dataset: gives the samples.
        pin: page-locked memory.
        pad: rows that there are at least; those without an image hold anything.

    Attributes:
        indices: which images these are.
        label: int64 [n], n = max(images, pad).
        seconds: that decoding takes, by all that decode side by side.
        work: of threads, that fill the rows.
        finishing: what then remains to be done, elsewhere than in these; None if nothing does.
    """

    def __init__(self, dataset: Dataset, pin: bool, pad: int):
        self._dataset, self._pin, self._pad, self._lock = dataset, pin, pad, threading.Lock()
        self._memory: dict[str, Tensor] = {}
        self._views: dict[str, Tensor] = {}
        self.indices: Sequence[int] = ()
        self.label = torch.empty(0, dtype=torch.int64)
        self.seconds = 0.0
        self.work: list[Future] = []
        self.finishing: Future | None = None

    def start(self, indices: Sequence[int], labels: Tensor) -> None:
        """Make room for other images."""
        self.indices, self._views = indices, {}
        label = functional.pad(labels[list(indices)], (0, max(0, self._pad - len(indices))))
        self.label = label.pin_memory() if self._pin else label

    def fill(self, row: int) -> None:
        """Decode one image; callable from several threads.

        Raises:
            DataError: if it cannot be read, or is not of the size of the others.
        """
        self._put(row, self._dataset[self.indices[row]])

    def finish(self) -> None:
        """Do what is left when all rows are filled."""

    def _put(self, row: int, sample: Sample) -> None:
        for view, pixels in (("image", sample.image), ("wide", sample.wide)):
            if pixels is not None:
                # NumPy copies in this thread alone and without the interpreter's lock; torch would start helpers.
                np.copyto(self._place(view, pixels.shape, sample.image_id)[row].numpy(), pixels.numpy())

    def view(self, name: str) -> Tensor | None:
        """Return the view ``"image"`` or ``"wide"``, uint8 [n, 3, H, W]; None if the data set does not deliver it."""
        return self._views.get(name)

    def _place(self, name: str, shape: torch.Size, image_id: str) -> Tensor:
        """Return the memory of a view's rows, each of ``shape``."""
        with self._lock:
            if name not in self._views:
                self._views[name] = self._room(name, (max(len(self.indices), self._pad), *shape))
            view = self._views[name]
        if view.shape[1:] != shape:
            sizes = [list(one[-2:]) for one in (shape, view.shape)]
            raise DataError(f"{image_id} is {sizes[0]} and others are {sizes[1]}: set resize or crop to batch them")
        return view

    def _room(self, name: str, shape: tuple[int, ...]) -> Tensor:
        size = prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = self._allocate(size)
        return self._memory[name][:size].view(shape)

    def _allocate(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._pin)


class DeviceSlot(Slot):
    """One batch in a device's memory: files are read by threads, then decoded and cut there, all together.

    Args:
        dataset: gives the files, and samples where a file is not for the decoder.
        pin: page-locked memory for labels.
        pad: rows that there are at least; those without an image hold anything.
        decoder: of the device.
    """

    def __init__(self, dataset: Dataset, pin: bool, pad: int, decoder: DeviceDecoder):
        super().__init__(dataset, pin, pad)
        self._decoder = decoder
        self._files: dict[int, PlainJpeg] = {}
        self._samples: dict[int, Sample] = {}

    def start(self, indices: Sequence[int], labels: Tensor) -> None:
        super().start(indices, labels)
        self._files, self._samples = {}, {}

    def fill(self, row: int) -> None:
        """Read one file, and decode it if it is not for the decoder; callable from several threads."""
        file = self._dataset.plain_jpeg(self.indices[row])
        if file is None:
            self._samples[row] = self._dataset[self.indices[row]]
        else:
            self._files[row] = file

    def finish(self) -> None:
        """Decode the files; the memory is written when this returns.

        Raises:
            DataError: if an image cannot be read, or not all are of one size.
        """
        rows = sorted(self._files)
        with self._decoder.working():
            found = self._decoder.decode([self._files[row] for row in rows])
            for row in (row for row, pixels in zip(rows, found, strict=True) if pixels is None):
                self._samples[row] = self._dataset[self.indices[row]]
            for some, images in _of_one_size(rows, found):
                for view, pixels in self._dataset.show(images).items():
                    place = self._place(view, pixels.shape[1:], self._dataset.image_ids[self.indices[some[0]]])
                    place.index_copy_(0, torch.tensor(some, device=place.device), pixels)
            for row, sample in self._samples.items():
                self._put(row, sample)

    def _put(self, row: int, sample: Sample) -> None:
        for view, pixels in (("image", sample.image), ("wide", sample.wide)):
            if pixels is not None:
                self._place(view, pixels.shape, sample.image_id)[row].copy_(pixels)

    def _allocate(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self._decoder.device)


def _of_one_size(rows: Sequence[int], images: Sequence[Tensor | None]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield rows and their images [n, 3, H, W], as many of one size as may be resized at once."""
    sizes: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
    for row, pixels in zip(rows, images, strict=True):
        if pixels is not None:
            sizes[pixels.shape].append((row, pixels))
    for size, found in sizes.items():
        many = max(1, _PIXELS_AT_ONCE // (size[1] * size[2]))
        for start in range(0, len(found), many):
            some = found[start : start + many]
            yield [row for row, _ in some], torch.stack([pixels for _, pixels in some])


class DecodedBatches:
    """Batches in their order; iterating waits for the next one, :meth:`release` gives its memory back.

    Args:
        dataset: gives the samples; its labels are taken as they stand.
        batches: the images of each batch.
        threads: that decode; 0 decodes in the caller's, when a batch is asked for.
        in_use: batches that are not released when the next one is asked for, at most.
        pin: page-locked memory, from which a GPU copies by itself.
        pad: rows that every batch has at least.
        decoder: of a device, which gets the files that it reads; None leaves all to the threads.
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
        decoder: DeviceDecoder | None = None,
    ):
        self.dataset, self.threads = dataset, threads
        self._coming = deque(batches)
        self._decoder = decoder
        make = partial(Slot, dataset, pin, pad) if decoder is None else partial(DeviceSlot, dataset, pin, pad, decoder)
        self._free = [make() for _ in range(in_use + (_AHEAD if threads else 0))]
        self._started: deque[Slot] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._finisher: ThreadPoolExecutor | None = None

    @contextmanager
    def running(self) -> Iterator["DecodedBatches"]:
        """Let threads decode while entered; batches that nobody asked for are dropped at the end."""
        self._pool = _single_threaded(self.threads) if self.threads else None
        # One for all batches: the device decodes them one after the other.
        self._finisher = ThreadPoolExecutor(1, "decode") if self.threads and self._decoder is not None else None
        try:
            self._start()
            yield self
        finally:
            for pool in (self._pool, self._finisher):
                if pool is not None:
                    pool.shutdown(cancel_futures=True)

    def next(self) -> Slot | None:
        """Return the next batch, None after the last.

        Raises:
            DataError: an image cannot be read.
        """
        if not self._started:
            return None
        slot = self._started.popleft()
        if self._pool is None:
            slot.seconds = self._decode(slot, range(len(slot.indices))) + self._finish(slot)
        else:
            slot.seconds = sum(piece.result() for piece in slot.work) / self.threads
        if slot.finishing is not None:
            # Beside the threads, which are at the next batches.
            slot.seconds = max(slot.seconds, slot.finishing.result())
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
            if self._finisher is not None:
                slot.finishing = self._finisher.submit(self._finish, slot)
            self._started.append(slot)

    def _decode(self, slot: Slot, rows: Sequence[int]) -> float:
        started = time.perf_counter()
        for row in rows:
            slot.fill(row)
        return time.perf_counter() - started

    def _finish(self, slot: Slot) -> float:
        for piece in slot.work:
            piece.result()
        started = time.perf_counter()
        slot.finish()
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
