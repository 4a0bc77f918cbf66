"""Passes over score maps that are on disk, batch by batch; a signal stops them between two batches."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import chain
from typing import TypeVar

from wsolfast.engine.evaluation.per_image import turns
from wsolfast.engine.evaluation.score_maps import MapBatch
from wsolfast.engine.run.errors import Interrupted
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.signals import StopRequest

Item = TypeVar("Item", MapBatch, MapBatch | None)


class MapPass:
    """Passes over score maps on disk, those of a run or of another program.

    Args:
        load: reads the batch of a range of positions.
        kept: name and place of everything that need not be done again after an interruption.
        progress: where to show how far it is.
    """

    def __init__(self, load: Callable[[range], MapBatch], kept: str, progress: Progress):
        self.load, self.kept, self.progress = load, kept, progress

    def read(self, parts: Sequence[range]) -> Generator[MapBatch]:
        """Yield batches from disk; the next one is read while one is used."""
        with ThreadPoolExecutor(1, "read") as reader:
            ahead: Future[MapBatch] | None = None
            for part in parts:
                current, ahead = ahead, reader.submit(self.load, part)
                if current is not None:
                    yield current.result()
            if ahead is not None:
                yield ahead.result()

    def read_in_turns(self, parts: Sequence[range], what: str) -> Generator[MapBatch | None]:
        """Yield this process's batches, None in turns in which others have one.

        Args:
            parts: of all processes.
            what: a name of this pass.

        Raises:
            Interrupted: a signal asked for a stop.
        """
        mine = turns(parts)
        batches = self.read([part for part in mine if part is not None])
        with self.progress.task(what, len(mine)) as advance:
            for batch in self.interruptible(None if part is None else next(batches) for part in mine):
                yield batch
                advance()

    def interruptible(self, *sources: Generator[Item]) -> Generator[Item]:
        """Yield the batches of all sources.

        Raises:
            Interrupted: a signal asked for a stop, and the running batch has been used.
        """
        with ExitStack() as left:
            stop = left.enter_context(StopRequest())
            for source in sources:
                left.enter_context(closing(source))
            for batch in chain(*sources):
                yield batch
                if stop.requested:
                    raise Interrupted(f"stopped; the same command goes on with {self.kept}")
