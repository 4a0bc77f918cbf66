"""The pass of an evaluation over its images: it computes maps, or boxes, that are missing, and counts them all."""

import dataclasses
from collections.abc import Generator, Sequence
from contextlib import closing

import torch
from torch import Tensor

from wsolfast import data
from wsolfast.engine.assembly.decoders import count_decoders, open_decoder
from wsolfast.engine.assembly.network import Network
from wsolfast.engine.assembly.predictor import Predictor
from wsolfast.engine.evaluation.eval_split import WHOLE, EvalShard, EvalSplit
from wsolfast.engine.evaluation.map_pass import MapPass
from wsolfast.engine.evaluation.measure import SplitMetrics
from wsolfast.engine.evaluation.pipeline import stream
from wsolfast.engine.evaluation.score_maps import MapBatch
from wsolfast.engine.evaluation.stopwatch import FIELDS, Stopwatch
from wsolfast.engine.run.distributed import from_all, on_first, rank, sum_over_all, world_size
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.words import count, left_out


class EvalPass(MapPass):
    """Passes over a split of a run's evaluation, each of them shared by all processes.

    Args:
        split: planned for ``network``.
        network: gives the score maps that are missing.
        progress: where to show how far it is.
    """

    def __init__(self, split: EvalSplit, network: Network, progress: Progress):
        super().__init__(split.load, f"the score maps in {split.maps.folder}", progress)
        self.split, self.network = split, network

    def count(self, metrics: SplitMetrics) -> dict[str, float]:
        """Add the score maps of all images to ``metrics``: those on disk, and the network's of all others.

        Returns:
            Seconds by :data:`wsolfast.engine.evaluation.stopwatch.FIELDS` that the maps took, now or then.

        Raises:
            Interrupted: a signal asked for a stop.
        """
        on_first(lambda: self._make_room(WHOLE))
        on_first(lambda: self.split.maps.remove_all_but(self.split.done))
        self._log()
        seconds = torch.zeros(len(FIELDS), dtype=torch.float64)
        for batch in self.interruptible(self._kept(metrics), self._computed(WHOLE, metrics)):
            seconds += torch.tensor([batch.seconds[name] for name in FIELDS], dtype=torch.float64)
        self.split.done = self.split.batches
        metrics.all_reduce()
        return dict(zip(FIELDS, sum_over_all(seconds).tolist(), strict=True))

    def reload(self) -> Generator[MapBatch | None]:
        """Read all score maps again, as :meth:`read_in_turns` does."""
        return self.read_in_turns(self.split.batches, f"{self.split.dataset.split}: images one by one")

    def compute_shard(self, shard: EvalShard) -> None:
        """Leave the score maps of a shard, for whoever counts them all.

        Raises:
            Interrupted: a signal asked for a stop.
        """
        on_first(lambda: self._make_room(shard))
        self._log()
        for _ in self.interruptible(self._computed(shard, None)):
            pass
        # Those of all processes are there, before anyone looks.
        from_all(None)
        self.split.plan(self.network)

    def _make_room(self, shard: EvalShard) -> None:
        # Results stand beside the score maps that they rest on, or not at all.
        if self.split.missing(shard):
            self.split.remove_results()

    def _kept(self, metrics: SplitMetrics) -> Generator[MapBatch]:
        for batch in self.read(self.split.done[rank() :: world_size()]):
            metrics.update(batch)
            yield batch

    def _computed(self, shard: EvalShard, metrics: SplitMetrics | None) -> Generator[MapBatch]:
        """Compute whole batches, so that an image's neighbours, and last digits, are those of a single process."""
        split, stopwatch = self.split, Stopwatch()
        mine = split.missing(shard)[rank() :: world_size()]
        if not mine:
            return
        threads = count_decoders(split.recipe.runtime.workers, self.network.device)
        decoder = open_decoder(split.recipe, self.network.device)
        predictor, images = self.network.predictor, sum(map(len, mine))
        stopwatch.take()
        found = compute_score_maps(
            predictor, split.dataset, split.indices, mine, threads=threads, decoder=decoder, stopwatch=stopwatch
        )
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
        if decoder is not None and decoder.left:
            self.progress.log(f"{split.dataset.split}: {count(decoder.left, 'JPEG file')} left to the CPU's decoder")

    def _log(self) -> None:
        split, log = self.split, self.progress.log
        name, folder, skipped = split.dataset.split, split.maps.folder, split.dataset.skipped
        if skipped:
            log(f"{name}: {left_out(len(skipped))}")
        for message in skipped:
            log(f"skipped: {message}")
        for message in split.dataset.describe_cache():
            log(f"cache: {message}")
        if not split.missing():
            log(f"{name}: score maps are up to date ({folder})")
        elif split.done:
            kept = sum(map(len, split.done))
            log(f"{name}: score maps of {kept} of {count(len(split.indices), 'image')} are there ({folder})")


def compute_score_maps(
    predictor: Predictor,
    dataset: data.Dataset,
    indices: Sequence[int],
    batches: Sequence[range],
    *,
    threads: int = 0,
    decoder: data.DeviceDecoder | None = None,
    stopwatch: Stopwatch | None = None,
) -> Generator[MapBatch]:
    """Run the networks over batches of images, each image decoded once.

    Args:
        predictor: the networks.
        dataset: has the images.
        indices: of the images, as they were asked for.
        batches: positions in ``indices``.
        threads: that decode; 0 decodes in this one.
        decoder: of the device, for the files that it reads; None decodes on the CPU.
        stopwatch: notes where the time goes.

    Yields:
        One batch of score maps or boxes, classes and probabilities for each of ``batches``.
    """

    def step(image: Tensor, wide: Tensor | None, label: Tensor) -> tuple[Tensor, ...]:
        height, width = image.shape[2:]
        return *predictor(image, wide, label), torch.tensor([[width, height]]).expand(len(image), 2)

    found = stream(
        dataset,
        [[indices[position] for position in batch] for batch in batches],
        step,
        device=predictor.device,
        backbones=predictor.backbones,
        threads=threads,
        decoder=decoder,
        pad=max(map(len, batches), default=0) if predictor.wants_one_size else 0,
        stopwatch=stopwatch,
    )
    with closing(found):
        for batch, (places, classes, scores, sizes) in zip(batches, found, strict=True):
            if predictor.method.gives_boxes:
                yield MapBatch(batch.start, classes=classes, scores=scores, boxes=places, shown_sizes=sizes)
            else:
                yield MapBatch(batch.start, places, classes, scores)
