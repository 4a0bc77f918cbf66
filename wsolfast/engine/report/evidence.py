"""Evidence behind a localization map: other maps of the trained method, and the labels that it would be taught."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsolfast import data
from wsolfast.engine.assembly.build import choose_device, open_eval_data, open_export_data
from wsolfast.engine.assembly.network import load_localizer, load_method
from wsolfast.engine.assembly.stage_refs import StageRef, localizer_of
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.recipe import Recipe
from wsolfast.types import Batch

_IGNORED = 255


def collect_evidence(
    run: RunFolder, recipe: Recipe, split: str, image_ids: Sequence[str]
) -> dict[str, list[np.ndarray]]:
    """Collect maps in [0, 1] of each image by name: :meth:`wsolfast.methods.Method.evidence` of the localiser.

    Where it was trained on what an earlier stage left, there is also the mask, or the inside of the box, that this
    stage would leave of the image: 1 object, 0 background, 0.5 ignored.

    Args:
        run: a trained run.
        recipe: as it is measured, the run's own or one with changes.
        split: of the images.
        image_ids: of the images.

    Raises:
        MissingError: if the run is not finished.
        DataError: if the data set is not there, or has another image of that name no more.
    """
    names = run.shown_class_names()
    device, localizer = choose_device(recipe.runtime.device), localizer_of(recipe)
    method = load_localizer(run, recipe, len(names)).eval().to(device)
    with torch.inference_mode():
        seen = _batch(open_eval_data(recipe, split, names), image_ids).to(device)
        found = method.evidence(seen.image, seen.label)
        for field, source in localizer.stage.uses.items():
            stage = next(one for one in recipe.stage if one.name == source)
            earlier = load_method(run, StageRef(recipe, stage), len(names)).eval().to(device)
            whole = _batch(open_export_data(recipe, stage, split, names), image_ids).to(device)
            height, width = whole.image.shape[2:]
            exported = earlier.export(whole)[field].cpu()
            if field == "pseudo_box":
                make_box = method.box_maker()
                masks = [_filled(make_box(one, (width, height)), height, width) for one in exported]
            else:
                make_mask = method.mask_maker()
                masks = [_shares(make_mask(one, (height, width))) for one in exported]
            found[f"label by {source}"] = torch.stack(masks)
    return {name: [one.float().cpu().numpy() for one in maps] for name, maps in found.items()}


def _batch(dataset: data.Dataset, image_ids: Sequence[str]) -> Batch:
    position = {image_id: i for i, image_id in enumerate(dataset.image_ids)}
    missing = next((image_id for image_id in image_ids if image_id not in position), None)
    if missing is not None:
        raise data.DataError(f"the data set no longer holds {missing!r}")
    return data.collate([dataset[position[image_id]] for image_id in image_ids])


def _filled(box: Tensor, height: int, width: int) -> Tensor:
    """Return a map that is 1 at pixels whose centre a box [4] holds, for people to look at."""
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    x0, y0, x1, y1 = box.tolist()
    return (((y0 <= y) & (y < y1))[:, None] & ((x0 <= x) & (x < x1))).float()


def _shares(mask: Tensor) -> Tensor:
    return mask.float() if mask.is_floating_point() else torch.where(mask == _IGNORED, 0.5, mask.float())
