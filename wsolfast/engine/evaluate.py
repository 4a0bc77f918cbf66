"""Evaluation: the network runs once over the images, then every metric is computed from the maps it left."""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from wsolfast import data
from wsolfast.engine.allocator import keep_freed_memory
from wsolfast.engine.build import (
    build_method,
    choose_device,
    count_workers,
    describe_device,
    eval_protocol,
    eval_view,
    open_eval_data,
    refine,
)
from wsolfast.engine.checkpoint import load_weights, seed_everything
from wsolfast.engine.distributed import from_all, is_first, rank, world_size
from wsolfast.engine.errors import MissingError
from wsolfast.engine.evaluate_masks import Masked, image_overlaps, measure_masks
from wsolfast.engine.progress import Progress
from wsolfast.engine.roles import Role, classifier_of, localizer_of
from wsolfast.engine.run_folder import RunFolder, describe_environment, now, write_json
from wsolfast.engine.score_maps import ScoreMaps, compute_score_maps, fingerprint
from wsolfast.methods import Method, method_of
from wsolfast.metrics import METRICS_VERSION, BoxAccuracy, ErrorSplit, center_box, center_gaussian
from wsolfast.metrics.box_accuracy import right_classes
from wsolfast.metrics.functional import error_kinds, predicted_boxes
from wsolfast.recipe import Recipe, RecipeError

_CHUNK = 128
# Side of the central Gaussian: fine enough for the boxes of all sizes.
_CENTRAL = 224
# ErrorSplit's kinds, in its order, in words.
_ERROR_NAMES = {
    "cls": "misclassified",
    "correct": "correct",
    "m_ins": "multi_instance",
    "part": "part",
    "more": "more",
    "ot": "other",
}


def evaluate(
    run: RunFolder,
    recipe: Recipe | None = None,
    *,
    limit: int | None = None,
    gaussian: bool = False,
    progress: Progress | None = None,
) -> dict:
    """Measure a run on ``recipe.evaluate.split`` and write ``eval/<split>/`` into its folder.

    Score maps that are there and depend on the same weights, images and settings are used again. Several processes (see
    :func:`wsolfast.engine.distributed.processes`) share the images; all of them return the same results.

    Args:
        recipe: the run's own with changes, for instance another protocol; the run's own if None.
            Results with another ``post`` go to ``eval/<split>-<post>/``, a variant's to ``eval/<split>-<variant>/``.
        limit: take so many images only, evenly spread; the results go to ``eval/<split>-limit-<N>/``.
        gaussian: measure the central Gaussian too, which takes as long as measuring the method's maps.

    Returns:
        What ``results.json`` holds.

    Raises:
        MissingError: if the run is not finished.
        RecipeError: if a setting cannot be meant, the protocol's name for instance.
    """
    recipe, progress = (
        (recipe or run.recipe).as_measured(),
        progress if progress and is_first() else Progress(quiet=True),
    )
    protocol = eval_protocol(recipe)
    keep_freed_memory()
    started, split = time.monotonic(), recipe.evaluate.split
    with run.lock():
        test = _Split.open(run, recipe, split, limit)
        run.keep_class_names(test.dataset.class_names)
        network = _Network(run, recipe, len(test.dataset.class_names))
        test.look(network, progress)
        fullsup = None
        if split != "train_fullsup":
            fullsup = _Split.open_if_there(run, recipe, "train_fullsup", limit)
            if fullsup is not None:
                fullsup.look(network, progress)
        measured = time.monotonic()
        results = _measure(test, fullsup, protocol, progress, gaussian=gaussian)
        results |= {
            "split": split,
            "recipe": recipe.name,
            "method": method_of(network.localizer.stage.method),
            "localizer": network.localizer.stage.name,
            "classifier": network.classifier_name,
            "post": recipe.evaluate.post,
            "variant": recipe.evaluate.variant,
            "protocol": protocol.name,
            "thresholds": _describe_thresholds(protocol.thresholds),
            "metrics_version": METRICS_VERSION,
            "limit": limit,
            "ten_crop": recipe.evaluate.ten_crop,
            "decoder": data.chosen_decoder(recipe.data.decoder or "auto"),
            "amp": recipe.runtime.amp,
            "device": describe_device(network.device),
            "images_per_second": round(len(test.indices) / test.found.seconds, 2),
            "seconds_metrics": round(time.monotonic() - measured, 2),
            "seconds": round(time.monotonic() - started, 2),
            "evaluated": now(),
            "environment": describe_environment(),
        }
        curves, per_image = results.pop("curves"), results.pop("per_image")
        write_json(test.folder / "curves.json", curves, indent=None)
        write_json(test.folder / "per_image.json", per_image, indent=None)
        write_json(test.folder / "results.json", results)
    return results


def load_method(run: RunFolder, role: Role, num_classes: int) -> Method:
    """A stage's method with the weights that it ended with, or as it starts if nothing is trained.

    Args:
        run: the run at hand; a role of another run has its own.

    Raises:
        MissingError: if training is not finished.
        RecipeError: if another run's classifier knows other classes.
    """
    recipe, stage, run = role.recipe, role.stage, role.run or run
    known = stage.num_classes or len(run.class_names())
    if role.run is not None and known != num_classes:
        raise RecipeError(f"evaluate.classifier: {run.path} knows {known} classes, the data set has {num_classes}")
    weights = run.weights_path(stage.name)
    if not weights.is_file() and stage.epochs > 0:
        raise MissingError(f"{weights}: missing, the run is not finished; wsolfast train --resume {run.path}")
    seed_everything(recipe.seed)
    method = build_method(recipe, stage, num_classes, pretrained=not weights.is_file())
    if weights.is_file():
        load_weights(weights, method)
    return method


def load_localizer(run: RunFolder, recipe: Recipe, num_classes: int) -> Method:
    """:func:`load_method` of the stage that localises, its maps refined where ``recipe.evaluate.post`` asks for it."""
    return refine(load_method(run, localizer_of(recipe), num_classes), recipe.evaluate)


def eval_name(run: RunFolder, recipe: Recipe, split: str) -> str:
    """What the evaluation of ``split`` is called: the split, and the variant, or the localiser and ``post`` if not
    the run's own.
    """
    if recipe.evaluate.variant:
        return f"{split}-{recipe.evaluate.variant}"
    here, own = ((localizer_of(one).stage.name, one.evaluate.post) for one in (recipe, run.recipe))
    return "-".join([split, *(value for value, usual in zip(here, own, strict=True) if value != usual)])


class _Network:
    """The localiser and the classifier, built when maps are first needed: reused maps cost no weights."""

    def __init__(self, run: RunFolder, recipe: Recipe, num_classes: int):
        self.run, self.recipe, self.num_classes = run, recipe, num_classes
        self.device = choose_device(recipe.runtime.device)
        self.localizer, self.classifier = localizer_of(recipe), classifier_of(recipe)

    @cached_property
    def methods(self) -> tuple[Method, Method | None]:
        """Who gives the maps and who ranks the classes, None if it is the same."""
        localizer = load_localizer(self.run, self.recipe, self.num_classes)
        if self.classifier is None:
            return localizer, None
        return localizer, load_method(self.run, self.classifier, self.num_classes)

    @property
    def classifier_name(self) -> str:
        """The stage that ranks the classes, or the run it is taken from."""
        role = self.classifier or self.localizer
        return role.stage.name if role.run is None else str(role.run.path)

    def identity(self) -> list[object]:
        """What the outputs depend on."""
        parts = [self._identity_of(self.localizer)]
        parts += [] if self.classifier is None else [self._identity_of(self.classifier)]
        spec = self.recipe.evaluate
        return [*itertools.chain(*parts), self.recipe.runtime.amp, spec.post, spec.scg]

    def _identity_of(self, role: Role) -> list[object]:
        stage = role.stage
        weights = (role.run or self.run).weights_path(stage.name)
        backbone = Path(stage.backbone.weights)
        given = weights if weights.is_file() else backbone if backbone.is_file() else stage.backbone.weights
        options = dataclasses.asdict(stage.backbone) | {"weights": ""}
        return [given, stage.method, stage.model, options, role.resize, role.crop, role.recipe.seed]


@dataclass
class _Split:
    recipe: Recipe
    dataset: data.Dataset
    indices: list[int]
    folder: Path
    found: ScoreMaps | None = None

    @classmethod
    def open(cls, run: RunFolder, recipe: Recipe, split: str, limit: int | None) -> "_Split":
        dataset = open_eval_data(recipe, split)
        count = len(dataset) if limit is None else max(1, min(limit, len(dataset)))
        indices = [i * len(dataset) // count for i in range(count)]
        name = eval_name(run, recipe, split)
        return cls(recipe, dataset, indices, run.eval_path(name if limit is None else f"{name}-limit-{limit}"))

    @classmethod
    def open_if_there(cls, run: RunFolder, recipe: Recipe, split: str, limit: int | None) -> "_Split | None":
        try:
            found = cls.open(run, recipe, split, limit)
        except data.DataError:
            return None
        annotated = found.dataset.has_masks or any(len(found.dataset.annotations(i).boxes) for i in found.indices)
        return found if annotated else None

    def look(self, network: _Network, progress: Progress) -> None:
        """Score maps of every image: those of the last time if nothing changed, else the network's."""
        spec, runtime = self.recipe.evaluate, self.recipe.runtime
        if self.dataset.skipped:
            progress.say(f"{self.dataset.split}: {len(self.dataset.skipped)} unreadable images are left out")
        for message in self.dataset.skipped:
            progress.say(f"skipped: {message}")
        for message in self.dataset.describe_cache():
            progress.say(f"cache: {message}")
        classifying = (network.classifier or network.localizer).stage
        if len(self.dataset.class_names) > (classifying.num_classes or network.num_classes):
            raise RecipeError(
                f"stage.num_classes: the model has fewer classes than split {self.dataset.split!r}, "
                f"which has {len(self.dataset.class_names)}"
            )
        seen = dataclasses.asdict(self.recipe.data) | {"root": None}
        if seen["decoder"] not in data.LOSSY:
            # Exact decoders give the same pixels.
            del seen["decoder"]
        identity = fingerprint(
            *network.identity(),
            seen,
            spec.ten_crop,
            spec.center_crop,
            dataclasses.asdict(eval_view(self.recipe)),
            spec.topk,
            [self.dataset.image_ids[i] for i in self.indices],
        )
        file = self.folder / "maps.npz"
        self.found = ScoreMaps.load(file, identity)
        if all(from_all(self.found is not None)):
            progress.say(f"{self.dataset.split}: score maps are up to date ({file})")
            return
        method, classifier = network.methods
        self.found = compute_score_maps(
            method,
            self.dataset,
            classifier=classifier,
            indices=self.indices,
            batch_size=spec.batch_size,
            device=network.device,
            crop=(network.classifier or network.localizer).crop if spec.ten_crop else None,
            topk=max(5, spec.topk),
            workers=count_workers(runtime.workers),
            amp=runtime.amp,
            channels_last=runtime.channels_last,
            progress=progress,
        )
        self.found.save(file, identity)

    def annotated(self) -> "_Annotated | None":
        """The images that have a true box; None if there are none."""
        notes = [self.dataset.annotations(i) for i in self.indices]
        kept = [k for k, note in enumerate(notes) if len(note.boxes)]
        if not kept:
            return None
        return _Annotated(
            indices=[self.indices[k] for k in kept],
            maps=self.found.maps[kept],
            classes=self.found.classes[kept],
            label=self.dataset.labels[[self.indices[k] for k in kept]],
            sizes=torch.tensor([notes[k].size for k in kept]),
            boxes=[notes[k].boxes for k in kept],
            left_out=len(notes) - len(kept),
        )

    def masked(self) -> Masked | None:
        """The images and their maps, to be measured on masks; None if the split has none."""
        return Masked(self.dataset, self.indices, self.found.maps) if self.dataset.has_masks else None


@dataclass
class _Annotated:
    """Maps and truths side by side, one row per image."""

    indices: list[int]
    maps: Tensor
    classes: Tensor
    label: Tensor
    sizes: Tensor  # [n, 2], (w, h)
    boxes: list[Tensor]
    left_out: int

    def starts(self) -> range:
        """Where the chunks start that are this process's to measure."""
        return range(rank() * _CHUNK, len(self.indices), world_size() * _CHUNK)

    def chunk(self, start: int) -> tuple[Tensor, Tensor, list[Tensor], Tensor, Tensor]:
        """Arguments of the accumulators' ``update``."""
        part = slice(start, start + _CHUNK)
        return self.maps[part], self.sizes[part], self.boxes[part], self.label[part], self.classes[part]


def _measure(test: _Split, fullsup: _Split | None, protocol, progress: Progress, *, gaussian: bool) -> dict:
    """What the annotations of the split allow: boxes, masks or both."""
    boxes, masks = test.annotated(), test.masked()
    results = {} if boxes is None else _measure_boxes(test, boxes, fullsup, protocol, progress, gaussian=gaussian)
    if masks is not None and protocol.frame != "crop":
        chosen = None if fullsup is None else fullsup.masked()
        results = _merged(results, measure_masks(masks, chosen, progress, gaussian=gaussian))
    if not results:
        crop = f"; protocol {protocol.name!r} looks at a crop and does not measure masks" * (masks is not None)
        raise data.DataError(f"split {test.dataset.split!r}: no image has a true box or an object mask{crop}")
    return results if boxes is not None else results | _describe_masked(test, masks, results, progress)


def _merged(first: dict, second: dict) -> dict:
    """The values of both; tables that are in both are merged, too."""
    both = {key for key in first.keys() & second.keys() if isinstance(first[key], dict)}
    return first | second | {key: _merged(first[key], second[key]) for key in both}


def _measure_boxes(
    test: _Split, rows: "_Annotated", fullsup: _Split | None, protocol, progress: Progress, *, gaussian: bool
) -> dict:
    accuracy = _count(BoxAccuracy(protocol), rows, "boxes", progress)
    numbers = accuracy.compute()
    curves, oracle = numbers.pop("curves"), numbers.pop("cam_threshold")
    results: dict = {
        "num_images": len(rows.indices),
        "images_without_box": rows.left_out,
        "metrics": _without_count(numbers),
        "oracle_threshold": oracle,
    }
    threshold, source = oracle["gt_known_loc"], "oracle"
    others = None if fullsup is None else fullsup.annotated()
    if others is not None:
        chosen = _count(BoxAccuracy(protocol), others, "boxes of train_fullsup", progress).compute()
        transferred = accuracy.compute(at=chosen["cam_threshold"])
        transferred.pop("curves")
        threshold, source = chosen["cam_threshold"]["gt_known_loc"], "train_fullsup"
        results["transferred_thresholds"] = transferred.pop("cam_threshold")
        results["transferred_threshold"] = results["transferred_thresholds"]["iou50"]
        results["transferred"] = _without_count(transferred)
    split = _count(ErrorSplit(protocol, thresholds=[threshold]), rows, "error split", progress).compute()
    results["error_split"] = {_ERROR_NAMES[kind]: split[kind] for kind in _ERROR_NAMES}
    results |= {"cam_threshold": threshold, "cam_threshold_source": source}
    central = BoxAccuracy(protocol)
    central.update_boxes(center_box(rows.sizes), rows.boxes, rows.label, rows.classes)
    results["baselines"] = {"center_box": _without_count(central.compute(), "curves", "cam_threshold")}
    if gaussian:
        results["baselines"]["center_gaussian"] = _measure_gaussian(rows, protocol, progress)
    results["curves"] = {
        "thresholds": curves["max_box_thresholds"],
        **{name: curves[name] for name in ("iou30", "iou50", "iou70", "max_box_acc")},
        "protocol": {name: curves[name] for name in ("thresholds", "gt_known_loc", "top1_loc", "top5_loc")},
    }
    results["per_image"] = _describe_images(test, rows, protocol, threshold)
    return results


def _describe_masked(test: _Split, masks: Masked, results: dict, progress: Progress) -> dict:
    """What a split that has masks and no boxes is told beside its pixel metrics: classes, one threshold, one row each.

    The threshold is pIoU's: chosen on train_fullsup if that has masks, else the best one here.
    """
    source = "train_fullsup" if "transferred" in results else "oracle"
    threshold = results["transferred_thresholds" if "transferred" in results else "oracle_threshold"]["p_iou"]
    overlaps = image_overlaps(masks, threshold, progress)
    kept = sorted(overlaps)
    label = test.dataset.labels[[test.indices[k] for k in kept]]
    right = right_classes(label, test.found.classes[kept], len(kept))
    rows = [
        _image_row(test, k, test.dataset.annotations(test.indices[k]).size)
        | {"gt_boxes": [], "box": None, "iou": round(overlaps[k], 6), "error": None}
        for k in kept
    ]
    return {
        "num_images": len(kept),
        "images_without_mask": len(test.indices) - len(kept),
        "metrics": {
            name: 100 * int(hits.sum()) / len(kept) for name, hits in zip(("top1_cls", "top5_cls"), right, strict=True)
        },
        "cam_threshold": threshold,
        "cam_threshold_source": source,
        "curves": {},
        "per_image": {"class_names": list(test.dataset.class_names), "frame": "image", "images": rows},
    }


def _measure_gaussian(rows: _Annotated, protocol, progress: Progress) -> dict:
    """What the same central Gaussian for every image reaches at its best threshold."""
    maps = center_gaussian((_CENTRAL, _CENTRAL)).float().expand(len(rows.indices), -1, -1)
    counted = _count(BoxAccuracy(protocol), dataclasses.replace(rows, maps=maps), "central Gaussian", progress)
    return _without_count(counted.compute(), "curves", "cam_threshold")


def _count(accumulator, rows: _Annotated, what: str, progress: Progress):
    with progress.task(what, len(rows.starts())) as advance:
        for start in rows.starts():
            accumulator.update(*rows.chunk(start))
            advance()
    if world_size() > 1:
        accumulator.all_reduce()
    return accumulator


def _without_count(numbers: dict, *more: str) -> dict:
    return {name: value for name, value in numbers.items() if name not in ("images", *more)}


def _describe_images(test: _Split, rows: _Annotated, protocol, threshold: float) -> dict:
    """What stands in ``per_image.json``; boxes are half-open pixels of the original image."""
    described: dict[int, tuple[list[str], list[Tensor]]] = {}
    names = list(_ERROR_NAMES.values())
    for start in rows.starts():
        maps, sizes, truths, label, classes = rows.chunk(start)
        right = classes[:, 0] == label
        found = error_kinds(maps, sizes, truths, right, protocol, torch.tensor([threshold], dtype=torch.float64))
        kinds = [names[kind] for kind in found[:, 0].tolist()]
        described[start] = kinds, list(predicted_boxes(maps, sizes, protocol, threshold))
    for share in from_all(described):
        described |= share
    kinds = [kind for start in sorted(described) for kind in described[start][0]]
    boxes = [box for start in sorted(described) for box in described[start][1]]
    row_of_map = {index: row for row, index in enumerate(test.indices)}
    images = [
        _image_row(test, row_of_map[index], rows.sizes[k].tolist())
        | {
            "gt_boxes": _rounded(rows.boxes[k]),
            "box": _rounded(boxes[k])[0],
            "iou": round(best_iou(boxes[k][:1], rows.boxes[k]), 6),
            "error": kinds[k],
        }
        for k, index in enumerate(rows.indices)
    ]
    return {"class_names": list(test.dataset.class_names), "frame": "image", "images": images}


def _image_row(test: _Split, k: int, size: Sequence[int]) -> dict:
    """What is said of the ``k``-th image whatever its annotation is."""
    index, classes = test.indices[k], test.found.classes[k]
    return {
        "index": index,
        "map": k,
        "image_id": test.dataset.image_ids[index],
        "label": int(test.dataset.labels[index]),
        "predicted": int(classes[0]),
        "topk": classes.tolist(),
        "score": round(float(test.found.scores[k, 0]), 6),
        "size": list(size),
    }


def _describe_thresholds(thresholds: Sequence[float]) -> dict[str, float]:
    """The sweep without its list, which stands in ``curves.json``."""
    return {"count": len(thresholds), "first": thresholds[0], "last": thresholds[-1]}


def _rounded(boxes: Tensor) -> list[list[float]]:
    return [[round(value, 2) for value in box] for box in boxes.tolist()]


def best_iou(box: Tensor, truths: Tensor) -> float:
    """Largest overlap of one box [1, 4] with true boxes [G, 4], all half-open."""
    low, high = torch.maximum(box[:, :2], truths[:, :2]), torch.minimum(box[:, 2:], truths[:, 2:])
    overlap = (high - low).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (box, truths)]
    return float((overlap / (areas[0] + areas[1] - overlap).clamp(min=1e-12)).max())
