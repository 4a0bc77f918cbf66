"""The pass of an evaluation over its images: it computes the score maps that are missing, and counts them all."""

import dataclasses
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from typing import TypeVar

import torch

from wsolfast import data
from wsolfast.engine.assembly.build import count_decoders
from wsolfast.engine.assembly.network import Network
from wsolfast.engine.assembly.predictor import Predictor
from wsolfast.engine.evaluation.eval_split import WHOLE, EvalShard, EvalSplit
from wsolfast.engine.evaluation.measure import SplitMetrics
from wsolfast.engine.evaluation.per_image import turns
from wsolfast.engine.evaluation.pipeline import stream
from wsolfast.engine.evaluation.score_maps import MapBatch
from wsolfast.engine.evaluation.stopwatch import FIELDS, Stopwatch
from wsolfast.engine.run.distributed import from_all, on_first, rank, sum_over_all, world_size
from wsolfast.engine.run.errors import Interrupted
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.signals import StopRequest

Item = TypeVar("Item", MapBatch, MapBatch | None)


class EvalPass:
    """Passes over a split, each shared by all processes and stopped by a signal after the running batch.

    Args:
        split: planned for ``network``.
        network: gives the score maps that are missing.
        progress: where to show how far it is.
    """

    def __init__(self, split: EvalSplit, network: Network, progress: Progress):
        self.split, self.network, self.progress = split, network, progress

    def count(self, metrics: SplitMetrics) -> dict[str, float]:
        """Add the score maps of all images to ``metrics``: those on disk, and the network's of all others.

        Returns:
            Seconds by :data:`wsolfast.engine.evaluation.stopwatch.FIELDS` that the maps took, now or then.

        Raises:
            Interrupted: a signal asked for a stop.
        """
        on_first(lambda: self.split.maps.remove_all_but(self.split.done))
        self._log()
        seconds = torch.zeros(len(FIELDS), dtype=torch.float64)
        for batch in self._interruptible(self._kept(metrics), self._computed(WHOLE, metrics)):
            seconds += torch.tensor([batch.seconds[name] for name in FIELDS], dtype=torch.float64)
        self.split.done = self.split.batches
        metrics.all_reduce()
        return dict(zip(FIELDS, sum_over_all(seconds).tolist(), strict=True))

    def compute_shard(self, shard: EvalShard) -> None:
        """Leave the score maps of a shard, for whoever counts them all.

        Raises:
            Interrupted: a signal asked for a stop.
        """
        self._log()
        for _ in self._interruptible(self._computed(shard, None)):
            pass
        # Those of all processes are there, before anyone looks.
        from_all(None)
        self.split.plan(self.network)

    def reload(self) -> Generator[MapBatch | None]:
        """Read all batches again.

        Yields:
            This process's batches, None in turns in which others have one.

        Raises:
            Interrupted: a signal asked for a stop.
        """
        mine = turns(self.split.batches)
        with self.progress.task(f"{self.split.dataset.split}: images one by one", len(mine)) as advance:
            for batch in self._interruptible(None if part is None else self.split.load(part) for part in mine):
                yield batch
                advance()

    def _interruptible(self, *sources: Generator[Item]) -> Generator[Item]:
        """What the sources yield, one after the other, until a signal asks for a stop."""
        with ExitStack() as left:
            stop = left.enter_context(StopRequest())
            for source in sources:
                left.enter_context(closing(source))
            for batch in chain(*sources):
                yield batch
                if stop.requested:
                    folder = self.split.maps.folder
                    raise Interrupted(f"stopped; the same command goes on with the score maps in {folder}")

    def _kept(self, metrics: SplitMetrics) -> Generator[MapBatch]:
        for part in self.split.done[rank() :: world_size()]:
            batch = self.split.load(part)
            metrics.update(batch)
            yield batch

    def _computed(self, shard: EvalShard, metrics: SplitMetrics | None) -> Generator[MapBatch]:
        """Whole batches are dealt out, so that an image's neighbours, and last digits, are those of one process."""
        split, stopwatch = self.split, Stopwatch()
        mine = split.missing(shard)[rank() :: world_size()]
        if not mine:
            return
        threads = count_decoders(split.recipe.runtime.workers, self.network.device)
        predictor, images = self.network.predictor, sum(map(len, mine))
        stopwatch.take()
        found = compute_score_maps(predictor, split.dataset, split.indices, mine, threads=threads, stopwatch=stopwatch)
        done, spent = 0, 0.0
        with closing(found), self.progress.task(f"{split.dataset.split}: score maps", images) as advance:
            for batch in found:
                if metrics is not None:
                    with stopwatch.measure("boxes"):
                        metrics.update(batch)
                seconds = stopwatch.take()
                done, spent = done + len(batch.images), spent + seconds["all"]
                workers = world_size() * shard.count
                batch = dataclasses.replace(batch, seconds={name: seconds[name] / workers for name in FIELDS})
                with stopwatch.measure("write"):
                    split.save(batch)
                advance(len(batch.images), f"{done / spent:.1f} images/s")
                yield batch

    def _log(self) -> None:
        split, log = self.split, self.progress.log
        name, folder, skipped = split.dataset.split, split.maps.folder, split.dataset.skipped
        if skipped:
            log(f"{name}: {len(skipped)} unreadable images are left out")
        for message in skipped:
            log(f"skipped: {message}")
        for message in split.dataset.describe_cache():
            log(f"cache: {message}")
        if not split.missing():
            log(f"{name}: score maps are up to date ({folder})")
        elif split.done:
            kept = sum(map(len, split.done))
            log(f"{name}: score maps of {kept} of {len(split.indices)} images are there ({folder})")


def compute_score_maps(
    predictor: Predictor,
    dataset: data.Dataset,
    indices: Sequence[int],
    batches: Sequence[range],
    *,
    threads: int = 0,
    stopwatch: Stopwatch | None = None,
) -> Generator[MapBatch]:
    """Run the networks over batches of images, each image decoded once.

    Args:
        predictor: the networks.
        dataset: has the images.
        indices: of the images, as they were asked for.
        batches: positions in ``indices``.
        threads: that decode; 0 decodes in this one.
        stopwatch: notes where the time goes.

    Yields:
        One batch of score maps, classes and probabilities for each of ``batches``.
    """
    found = stream(
        dataset,
        [[indices[position] for position in batch] for batch in batches],
        predictor,
        device=predictor.device,
        backbones=predictor.backbones,
        threads=threads,
        pad=max(map(len, batches), default=0) if predictor.compiled else 0,
        stopwatch=stopwatch,
    )
    with closing(found):
        for batch, (maps, classes, scores) in zip(batches, found, strict=True):
            yield MapBatch(batch.start, maps, classes, scores)
