"""Batches on their way through a network: the next ones are decoded and copied while one is computed and counted."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import starmap
from typing import Any, cast

import torch
from torch import Tensor, nn

from wsolfast.data import DataError, Dataset, DeviceDecoder
from wsolfast.engine.evaluation.decoding import DecodedBatches, Slot
from wsolfast.engine.evaluation.stopwatch import Stopwatch

# Batches whose kernels a GPU has been given before the results of the oldest are waited for.
_IN_FLIGHT = 2

Step = Callable[[Tensor, Tensor | None, Tensor], tuple[Tensor, ...]]


def stream(
    dataset: Dataset,
    batches: Sequence[Sequence[int]],
    step: Step,
    *,
    device: torch.device,
    backbones: Sequence[nn.Module] = (),
    threads: int = 0,
    pad: int = 0,
    decoder: DeviceDecoder | None = None,
    stopwatch: Stopwatch | None = None,
) -> Generator[tuple[Tensor, ...]]:
    """Yield the results of ``step`` for each batch, on the CPU, in order.

    On a GPU the results of a batch are fetched while the next ones run, and nothing else waits for the device.

    Args:
        dataset: gives ``image`` and, perhaps, ``wide``.
        batches: the images of each batch.
        step: of (image, wide or None, label) on ``device``; its results have a row per image.
        backbones: their share of the time is counted as "network", the rest of ``step`` as "maps". Where none is
            called, because ``step`` replays a graph, all of it is "network".
        threads: that decode; 0 decodes in this one.
        pad: every batch is brought to so many rows, which ``step`` sees and nobody else.
        decoder: of ``device``, for the files that it reads; None decodes on the CPU.
        stopwatch: notes where the time goes.

    Raises:
        DataError: an image cannot be read; the batches before it have come out.
    """
    stopwatch, on_gpu = stopwatch or Stopwatch(), device.type == "cuda"
    in_flight = _IN_FLIGHT if on_gpu else 1
    decoded = DecodedBatches(dataset, batches, threads=threads, in_use=in_flight, pin=on_gpu, pad=pad, decoder=decoder)
    launched: deque[_Launched] = deque()
    with _Launcher(step, device, backbones).ready() as launch, decoded.running():

        def fetched() -> tuple[Tensor, ...]:
            batch = launched.popleft()
            results = batch.fetch(stopwatch)
            decoded.release(batch.slot)
            return results

        failure = None
        while True:
            try:
                with stopwatch.measure("wait"):
                    slot = decoded.next()
            except DataError as error:
                failure, slot = error, None
            if slot is None:
                break
            stopwatch.add("decode", slot.seconds)
            launched.append(launch(slot))
            if len(launched) == in_flight:
                yield fetched()
        while launched:
            yield fetched()
        if failure is not None:
            raise failure


@dataclass
class _Launched:
    """A batch that the device has, or is done with."""

    slot: Slot
    results: tuple[Tensor, ...]
    marks: dict[str, list]  # of every stage when it began and when it ended, once or several times
    done: torch.cuda.Event | None

    def fetch(self, stopwatch: Stopwatch) -> tuple[Tensor, ...]:
        if self.done is not None:
            self.done.synchronize()
        spent = {
            stage: sum(starmap(_between, zip(marks[::2], marks[1::2], strict=True)))
            for stage, marks in self.marks.items()
        }
        stopwatch.add("copy", spent["copy"])
        network = spent["network"] if self.marks["network"] else spent["step"]
        stopwatch.add("network", network)
        stopwatch.add("maps", spent["step"] - network)
        return tuple(result[: len(self.slot.indices)] for result in self.results)


class _Launcher:
    def __init__(self, step: Step, device: torch.device, backbones: Sequence[nn.Module]):
        self.step, self.device, self.backbones = step, device, backbones
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.network: list = []

    @contextmanager
    def ready(self) -> Iterator[Callable[[Slot], _Launched]]:
        hooks = [backbone.register_forward_pre_hook(self._note) for backbone in self.backbones]
        hooks += [backbone.register_forward_hook(self._note) for backbone in self.backbones]
        try:
            yield self._launch
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, *_: object) -> None:
        # A mark in a graph would tell no time.
        if self.copies is None or not torch.cuda.is_current_stream_capturing():
            self.network.append(self._mark())

    def _mark(self) -> Any:
        if self.copies is None:
            return time.perf_counter()
        return torch.cuda.current_stream(self.device).record_event(torch.cuda.Event(enable_timing=True))

    def _launch(self, slot: Slot) -> _Launched:
        self.network = []
        given, copying = self._copied(slot.view("image"), slot.view("wide"), slot.label)
        computing = [self._mark()]
        results = self.step(*cast("tuple[Tensor, Tensor | None, Tensor]", given))
        computing.append(self._mark())
        # Into page-locked memory, which torch takes for it, this returns at once.
        results = tuple(result.to("cpu", non_blocking=self.copies is not None) for result in results)
        done = None if self.copies is None else torch.cuda.current_stream(self.device).record_event()
        return _Launched(slot, results, {"copy": copying, "network": self.network, "step": computing}, done)

    def _copied(self, *tensors: Tensor | None) -> tuple[list[Tensor | None], list]:
        if self.copies is None:
            return [None if one is None else one.to(self.device) for one in tensors], []
        with torch.cuda.stream(self.copies):
            marks = [self._mark()]
            copied = [None if one is None else one.to(self.device, non_blocking=True) for one in tensors]
            marks.append(self._mark())
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.copies)
        for one in copied:
            if one is not None:
                # Or its memory could be given to the next copy while this batch is still computed with.
                one.record_stream(computing)
        return copied, marks


def _between(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000
