"""A run's worst, median and best images on one sheet, each with its map, its mask and its evidence."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsolfast.data import DataError
from wsolfast.engine.assembly.build import eval_protocol
from wsolfast.engine.report import pictures
from wsolfast.engine.report.evidence import collect_evidence
from wsolfast.engine.report.gallery import Shot, judged, take_shots, worst_first
from wsolfast.engine.report.training_charts import draw_training
from wsolfast.engine.run.errors import MissingError
from wsolfast.engine.run.outputs import Outputs
from wsolfast.engine.run.results import EvalResults, ImageRow
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.run_records import RunRecord, read_evaluations
from wsolfast.metrics.functional import predicted_masks
from wsolfast.recipe import Recipe, as_measured, parse_recipe


def write_sheets(runs: Sequence[Path], folder: Path, *, each: int = 4) -> tuple[list[Path], list[str]]:
    """Draw the training curves of every run, and a contact sheet of each of its evaluations.

    The files are ``<run>-training.png`` and ``<run>-<evaluation>.png``, where ``<run>`` is the name of its folder.
    Where two would have one name, or another program's file has it, it is ``<run>-<evaluation>-2.png``.

    Args:
        runs: run folders.
        folder: where the pictures go.
        each: so many images of each of worst, median and best.

    Returns:
        The files, and sentences about what the run folders do not hold.

    Raises:
        MissingError: if a folder holds no run, or one of its files is damaged.
    """
    outputs, drawn = Outputs(folder), dict[Path, Image.Image]()

    def place(name: str) -> Path:
        return outputs.free(folder / f"{name}.png", drawn)

    notes: list[str] = []
    for path in map(Path, runs):
        records = read_evaluations(path)
        curves = draw_training(records[0])
        if curves is None:
            notes.append(f"{path.name} has no training log, so it has no training curve.")
        else:
            drawn[place(f"{path.name}-training")] = curves
        for record in records:
            if record.images:
                drawn[place(f"{path.name}-{record.evaluation.name}")] = draw_contact_sheet(record, each, notes)
            else:
                notes.append(f"{record.evaluation} holds no per-image table, so it has no contact sheet.")
    for file, picture in drawn.items():
        outputs.write(file, lambda stream, picture=picture: picture.save(stream, format="PNG"))
    return list(drawn), notes


def choose_ranks(rows: Iterable[ImageRow], each: int) -> dict[str, list[str]]:
    """Choose images by IoU, the worst first: ``image_id -> ["worst"]``, ``["median"]`` or ``["best"]``, none twice."""
    ranked = [row.image_id for row in worst_first(rows)]
    each = min(each, len(ranked) // 3) or min(each, 1)
    middle = (len(ranked) - each) // 2
    parts = {"worst": ranked[:each], "median": ranked[middle : middle + each], "best": ranked[len(ranked) - each :]}
    chosen: dict[str, list[str]] = {}
    for reason, image_ids in parts.items():
        for image_id in image_ids:
            chosen.setdefault(image_id, [reason])
    return chosen


def draw_contact_sheet(run: RunRecord, each: int, notes: list[str]) -> Image.Image:
    """Draw input, score map, mask and evidence of the images that :func:`choose_ranks` picks, a row each.

    Of a method that gives boxes the box stands in the place of map and mask.

    Args:
        run: with a per-image table.
        each: so many images of each of worst, median and best.
        notes: gets a sentence on what cannot be drawn.
    """
    chosen = choose_ranks(run.images.values(), each)
    shots = take_shots([run], chosen, notes)
    results = _results(run)
    threshold = results.cam_threshold
    evidence = _evidence(run, list(chosen), notes)
    cells, captions = [], []
    for i, shot in enumerate(shots):
        prediction = shot.predictions[0]
        maps = [shot.with_boxes(pictures.overlay(shot.photo, found[i])) for found in evidence.values()]
        cut = [] if threshold is None else [_masked(run, shot, threshold)]
        cells.append([shot.drawn(), shot.drawn(prediction), *cut, *maps])
        said = judged(prediction.row)
        if prediction.row.predicted != prediction.row.label:
            said = f"IoU {prediction.row.iou:.2f} · seen as {prediction.predicted}"
        above = [] if threshold is None else [f"above {threshold:.3g}"]
        captions.append([f"{shot.reasons[0]}: {shot.class_name}", said, *above, *[""] * len(maps)])
    legend = [(pictures.PREDICTED, "predicted box"), (pictures.TRUE, "true box")] if shots[0].true_boxes else []
    title = f"{run.label}: worst, median and best of {len(run.images)} {results.split} images by IoU"
    shown = ["Box"] if threshold is None else ["Score map", "Mask"]
    columns = ["Input", *shown, *(name[0].upper() + name[1:] for name in evidence)]
    return pictures.contact_sheet(cells, columns, captions, title=title, legend=legend, cell=224)


def _results(run: RunRecord) -> EvalResults:
    assert run.results is not None  # a run with a table has been evaluated
    return run.results


def _recipe(run: RunRecord) -> Recipe:
    """Return the recipe that the evaluation followed."""
    results = _results(run)
    recipe = parse_recipe(run.recipe_text, run.path.name, [f"evaluate.post={results.post}"])
    return as_measured(replace(recipe, evaluate=replace(recipe.evaluate, variant=results.variant)))


def _evidence(run: RunRecord, image_ids: list[str], notes: list[str]) -> dict[str, list[np.ndarray]]:
    try:
        return collect_evidence(RunFolder(run.path), _recipe(run), _results(run).split, image_ids)
    except (DataError, MissingError) as error:
        notes.append(f"{run.label}: what its maps were made of is not shown: {error}")
        return {}


def _masked(run: RunRecord, shot: Shot, threshold: float) -> Image.Image:
    """Draw the photograph where the map is above the threshold, and both boxes."""
    prediction = shot.predictions[0]
    if prediction.score_map is None:
        return shot.photo
    protocol, size = eval_protocol(_recipe(run)), torch.tensor([shot.frame])
    mask = predicted_masks(torch.from_numpy(prediction.score_map)[None], size, protocol, threshold)[0]
    return shot.with_boxes(pictures.spotlight(shot.photo, mask.numpy()), prediction)
