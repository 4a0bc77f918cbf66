"""Evaluation of score maps on disk, ``<folder>/<image id>.npy``, against the benchmark's metadata; no network runs."""

import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsolfast import data
from wsolfast._system import has_file_locks
from wsolfast.data.images.masks import unite_masks
from wsolfast.data.metadata import FOLDERS, read_mask_metadata, read_metadata
from wsolfast.data.tensor_files import fingerprint
from wsolfast.engine.evaluation.compare_opencv import compare_boxes, compare_pixels, import_opencv
from wsolfast.engine.evaluation.map_files import MapFiles, read_map
from wsolfast.engine.evaluation.map_pass import MapPass
from wsolfast.engine.evaluation.measure import GroundTruth, SplitMetrics, boxed
from wsolfast.engine.evaluation.per_image import rounded, write_table
from wsolfast.engine.evaluation.score_maps import MapBatch
from wsolfast.engine.run.environment import describe_environment, now
from wsolfast.engine.run.errors import Interrupted, MissingError, UsageError
from wsolfast.engine.run.outputs import LIST, Outputs
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import Comparison, MapResults, MapRow
from wsolfast.engine.run.run_folder import locked, to_json
from wsolfast.metrics import METRICS_VERSION, Protocol, get_protocol, is_constant, mask_overlaps
from wsolfast.metrics.functional import best_overlaps, predicted_boxes

_SAVE_EVERY = 1024
_MAX_BOX = ("max_box_acc", "max_box_acc_v2", "iou30", "iou50", "iou70")
_BOX_METRICS = ("gt_known_loc", *_MAX_BOX)
_MASK_METRICS = ("px_ap", "p_iou", "peak_iou", "peak_t", "peak_iou_per_image", "peak_t_per_image")
_COUNTERS, _RESULTS, _CURVES, _ROWS = "counters.pt", "results.json", "curves.json", "per_image.json"


def evaluate_maps(
    scoremaps: str | Path,
    metadata: str | Path,
    dataset: str,
    split: str,
    out: str | Path,
    *,
    protocol: str = "wsolevaluation",
    interval: float | None = None,
    metrics: str = "all",
    mask_root: str | Path | None = None,
    compare: int = 0,
    thresholds_of: str | Path | None = None,
    progress: Progress | None = None,
) -> MapResults:
    """Measure the score maps of a split and write ``results.json``, ``curves.json``, ``per_image.json`` into ``out``.

    Counters are kept in ``out``, too: a second run goes on where the first one stopped, with the same digits.

    Args:
        scoremaps: holds ``<image id>.npy``: [h, w] at any size, float64, float32, float16 or uint8.
        metadata: holds ``<dataset>/<val or test>/*.txt``, or is that ``<dataset>`` folder.
        dataset: CUB, ILSVRC, OpenImages or another folder of ``metadata``.
        split: ``test`` or ``train_fullsup`` (``val``).
        protocol: decides GT-known Loc; MaxBoxAcc and MaxBoxAccV2 are wsolevaluation's.
        interval: step between thresholds in [0, 1), instead of the protocol's own.
        metrics: names with commas between, or "all".
        mask_root: where mask paths start, or the folder above with the data set's name: measure masks, not boxes.
        compare: hold so many images, evenly spread, against a plain OpenCV loop before anything else.
        thresholds_of: results of another split's score maps: measure at the thresholds that were best there, too.
        progress: where to show how far it is.

    Returns:
        The content of ``results.json``.

    Raises:
        UsageError: if an argument cannot be meant.
        MissingError, DataError: if a score map, mask or annotation is missing or broken.
        CheckError: if OpenCV finds something else.
        Interrupted: after a signal, when the counters are written.
    """
    progress, out, started = progress or Progress(quiet=True), Path(out), time.monotonic()
    split = {folder: name for name, folder in FOLDERS.items()}.get(split, split)
    if split not in ("test", "train_fullsup"):
        raise UsageError(f"--split: expected test or train_fullsup, got {split!r}")
    if mask_root is None and dataset.lower() == "openimages":
        raise UsageError("OpenImages is annotated with masks: give their folder as --mask-root")
    masked, benchmark = mask_root is not None, _sweep("wsolevaluation", interval)
    chosen = benchmark if masked else _sweep(protocol, interval)
    wanted = _wanted(metrics, _MASK_METRICS if masked else _BOX_METRICS)
    max_box = any(name in _MAX_BOX for name in wanted)
    source = _Annotations(_below(metadata, dataset), split, None if mask_root is None else _below(mask_root, dataset))
    truth = GroundTruth(data.Dataset(source, split, data.View()), source.measured)
    counters = SplitMetrics(truth, chosen, baselines=not masked, max_box=max_box, pixel_thresholds=benchmark.thresholds)
    at = {} if thresholds_of is None else _best_thresholds(Path(thresholds_of), masked)
    outputs = Outputs(out, reads=[] if thresholds_of is None else [Path(thresholds_of) / _RESULTS])
    files = MapFiles(Path(scoremaps), truth.image_ids, out / _COUNTERS, outputs)
    _make_folder(out, outputs)
    # Without locks, counting the same maps twice at a time gives the same numbers.
    with locked(out) if has_file_locks() else nullcontext():
        compared = _compare(truth, files, compare, benchmark, progress) if compare else None
        images = MapPass(files.load, f"the counters in {out}", progress)
        identity, counting = fingerprint(METRICS_VERSION, asdict(chosen), max_box, source.identity), time.monotonic()
        counted = _count(images, files, counters, identity)
        rate = round(counted / (time.monotonic() - counting), 1) if counted else None
        numbers, curves, threshold = _numbers(counters, at)
        rows = _Rows(counters, threshold)
        one_by_one = images.read_in_turns(files.batches(), "images one by one")
        write_table(out / _ROWS, one_by_one, rows.describe, write=outputs.write)
        results = MapResults(
            **numbers | {"metrics": {name: numbers["metrics"][name] for name in wanted}},
            num_images=len(files),
            compared=compared,
            images_without_box=None if masked else len(source.image_ids) - len(files),
            maps_not_finite=rows.not_finite,
            maps_constant=rows.constant,
            dataset=dataset,
            split=split,
            scoremaps=str(scoremaps),
            images_per_second=rate,
            seconds=round(time.monotonic() - started, 2),
            evaluated=now(),
            environment=describe_environment(),
        )
        outputs.write_text(out / _CURVES, to_json(curves, indent=None))
        outputs.write_text(out / _RESULTS, to_json(results.to_json()))
    return results


class _Annotations(data.Source):
    """A split of the benchmark's metadata without its images.

    Args:
        folder: of the metadata.
        split: its name.
        mask_root: where the paths of masks start; None reads boxes.

    Attributes:
        measured: positions of the images that can be measured.
        identity: everything that was read.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, folder: Path, split: str, mask_root: Path | None):
        self.has_masks = mask_root is not None
        if mask_root is None:
            self._read_boxes(folder, split)
        else:
            self._read_masks(folder, split, mask_root)

    def annotation(self, index: int) -> data.Annotation:
        """Return size and boxes of image ``index``; the metadata of masks has no size, and nobody needs it."""
        if self.has_masks:
            return data.Annotation((0, 0), torch.zeros((0, 4), dtype=torch.float64))
        return data.Annotation(self._sizes[index], self._boxes.of(index))

    def mask(self, index: int) -> np.ndarray | None:
        """Return all objects of image ``index``, see :func:`wsolfast.data.images.masks.unite_masks`."""
        return unite_masks(self._masks[index], self._ignored[index]) if self.has_masks else None

    def _read_boxes(self, folder: Path, split: str) -> None:
        found = read_metadata(folder, split)
        self.image_ids, self.labels = found.image_ids, np.array(found.labels)
        self._sizes, self._boxes = found.sizes, found.boxes
        self.measured = [index for index in range(len(self.image_ids)) if len(self._boxes.of(index))]
        if not self.measured:
            raise data.DataError(f"{folder / FOLDERS[split]}: no image has a true box, nothing can be measured")
        unsized = next((self.image_ids[index] for index in self.measured if index not in self._sizes), None)
        if unsized is not None:
            raise data.DataError(f"{folder / FOLDERS[split] / 'image_sizes.txt'}: no size for image {unsized}")
        sizes = [self._sizes[index] for index in self.measured]
        self.identity: list[object] = [self.image_ids, sizes, self._boxes.boxes.tolist(), self._boxes.offsets.tolist()]

    def _read_masks(self, folder: Path, split: str, root: Path) -> None:
        found = read_mask_metadata(folder, split)
        self.image_ids, self.labels = found.image_ids, np.array(found.labels)
        self._masks = [[root / file for file in files] for files in found.masks]
        self._ignored = [None if file is None else root / file for file in found.ignored]
        self.measured = list(range(len(self.image_ids)))
        self.identity = [self.image_ids, found.masks, found.ignored, str(root.resolve())]


class _Rows:
    """Rows of ``per_image.json``, and the numbers of score maps that are constant or not finite."""

    def __init__(self, metrics: SplitMetrics, threshold: float):
        self.metrics, self.threshold, self.not_finite, self.constant = metrics, threshold, 0, 0

    def describe(self, batch: MapBatch) -> list[MapRow]:
        """Return a row for each image."""
        truth, maps = self.metrics.ground_truth, list(batch.maps)
        self.not_finite += sum(not one.isfinite().all() for one in maps)
        self.constant += int(is_constant(maps).sum())
        indices = [truth.indices[position] for position in batch.images]
        about = [(index, truth.dataset.image_ids[index], int(truth.dataset.labels[index])) for index in indices]
        if self.metrics.masks is not None:
            overlaps = mask_overlaps(maps, list(truth.masks(batch).values()), self.threshold)
            return [MapRow(*one, round(overlap, 6)) for one, overlap in zip(about, overlaps, strict=True)]
        _, sizes, truths = boxed(truth.annotations(batch))
        boxes = predicted_boxes(maps, sizes, self.metrics.protocol, self.threshold)
        cut = torch.tensor([self.threshold], dtype=torch.float64)
        best = best_overlaps(maps, sizes, truths, self.metrics.protocol, cut)[:, 0].tolist()
        return [
            MapRow(*one, round(best[k], 6), sizes[k].tolist(), truths[k].tolist(), rounded(boxes[k])[0])
            for k, one in enumerate(about)
        ]


def _below(folder: str | Path, dataset: str) -> Path:
    if Path(folder, dataset).is_dir():
        return Path(folder, dataset)
    names = [entry.name for entry in Path(folder).iterdir()] if Path(folder).is_dir() else []
    meant = next((name for name in names if name.lower() == dataset.lower()), None)
    if meant is not None:
        raise UsageError(f"--dataset {dataset!r}: {folder} has {meant!r}; give it in these letters")
    return Path(folder)


def _sweep(name: str, interval: float | None) -> Protocol:
    """Return the protocol of that name, at thresholds ``interval`` apart if it is given."""
    try:
        protocol = get_protocol(name)
    except ValueError as error:
        raise UsageError(f"--protocol: {error}") from None
    if interval is None:
        return protocol
    if not 0 < interval <= 1:
        raise UsageError(f"--interval: expected a step in (0, 1], got {interval}")
    return replace(protocol, thresholds=tuple(np.arange(0, 1, interval).tolist()))


def _wanted(metrics: str, names: tuple[str, ...]) -> list[str]:
    asked = list(names) if metrics == "all" else metrics.split(",")
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise UsageError(f"--metrics: no {unknown[0]!r} here; choose from {', '.join(names)}, or all")
    return asked


def _best_thresholds(results: Path, masked: bool) -> dict[str, float]:
    """Read the best threshold of each metric in the results of another split."""
    if masked:
        raise UsageError("--thresholds-of: what is measured on masks takes no threshold from elsewhere")
    try:
        found = MapResults.read(results / _RESULTS).oracle_threshold
    except MissingError as error:
        raise MissingError(f"--thresholds-of: no results of score maps: {error}") from None
    if "gt_known_loc" not in found:
        raise UsageError(f"--thresholds-of: {results / _RESULTS} was measured on masks")
    return found


def _make_folder(out: Path, outputs: Outputs) -> None:
    held = out.is_dir() and any(not file.name.startswith(".") for file in out.iterdir())
    if held and not (out / LIST).is_file():
        raise UsageError(f"{out} exists and holds something else; choose another --out")
    outputs.check(*(out / name for name in (_RESULTS, _CURVES, _ROWS)))
    out.mkdir(parents=True, exist_ok=True)


def _compare(truth: GroundTruth, files: MapFiles, count: int, benchmark: Protocol, progress: Progress) -> Comparison:
    version, count = import_opencv().__version__, min(count, len(files))
    rules = {
        "the largest contour": replace(benchmark.rule, selection="contour_area"),
        "all contours": replace(benchmark.rule, selection="all"),
    }
    with progress.task("comparing with OpenCV", count) as advance:
        for k in range(count):
            position = k * len(files) // count
            index, score_map = truth.indices[position], read_map(files.files[position])
            image_id, mask = truth.dataset.image_ids[index], truth.dataset.mask(index)
            if mask is None:
                note = truth.dataset.annotations(index)
                compare_boxes(image_id, score_map, note.size, note.boxes, benchmark, rules)
            else:
                compare_pixels(image_id, score_map, mask, benchmark.thresholds)
            advance()
    return Comparison(f"OpenCV {version}", count, len(benchmark.thresholds))


def _count(images: MapPass, files: MapFiles, metrics: SplitMetrics, identity: str) -> int:
    """Count the images that are not counted yet, and return their number."""
    done = first = saved = files.resume(metrics, identity, images.progress)
    with images.progress.task("score maps", len(files), done) as advance:
        try:
            for batch in images.interruptible(images.read(files.batches(done))):
                metrics.update(batch)
                done = batch.images.stop
                advance(len(batch.images))
                if done - saved >= _SAVE_EVERY or done == len(files):
                    files.save_counters(metrics, done, identity)
                    saved = done
        except Interrupted:
            files.save_counters(metrics, done, identity)
            raise
    return done - first


def _numbers(metrics: SplitMetrics, at: dict[str, float]) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Return fields of the results, the curves, and the threshold of the rows."""
    if metrics.masks is not None:
        pixels = metrics.masks.pixels.compute()
        threshold = pixels["p_iou_threshold"]
        return {"metrics": pixels, "oracle_threshold": {"p_iou": threshold}}, pixels["curves"], threshold
    try:
        found = metrics.measure(at)
    except ValueError as error:
        raise UsageError(f"--thresholds-of: {error}") from None
    names = ("metrics", "oracle_threshold", "cam_threshold", "transferred_thresholds", "transferred", "baselines")
    fields = {name: getattr(found, name) for name in names} | {"protocol": metrics.protocol.name}
    assert found.cam_threshold is not None  # of score maps
    return fields, metrics.boxes.accuracy.compute()["curves"], found.cam_threshold
