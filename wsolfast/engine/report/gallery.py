"""The images that a report shows, with the map, box and class that each run predicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from wsolfast.data import DataError
from wsolfast.engine.assembly.build import open_eval_data
from wsolfast.engine.evaluation.score_maps import ScoreMaps
from wsolfast.engine.report import pictures
from wsolfast.engine.run.results import ImageRow
from wsolfast.engine.run.run_records import RunRecord
from wsolfast.recipe import RecipeError, parse_recipe

ERRORS = {
    "correct": ("Correct", "right class, and the box overlaps a true box by more than half"),
    "part": ("Part", "most of the box lies on the object, but it covers only a part of it"),
    "more": ("More", "the box covers the object and much besides"),
    "multi_instance": ("Multi-instance", "one box spans several objects; SPA's “M-Ins”"),
    "misclassified": ("Misclassified", "the predicted class is wrong, wherever the box is"),
    "other": ("Other", "the box misses in another way"),
}

_PHOTO_SIDE = 256
_MAP_SIDE = 64
_SHEET_ROWS = 6
_NO_PHOTO = (128, 128, 134)


@dataclass(frozen=True)
class Prediction:
    """Map, box and class that one run predicts for one shown image."""

    run: RunRecord
    row: ImageRow
    score_map: np.ndarray | None  # [h, w] in [0, 1]; None of a method that gives boxes, or if it was not kept
    predicted: str


@dataclass(frozen=True)
class Shot:
    """One shown image; boxes are half-open xyxy in its pixels."""

    image_id: str
    class_name: str
    frame: tuple[int, int]  # (w, h) of the original
    photo: Image.Image
    true_boxes: list[list[float]]
    predictions: list[Prediction]
    reasons: list[str]

    def map_picture(self, prediction: Prediction) -> Image.Image:
        """Draw the prediction's score map in colours, in the shape of the frame."""
        assert prediction.score_map is not None  # asked for predictions with one only
        return pictures.colorize(pictures.resize_map(prediction.score_map, _fit(self.frame, _MAP_SIDE)))

    def drawn(self, prediction: Prediction | None = None) -> Image.Image:
        """Draw the photo with its true boxes and, of a prediction, the score map and the predicted box."""
        score_map = None if prediction is None else prediction.score_map
        return self.with_boxes(self.photo if score_map is None else pictures.overlay(self.photo, score_map), prediction)

    def with_boxes(self, picture: Image.Image, prediction: Prediction | None = None) -> Image.Image:
        """Draw the true boxes, and the predicted one of a prediction, on ``picture``, which has the photo's size."""
        picture = pictures.draw_boxes(picture, self._in_photo(self.true_boxes), pictures.TRUE, dashed=True)
        if prediction is None or prediction.row.box is None:
            return picture
        return pictures.draw_boxes(picture, self._in_photo([prediction.row.box]), pictures.PREDICTED)

    def _in_photo(self, boxes: Sequence[Sequence[float]]) -> np.ndarray:
        scale = np.array(self.photo.size * 2) / np.array(self.frame * 2)
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale


def worst_first(rows: Iterable[ImageRow]) -> list[ImageRow]:
    """Sort per-image rows by IoU, the lowest first; of equal ones the most confident classification comes first."""
    return sorted(rows, key=lambda row: (row.iou, -row.score, row.index))


def choose_images(tables: Sequence[Mapping[str, ImageRow]], count: int) -> dict[str, list[str]]:
    """Choose the images of a report, with reasons: ``image_id -> reasons`` in data set order.

    A sixth each goes to the worst boxes of the last table, to its largest gains and to its largest losses against the
    first; the rest is a sample of the split, which is what the eye should judge by: one image drawn from each of
    equally long stretches, always the same.
    """
    last, first = tables[-1], tables[0]
    common = [key for key in last if all(key in table for table in tables)]
    reasons: dict[str, list[str]] = {}
    share = min(count, len(common)) // 6

    def mark(keys: Iterable[str], reason: str) -> None:
        for key in keys:
            reasons.setdefault(key, []).append(reason)

    mark([row.image_id for row in worst_first(last[key] for key in common)[:share]], "worst")
    if len(tables) > 1:
        change = {key: last[key].iou - first[key].iou for key in common}
        mark([key for key in sorted(common, key=lambda key: -change[key])[:share] if change[key] > 0], "gain")
        mark([key for key in sorted(common, key=lambda key: change[key])[:share] if change[key] < 0], "loss")
    room = max(0, min(count, len(common)) - len(reasons))
    rest = [key for key in common if key not in reasons]
    stretches = np.array_split(np.arange(len(rest)), room) if room else []
    draws = np.random.default_rng(0).random(room)
    mark([rest[one[int(draw * len(one))]] for one, draw in zip(stretches, draws, strict=True)], "sample")
    return {key: reasons[key] for key in common if key in reasons}


def collect_shots(runs: Sequence[RunRecord], count: int, notes: list[str]) -> list[Shot]:
    """Take the pictures of at most ``count`` images that all runs saw; ``notes`` gets a sentence on what is gone."""
    runs = [run for run in runs if run.images]
    if not runs:
        return []
    main = runs[-1]
    for run in runs:
        if not run.images.keys() & main.images.keys():
            notes.append(f"{run.label} was evaluated on other images than {main.label} and is left out of the gallery.")
    runs = [run for run in runs if run.images.keys() & main.images.keys()]
    return take_shots(runs, choose_images([run.images for run in runs], count), notes)


def take_shots(runs: Sequence[RunRecord], chosen: Mapping[str, list[str]], notes: list[str]) -> list[Shot]:
    """Take the pictures of ``chosen`` (``image_id -> reasons``), in that order; the last run gives the photographs."""
    main = runs[-1]
    rows = [main.images[key] for key in chosen]
    columns = [_predictions(run, [run.images[key] for key in chosen], notes) for run in runs]
    shots = []
    for i, (row, photo) in enumerate(zip(rows, _photos(main, rows, notes), strict=True)):
        frame = (row.size[0], row.size[1])
        size = _fit(frame, _PHOTO_SIDE)
        photo = Image.new("RGB", size, _NO_PHOTO) if photo is None else photo.resize(size, Image.Resampling.LANCZOS)
        predictions = [column[i] for column in columns]
        key = row.image_id
        shots.append(Shot(key, main.class_name(row.label), frame, photo, row.gt_boxes, predictions, chosen[key]))
    return shots


def worst_shots(shots: Sequence[Shot]) -> list[int]:
    """Return the positions of the worst boxes of the last run, the worst first."""
    position = {shot.image_id: i for i, shot in enumerate(shots)}
    marked = worst_first(shot.predictions[-1].row for shot in shots if "worst" in shot.reasons)
    return [position[row.image_id] for row in marked]


def draw_sheet(shots: Sequence[Shot], title: str) -> Image.Image:
    """Draw the sample as one picture: the input, then every run's score map with its box."""
    sample = [shot for shot in shots if "sample" in shot.reasons] or list(shots)
    rows = min(_SHEET_ROWS, len(sample))
    sample = [sample[i * len(sample) // rows] for i in range(rows)]
    columns = ["Input", *(prediction.run.label for prediction in (sample[0].predictions if sample else ()))]
    cells = [[shot.drawn(), *(shot.drawn(prediction) for prediction in shot.predictions)] for shot in sample]
    captions = [
        [
            shot.class_name,
            *(judged(prediction.row) for prediction in shot.predictions),
        ]
        for shot in sample
    ]
    boxed = any(shot.true_boxes for shot in sample)
    legend = [(pictures.PREDICTED, "predicted box"), (pictures.TRUE, "true box")] if boxed else []
    return pictures.contact_sheet(cells, columns, captions, title=title, legend=legend)


def judged(row: ImageRow) -> str:
    """Return the overlap in words, and the kind of error where boxes are measured."""
    return f"IoU {row.iou:.2f}" + (f" · {ERRORS[row.error][0].lower()}" if row.error else "")


def _fit(size: Sequence[float], side: int) -> tuple[int, int]:
    """Return (w, h) scaled so that the longer one is ``side``."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _predictions(run: RunRecord, rows: Sequence[ImageRow], notes: list[str]) -> list[Prediction]:
    maps = _maps(run, rows, notes)
    return [Prediction(run, row, one, run.class_name(row.predicted)) for row, one in zip(rows, maps, strict=True)]


def _maps(run: RunRecord, rows: Sequence[ImageRow], notes: list[str]) -> list[np.ndarray | None]:
    assert run.results is not None  # it has a table
    if run.results.gives_boxes:
        return [None] * len(rows)
    found = ScoreMaps(run.evaluation / "maps").rows([row.map for row in rows])
    if len(found) < len({row.map for row in rows}):
        notes.append(f"{run.label} kept no score maps of some images (maps/), so only their boxes are drawn.")
    return [found[row.map].numpy() if row.map in found else None for row in rows]


def _photos(run: RunRecord, rows: Sequence[ImageRow], notes: list[str]) -> list[Image.Image | None]:
    assert run.results is not None  # it has a table
    try:
        dataset = open_eval_data(parse_recipe(run.recipe_text, run.path.name), run.results.split)
        position = {image_id: i for i, image_id in enumerate(dataset.image_ids)}
        found = [position[row.image_id] for row in rows]
        return [Image.fromarray(dataset[i].image.permute(1, 2, 0).numpy()) for i in found]
    except KeyError as error:
        reason = f"the data set no longer holds {error.args[0]!r}"
    except (DataError, RecipeError) as error:
        reason = str(error)
    notes.append(f"The photographs could not be read, so score maps stand on grey: {reason}.")
    return [None] * len(rows)
