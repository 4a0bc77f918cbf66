"""One split of an evaluation: its images, its score maps on disk, and the pass that leaves those that are missing."""

import dataclasses
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain

import torch

from wsolfast import data
from wsolfast.data.tensor_files import fingerprint
from wsolfast.engine.assembly.build import count_decoders, eval_view, open_eval_data
from wsolfast.engine.assembly.network import Network
from wsolfast.engine.assembly.predictor import Predictor
from wsolfast.engine.assembly.stage_refs import localizer_of
from wsolfast.engine.evaluation.measure import GroundTruth, SplitMetrics, turns
from wsolfast.engine.evaluation.pipeline import stream
from wsolfast.engine.evaluation.score_maps import MapBatch, ScoreMaps
from wsolfast.engine.evaluation.stopwatch import FIELDS, Stopwatch
from wsolfast.engine.run.distributed import from_all, from_first, on_first, rank, sum_over_all, world_size
from wsolfast.engine.run.errors import Interrupted, RunError, UsageError
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.signals import StopRequest
from wsolfast.recipe import Recipe, RecipeError


@dataclasses.dataclass(frozen=True)
class EvalShard:
    """Every ``count``-th batch, from the ``number``-th on, counted from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "EvalShard":
        """The shard that ``text``, for instance ``"2/4"``, names.

        Raises:
            UsageError: if it is none.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--shard: expected I/N with 1 <= I <= N, for instance 1/4, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = EvalShard()


class EvalSplit:
    """A split as a run's evaluation sees it.

    Args:
        run: where the results go.
        recipe: says how images are seen.
        split: its name.
        limit: take so many images only, evenly spread.

    Raises:
        DataError: if the data set has no such split.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, split: str, limit: int | None):
        self.run, self.recipe = run, recipe
        self.dataset = open_eval_data(recipe, split)
        count = len(self.dataset) if limit is None else max(1, min(limit, len(self.dataset)))
        self.indices = [i * len(self.dataset) // count for i in range(count)]
        name = eval_name(run, recipe, split)
        self.folder = run.eval_path(name if limit is None else f"{name}-limit-{limit}")
        self.ground_truth = GroundTruth(self.dataset, self.indices)
        self.maps = ScoreMaps(self.folder / "maps")
        # Of positions in indices: all, and those whose score maps are there.
        self.batches: list[range] = []
        self.done: list[range] = []

    @classmethod
    def open_if_there(cls, run: RunFolder, recipe: Recipe, split: str, limit: int | None) -> "EvalSplit | None":
        """The split, None if the data set has none or nothing to measure by in it."""
        try:
            found = cls(run, recipe, split, limit)
        except data.DataError:
            return None
        annotated = found.dataset.has_masks or any(len(found.dataset.annotations(i).boxes) for i in found.indices)
        return found if annotated else None

    def plan(self, network: Network) -> None:
        """Find out which score maps are there: those of the same weights, images and settings."""
        self.maps = ScoreMaps(
            self.folder / "maps", self._identity(network), [self.dataset.image_ids[i] for i in self.indices]
        )
        self.batches, self.done = from_first(self.maps.batches(self.recipe.evaluate.batch_size))

    def missing(self, shard: EvalShard = WHOLE) -> list[range]:
        """The batches of a shard that are not there."""
        done = set(self.done)
        return [part for part in self.batches[shard.number - 1 :: shard.count] if part not in done]

    def evaluate(self, network: Network, metrics: SplitMetrics, progress: Progress) -> dict[str, float]:
        """Count score maps of every image: those that are there, and the network's of all others.

        Returns:
            Seconds by :data:`wsolfast.engine.evaluation.stopwatch.FIELDS` that the maps took, now or then.

        Raises:
            Interrupted: a signal asked for a stop.
        """
        on_first(lambda: self.maps.remove_all_but(self.done))
        self._log(progress)
        seconds = torch.zeros(len(FIELDS), dtype=torch.float64)
        for batch in self._interruptible(self._kept(metrics), self._computed(WHOLE, network, metrics, progress)):
            seconds += torch.tensor([batch.seconds[name] for name in FIELDS], dtype=torch.float64)
        self.done = self.batches
        metrics.all_reduce()
        return dict(zip(FIELDS, sum_over_all(seconds).tolist(), strict=True))

    def compute_shard(self, shard: EvalShard, network: Network, progress: Progress) -> None:
        """Leave the score maps of a shard, for whoever counts them all.

        Raises:
            Interrupted: a signal asked for a stop.
        """
        self._log(progress)
        for _ in self._interruptible(self._computed(shard, network, None, progress)):
            pass
        # Those of all processes are there, before anyone looks.
        from_all(None)
        self.plan(network)

    def _interruptible(self, *sources: Generator[MapBatch]) -> Iterator[MapBatch]:
        with ExitStack() as left:
            stop = left.enter_context(StopRequest())
            for source in sources:
                left.enter_context(closing(source))
            for batch in chain(*sources):
                yield batch
                self._stop_if_asked(stop)

    def reload(self, progress: Progress) -> Iterator[MapBatch | None]:
        """This process's share of the batches, None in turns in which others have one."""
        mine = turns(self.batches)
        with progress.task(f"{self.dataset.split}: images one by one", len(mine)) as advance, StopRequest() as stop:
            for part in mine:
                yield None if part is None else self._load(part)
                advance()
                self._stop_if_asked(stop)

    def _stop_if_asked(self, stop: StopRequest) -> None:
        if stop.requested:
            raise Interrupted(f"stopped; the same command goes on with the score maps in {self.maps.folder}")

    def _kept(self, metrics: SplitMetrics) -> Generator[MapBatch]:
        for part in self.done[rank() :: world_size()]:
            batch = self._load(part)
            metrics.update(batch)
            yield batch

    def _computed(
        self, shard: EvalShard, network: Network, metrics: SplitMetrics | None, progress: Progress
    ) -> Generator[MapBatch]:
        """Whole batches are dealt out, so that an image's neighbours, and last digits, are those of one process."""
        mine, stopwatch = self.missing(shard)[rank() :: world_size()], Stopwatch()
        if not mine:
            return
        threads = count_decoders(self.recipe.runtime.workers, network.device)
        predictor, images = network.predictor, sum(map(len, mine))
        stopwatch.take()
        found = compute_score_maps(predictor, self.dataset, self.indices, mine, threads=threads, stopwatch=stopwatch)
        done, spent = 0, 0.0
        with closing(found), progress.task(f"{self.dataset.split}: score maps", images) as advance:
            for batch in found:
                if metrics is not None:
                    with stopwatch.measure("boxes"):
                        metrics.update(batch)
                seconds = stopwatch.take()
                done, spent = done + len(batch.images), spent + seconds["all"]
                workers = world_size() * shard.count
                batch = dataclasses.replace(batch, seconds={name: seconds[name] / workers for name in FIELDS})
                with stopwatch.measure("write"):
                    self._save(batch)
                advance(len(batch.images), f"{done / spent:.1f} images/s")
                yield batch

    def _save(self, batch: MapBatch) -> None:
        try:
            self.maps.save(batch)
        except OSError as error:
            raise RunError(
                f"{self.maps.folder}: score maps cannot be written ({error.strerror}); the same command goes on with "
                "those that are there"
            ) from error

    def _load(self, part: range) -> MapBatch:
        batch = self.maps.load(part)
        if batch is None:
            raise RunError(
                f"{self.maps.folder}: images {part.start} to {part.stop} were changed meanwhile; start again"
            )
        return batch

    def _log(self, progress: Progress) -> None:
        split, skipped = self.dataset.split, self.dataset.skipped
        if skipped:
            progress.log(f"{split}: {len(skipped)} unreadable images are left out")
        for message in skipped:
            progress.log(f"skipped: {message}")
        for message in self.dataset.describe_cache():
            progress.log(f"cache: {message}")
        if not self.missing():
            progress.log(f"{split}: score maps are up to date ({self.maps.folder})")
        elif self.done:
            kept, wanted = sum(map(len, self.done)), len(self.indices)
            progress.log(f"{split}: score maps of {kept} of {wanted} images are there ({self.maps.folder})")

    def _identity(self, network: Network) -> str:
        if len(self.dataset.class_names) > network.known_classes:
            raise RecipeError(
                f"stage.num_classes: the model has fewer classes than split {self.dataset.split!r}, "
                f"which has {len(self.dataset.class_names)}"
            )
        spec, seen = self.recipe.evaluate, dataclasses.asdict(self.recipe.data) | {"root": None}
        # Every decoder gives the same pixels.
        del seen["decoder"]
        return fingerprint(
            *network.identity(),
            seen,
            spec.ten_crop,
            spec.center_crop,
            dataclasses.asdict(eval_view(self.recipe)),
            spec.topk,
        )


def eval_name(run: RunFolder, recipe: Recipe, split: str) -> str:
    """What the evaluation of ``split`` is called: the split, and the variant, or the localiser and ``post`` if not
    the run's own.
    """
    if recipe.evaluate.variant:
        return f"{split}-{recipe.evaluate.variant}"
    here, own = ((localizer_of(one).stage.name, one.evaluate.post) for one in (recipe, run.recipe))
    return "-".join([split, *(value for value, usual in zip(here, own, strict=True) if value != usual)])


def compute_score_maps(
    predictor: Predictor,
    dataset: data.Dataset,
    indices: Sequence[int],
    batches: Sequence[range],
    *,
    threads: int = 0,
    stopwatch: Stopwatch | None = None,
) -> Generator[MapBatch]:
    """What the networks say of each batch, every image decoded once.

    Args:
        predictor: the networks.
        dataset: has the images.
        indices: of the images, as they were asked for.
        batches: positions in ``indices``.
        threads: that decode; 0 decodes in this one.
        stopwatch: notes where the time goes.
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
