"""A split of an evaluation: the images that are measured, and which of their score maps are on disk."""

import dataclasses
import re
from pathlib import Path

from wsolfast import data
from wsolfast.data.tensor_files import fingerprint
from wsolfast.engine.assembly.build import eval_view, open_eval_data
from wsolfast.engine.assembly.network import Network
from wsolfast.engine.assembly.stage_refs import localizer_of
from wsolfast.engine.evaluation.measure import GroundTruth
from wsolfast.engine.evaluation.score_maps import MapBatch, ScoreMaps
from wsolfast.engine.run.distributed import from_first
from wsolfast.engine.run.errors import RunError, UsageError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.recipe import Recipe, RecipeError


@dataclasses.dataclass(frozen=True)
class EvalShard:
    """Every ``count``-th batch, from the ``number``-th on, counted from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "EvalShard":
        """Read a shard from ``text``, for instance ``"2/4"``.

        Returns:
            The shard.

        Raises:
            UsageError: if it is not I/N with 1 <= I <= N.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--shard: expected I/N with 1 <= I <= N, for instance 1/4, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = EvalShard()


class EvalSplit:
    """Images of a split that are measured, and their score maps in a run's folder.

    Args:
        run: where the results go.
        recipe: says how images are seen.
        split: its name.
        limit: take so many images only, evenly spread.

    Raises:
        DataError: if the data set has no such split.

    Attributes:
        batches: positions in ``indices`` of each batch; empty before :meth:`plan`.
        done: those of them whose score maps are on disk.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, split: str, limit: int | None):
        self.run, self.recipe = run, recipe
        self.dataset = open_eval_data(recipe, split, run.class_names())
        count = len(self.dataset) if limit is None else max(1, min(limit, len(self.dataset)))
        self.indices = [i * len(self.dataset) // count for i in range(count)]
        name = eval_name(run, recipe, split)
        self.folder = run.eval_path(name if limit is None else f"{name}-limit-{limit}")
        self.ground_truth = GroundTruth(self.dataset, self.indices)
        self.maps = ScoreMaps(self.folder / "maps")
        self.batches: list[range] = []
        self.done: list[range] = []

    @classmethod
    def open_if_there(cls, run: RunFolder, recipe: Recipe, split: str, limit: int | None) -> "EvalSplit | None":
        """Open a split; None if the data set has none, or no annotation in it.

        Raises:
            DataError: if it is there and cannot be read.
        """
        try:
            found = cls(run, recipe, split, limit)
        except data.SplitMissingError:
            return None
        annotated = found.dataset.has_masks or any(len(found.dataset.annotations(i).boxes) for i in found.indices)
        return found if annotated else None

    def plan(self, network: Network) -> None:
        """Cut the images into batches, and find those whose score maps of the same weights and settings are on disk."""
        # A map is that of the image's class, so an image of another class is another one.
        images = [f"{self.dataset.image_ids[i]}\0{int(self.dataset.labels[i])}" for i in self.indices]
        self.maps = ScoreMaps(self.folder / "maps", self._identity(network), images)
        self.batches, self.done = from_first(self.maps.batches(self.recipe.evaluate.batch_size))

    def keep_apart(self, folder: Path, network: Network) -> None:
        """Take score maps below ``folder`` if an evaluation of this split rests on others: they stay as they are."""
        if from_first(bool(self.missing()) and (self.folder / "results.json").is_file()):
            self.folder = folder / self.dataset.split
            self.plan(network)

    def missing(self, shard: EvalShard = WHOLE) -> list[range]:
        """Return the batches of a shard that are not on disk."""
        done = set(self.done)
        return [part for part in self.batches[shard.number - 1 :: shard.count] if part not in done]

    def remove_results(self) -> None:
        """Delete what an earlier evaluation left besides its score maps, before these are replaced."""
        for name in ("results.json", "curves.json", "per_image.json"):
            (self.folder / name).unlink(missing_ok=True)

    def save(self, batch: MapBatch) -> None:
        """Write a batch of score maps.

        Raises:
            RunError: if it cannot be written.
        """
        self.run.keep()
        try:
            self.maps.save(batch)
        except OSError as error:
            raise RunError(
                f"{self.maps.folder}: score maps cannot be written ({error.strerror}); the same command goes on with "
                "those that are there"
            ) from error

    def load(self, part: range) -> MapBatch:
        """Read a batch of score maps that is on disk.

        Raises:
            RunError: if it is not, or not any more.
        """
        batch = self.maps.load(part)
        if batch is None:
            raise RunError(
                f"{self.maps.folder}: images {part.start} to {part.stop} were changed meanwhile; start again"
            )
        return batch

    def _identity(self, network: Network) -> str:
        if len(self.dataset.class_names) > network.known_classes:
            raise RecipeError(
                f"stage.num_classes: the model has fewer classes than split {self.dataset.split!r}, "
                f"which has {len(self.dataset.class_names)}"
            )
        spec, seen = self.recipe.evaluate, dataclasses.asdict(self.recipe.data) | {"root": None}
        if seen["decoder"] not in data.LOSSY:
            # All others give the same pixels.
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
    """Name the evaluation of ``split``: its variant behind it, or the localiser and ``post`` if not the run's own."""
    if recipe.evaluate.variant:
        return f"{split}-{recipe.evaluate.variant}"
    here, own = ((localizer_of(one).stage.name, one.evaluate.post) for one in (recipe, run.recipe))
    return "-".join([split, *(value for value, usual in zip(here, own, strict=True) if value != usual)])
