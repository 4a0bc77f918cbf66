"""Maps and boxes that one stage leaves for a later one: per training image, cropped and mirrored as its views.

They lie beside the stage's weights in files of some thousand images, each written whole and with the digest of its
content, so that an interrupted export goes on where it stopped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsolfast import data
from wsolfast._nearest import nearest
from wsolfast.data import tensor_files
from wsolfast.engine.assembly.build import count_workers, open_export_data
from wsolfast.engine.run.distributed import from_all, from_first, rank, world_size
from wsolfast.engine.run.errors import Interrupted, MissingError
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder, write_bytes
from wsolfast.engine.run.signals import StopRequest
from wsolfast.engine.training.loading import load_batches
from wsolfast.methods import Method
from wsolfast.recipe import Recipe, RecipeError, StageSpec
from wsolfast.types import Batch

# Of the batch. A box is one of the whole image, xyxy in shares of it.
BOX = "pseudo_box"
FIELDS = ("pseudo_mask", BOX)
# Of one file, about; whole batches, so that an interrupted export sees the same batches again.
_IMAGES_PER_FILE = 4096

# Of what a stage exported of an image and a size; see Method.mask_maker and Method.box_maker.
Maker = Callable[[Tensor, tuple[int, int]], Tensor]


def save(
    run: RunFolder,
    stage: StageSpec,
    method: Method,
    device: torch.device,
    *,
    identity: str,
    stop: StopRequest,
    progress: Progress,
) -> None:
    """Export maps or boxes of all training images, each whole and once, if a later stage uses this one.

    Args:
        run: gets the files; its recipe says which stage uses which.
        stage: the one that has been trained.
        method: its method.
        device: where it lies.
        identity: names what the method's weights follow from; files of another identity are written again.
        stop: asks for a stop after the running file.
        progress: where to show how far it is.

    Raises:
        Interrupted: a signal asked for a stop.
    """
    if not any(stage.name in later.uses.values() for later in run.recipe.stage):
        return
    dataset = open_export_data(run.recipe, stage, class_names=run.class_names())
    identity = tensor_files.fingerprint(identity, list(dataset.image_ids))
    size, workers = run.recipe.evaluate.batch_size, count_workers(run.recipe.runtime.workers)
    batches = [range(start, min(start + size, len(dataset))) for start in range(0, len(dataset), size)]
    per_file = max(1, _IMAGES_PER_FILE // size)
    was_training = method.training
    method.eval()
    with torch.inference_mode(), progress.task(f"{stage.name}: export", len(dataset)) as advance:
        for number, start in enumerate(range(0, len(batches), per_file)):
            part = batches[start : start + per_file]
            file = _folder(run, stage.name) / f"{number:05d}.safetensors"
            if from_first(tensor_files.read(file, identity) is None):
                mine = part[rank() :: world_size()]
                loader = load_batches(dataset, mine, data.collate, workers=workers, pin_memory=device.type == "cuda")
                exported = _in_order(from_all([_export(method, batch.to(device)) for batch in loader]))
                content = tensor_files.pack(exported, identity)
                write_bytes(file, lambda stream, content=content: stream.write(content))
            advance(sum(map(len, part)))
            if any(from_all(stop.requested)):
                raise Interrupted(f"stopped in the export of {stage.name}; wsolfast train --resume {run.path}")
    method.train(was_training)


def check_uses(recipe: Recipe) -> None:
    """Look whether batches have the fields that stages read from earlier ones.

    Raises:
        RecipeError: that names the first one that they have not.
    """
    for stage in recipe.stage:
        for field in stage.uses:
            if field not in FIELDS:
                where = f"stage.{stage.name}.uses.{field}"
                raise RecipeError(f"{where}: batches have no such field; {nearest(field, FIELDS)}")


def load(run: RunFolder, stage: StageSpec) -> dict[str, Tensor]:
    """Read what ``stage`` uses of earlier stages, by batch field: one tensor with a row per training image.

    Raises:
        RecipeError: if the earlier stage exports no such thing, or batches have no such field.
        MissingError: if one of the earlier stage's files is gone or damaged.
    """
    found = {}
    for field, source in stage.uses.items():
        where = f"stage.{stage.name}.uses.{field}"
        parts = []
        files = sorted(_folder(run, source).glob("*.safetensors"))
        again = f"delete {run.weights_path(source)} and resume: stage {source!r} then writes it again"
        if not files:
            raise MissingError(f"{_folder(run, source)}: holds no exported maps or boxes; {again}")
        for file in files:
            exported = tensor_files.read(file)
            if exported is None:
                raise MissingError(f"{file}: damaged; {again}")
            if field not in exported:
                raise RecipeError(f"{where}: stage {source!r} exports {', '.join(exported) or 'nothing'}")
            parts.append(exported[field])
        found[field] = torch.cat(parts)
    return found


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes that an earlier stage left, for :meth:`wsolfast.data.Dataset.aim_at`."""

    exported: Tensor  # [n, 4] xyxy, shares of each image of the data set
    make_box: Maker  # the method's :meth:`wsolfast.methods.Method.box_maker`

    def __call__(self, index: int, size: tuple[int, int]) -> Tensor:
        """Return the box [4] of an image of (width, height), in its pixels."""
        return self.make_box(self.exported[index], size)


class Collate:
    """:func:`wsolfast.data.collate` that adds maps that earlier stages left, cropped and mirrored as each image was.

    Args:
        exported: by batch field, one row per image of the data set; boxes are left to :class:`ImageBoxes`.
        make_mask: the method's :meth:`wsolfast.methods.Method.mask_maker`.
    """

    def __init__(self, exported: dict[str, Tensor], make_mask: Maker):
        self.exported = {field: rows for field, rows in exported.items() if field != BOX}
        self.make_mask = make_mask

    def __call__(self, samples: Sequence[data.Sample]) -> Batch:
        batch = data.collate(samples)
        views: dict[str, Any] = {
            field: torch.stack(list(self._views(rows, samples))) for field, rows in self.exported.items()
        }
        return replace(batch, **views)

    def _views(self, rows: Tensor, samples: Sequence[data.Sample]) -> Iterator[Tensor]:
        for sample in samples:
            width, height = sample.placement.resized_size
            yield sample.placement.cut(self.make_mask(rows[sample.index], (height, width)))


def prepare(exported: dict[str, Tensor], dataset: data.Dataset, method: Method) -> Collate:
    """Aim ``dataset`` at the boxes that earlier stages left, if there are any; return what adds their maps to batches.

    Args:
        exported: of :func:`load`.
        dataset: of the stage's training.
        method: of the stage.
    """
    if BOX in exported:
        dataset.aim_at(ImageBoxes(exported[BOX], method.box_maker()))
    return Collate(exported, method.mask_maker())


def _export(method: Method, batch: Batch) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in method.export(batch).items()}


def _in_order(shares: list[list[dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Join the exports of batches that were dealt out among processes, one each in turn."""
    batches = [exported for turn in zip_longest(*shares) for exported in turn if exported is not None]
    return {name: torch.cat([exported[name] for exported in batches]) for name in batches[0]}


def _folder(run: RunFolder, stage: str) -> Path:
    return run.stage_path(stage) / "artefacts"
