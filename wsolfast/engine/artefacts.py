"""What one stage leaves for a later one: tensors per training image, seen through the later stage's random views."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from wsolfast import data
from wsolfast.engine.build import count_workers, open_eval_data
from wsolfast.engine.errors import MissingError
from wsolfast.engine.run_folder import RunFolder, write_bytes
from wsolfast.methods import Method
from wsolfast.recipe import RecipeError, StageSpec
from wsolfast.types import Batch

FIELDS = ("pseudo_mask",)


def save(run: RunFolder, stage: StageSpec, method: Method, device: torch.device) -> None:
    """Export over the training images, each whole and once, if a later stage uses this one."""
    import safetensors.torch

    if not any(stage.name in later.uses.values() for later in run.recipe.stage):
        return
    dataset = open_eval_data(run.recipe, "train_weaksup")
    workers = count_workers(run.recipe.runtime.workers)
    parts: dict[str, list[Tensor]] = {}
    was_training = method.training
    method.eval()
    with torch.inference_mode():
        for batch in DataLoader(dataset, run.recipe.evaluate.batch_size, num_workers=workers, collate_fn=data.collate):
            for name, tensor in method.export(batch.to(device)).items():
                parts.setdefault(name, []).append(tensor.cpu())
    method.train(was_training)
    content = safetensors.torch.save({name: torch.cat(tensors) for name, tensors in parts.items()})
    write_bytes(_file(run, stage.name), lambda stream: stream.write(content))


def load(run: RunFolder, stage: StageSpec) -> dict[str, Tensor]:
    """What ``stage`` uses, by batch field: one tensor with a row per training image.

    Raises:
        RecipeError: if the earlier stage exports no such thing, or batches have no such field.
        MissingError: if the earlier stage's file is gone.
    """
    import safetensors.torch

    found = {}
    for field, source in stage.uses.items():
        where = f"stage.{stage.name}.uses.{field}"
        if field not in FIELDS:
            raise RecipeError(f"{where}: batches have no such field; there is: {', '.join(FIELDS)}")
        file = _file(run, source)
        if not file.is_file():
            raise MissingError(f"{file}: missing; stage {source!r} writes it when it ends")
        exported = safetensors.torch.load_file(file)
        if field not in exported:
            raise RecipeError(f"{where}: stage {source!r} exports {', '.join(exported) or 'nothing'}")
        found[field] = exported[field]
    return found


class Collate:
    """:func:`wsolfast.data.collate` plus what earlier stages left, cropped and mirrored as each image was."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    def __call__(self, samples: Sequence[data.Sample]) -> Batch:
        batch = data.collate(samples)
        views = {
            field: torch.stack([view_of(tensor[sample.index], sample.placement) for sample in samples])
            for field, tensor in self.tensors.items()
        }
        return replace(batch, **views)


def view_of(mask: Tensor, placement: data.Placement) -> Tensor:
    """A map [h, w] over a whole image as the map [h, w] over a view of it, bilinear."""
    x, y = (
        ((torch.arange(cells) + 0.5) / cells * size + offset) / (scale * whole)
        for cells, size, offset, scale, whole in zip(
            mask.shape[::-1], placement.view_size, placement.offset, placement.scale, placement.image_size, strict=True
        )
    )
    if placement.flip:
        x = x.flip(0)
    grid_y, grid_x = torch.meshgrid(y * 2 - 1, x * 2 - 1, indexing="ij")
    grid = torch.stack([grid_x, grid_y], dim=-1).to(mask)
    return functional.grid_sample(mask[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]


def _file(run: RunFolder, stage: str) -> Path:
    return run.stage_path(stage) / "artefacts.safetensors"
