"""Evaluation of score maps on disk, ``<folder>/<image id>.npy``, against the benchmark's metadata; no network runs."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsolfast.data import DataError
from wsolfast.data.images.masks import unite_masks
from wsolfast.data.metadata import FOLDERS, read_mask_metadata, read_metadata
from wsolfast.data.tensor_files import fingerprint
from wsolfast.engine.evaluation.compare_opencv import compare_boxes, compare_pixels, import_opencv
from wsolfast.engine.run.environment import describe_environment, now
from wsolfast.engine.run.errors import Interrupted, MissingError, UsageError
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import MapResults
from wsolfast.engine.run.run_folder import locked, write_bytes, write_json
from wsolfast.engine.run.signals import StopRequest
from wsolfast.metrics import METRICS_VERSION, BoxAccuracy, PixelAccuracy, center_box, get_protocol, mask_overlaps
from wsolfast.metrics.functional import best_overlaps, predicted_boxes

_CHUNK = 128
_SAVE_EVERY = 1024
_MAX_BOX = ("max_box_acc", "max_box_acc_v2", "iou30", "iou50", "iou70")
_COUNTERS, _RESULTS = "counters.pt", "results.json"


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
    folder = Path(metadata, dataset) if Path(metadata, dataset).is_dir() else Path(metadata)
    thresholds = _thresholds(interval)
    if mask_root is not None:
        root = Path(mask_root, dataset) if Path(mask_root, dataset).is_dir() else Path(mask_root)
        task: _Boxes | _Masks = _Masks(folder, split, thresholds, root)
    elif dataset.lower() == "openimages":
        raise UsageError("OpenImages is annotated with masks: give their folder as --mask-root")
    else:
        task = _Boxes(folder, split, protocol, thresholds, metrics)
    at = None if thresholds_of is None else task.transferable(Path(thresholds_of))
    wanted = _wanted(metrics, task.names)
    files = _files(Path(scoremaps), task.image_ids)
    _make_folder(out)
    threads = len(os.sched_getaffinity(0))
    with locked(out), StopRequest() as stop, ThreadPoolExecutor(threads) as pool:
        results: dict = {}
        if compare:
            results["compared"] = _compare(task, files, compare, progress)
        counting = time.monotonic()
        counted = _count(task, files, out, pool, progress, stop)
        seconds = time.monotonic() - counting
        numbers = task.accumulator.compute()
        curves = numbers.pop("curves")
        task.keep_thresholds(numbers, results, at)
        with progress.task("images one by one", len(files)) as advance:
            rows, odd = [], 0
            for start, maps in _chunks(files, 0, pool):
                odd += sum(not one.isfinite().all() for one in maps)
                rows += task.describe(range(start, start + len(maps)), maps, results)
                advance(len(maps))
                if stop.requested:
                    raise Interrupted(f"stopped; the same command goes on with what is in {out}")
        results = {
            "num_images": len(files),
            "metrics": {name: numbers[name] for name in wanted},
            **results,
            "maps_not_finite": odd,
            "dataset": dataset,
            "split": split,
            "scoremaps": str(scoremaps),
            "images_per_second": round(counted / seconds, 1) if counted else None,
            "seconds": round(time.monotonic() - started, 2),
            "evaluated": now(),
            "environment": describe_environment(),
        }
        write_json(out / "curves.json", curves, indent=None)
        write_json(out / "per_image.json", {"frame": "image", "images": rows}, indent=None)
        write_json(out / _RESULTS, results)
    return MapResults.from_json(results)


class _Boxes:
    """A split with boxes."""

    names = ("gt_known_loc", *_MAX_BOX)

    def __init__(self, folder: Path, split: str, protocol: str, thresholds: tuple[float, ...] | None, metrics: str):
        try:
            chosen = get_protocol(protocol)
        except ValueError as error:
            raise UsageError(f"--protocol: {error}") from None
        notes = read_metadata(folder, split)
        boxes = [notes.boxes.of(index) for index in range(len(notes.image_ids))]
        kept = [index for index, found in enumerate(boxes) if len(found)]
        if not kept:
            raise DataError(f"{folder / FOLDERS[split]}: no image has a true box, nothing can be measured")
        unsized = next((notes.image_ids[index] for index in kept if index not in notes.sizes), None)
        if unsized is not None:
            raise DataError(f"{folder / FOLDERS[split] / 'image_sizes.txt'}: no size for image {unsized}")
        self.index = kept
        self.left_out = len(boxes) - len(kept)
        self.image_ids = [notes.image_ids[index] for index in kept]
        self.labels = [notes.labels[index] for index in kept]
        self.sizes = torch.tensor([notes.sizes[index] for index in kept])
        self.boxes = [boxes[index] for index in kept]
        asked = metrics.split(",")
        max_box = metrics == "all" or any(name in _MAX_BOX for name in asked)
        self.accumulator = BoxAccuracy(chosen, thresholds, max_box=max_box)
        self.protocol = self.accumulator.protocol
        self.identity = [
            asdict(self.protocol),
            max_box,
            self.image_ids,
            self.sizes.tolist(),
            notes.boxes.boxes.tolist(),
        ]
        benchmark = get_protocol("wsolevaluation")
        self.benchmark = benchmark if thresholds is None else replace(benchmark, thresholds=thresholds)

    def update(self, index: range, maps: list[Tensor]) -> None:
        part = slice(index.start, index.stop)
        self.accumulator.update(maps, self.sizes[part], self.boxes[part])

    def transferable(self, results: Path) -> dict[str, float]:
        """The best threshold of each metric in the results of another split."""
        try:
            other = json.loads((results / _RESULTS).read_text(encoding="utf-8"))
            return dict(other["oracle_threshold"])
        except (OSError, ValueError, KeyError) as error:
            raise MissingError(f"{results / _RESULTS}: no results of score maps ({error})") from None

    def keep_thresholds(self, numbers: dict, results: dict, at: dict[str, float] | None) -> None:
        """The thresholds of the published way, those of another split, and what a box in the image's centre scores."""
        if at is not None:
            try:
                transferred = self.accumulator.compute(at=at)
            except ValueError as error:
                raise UsageError(f"--thresholds-of: {error}") from None
            results["transferred_thresholds"] = transferred["cam_threshold"]
            results["transferred"] = {name: transferred[name] for name in self.names if name in transferred}
        central = BoxAccuracy(self.protocol, max_box="max_box_acc" in numbers)
        central.update_boxes(center_box(self.sizes), self.boxes)
        center = central.compute()
        results |= {
            "protocol": self.protocol.name,
            "oracle_threshold": numbers["cam_threshold"],
            "cam_threshold": (at or numbers["cam_threshold"])["gt_known_loc"],
            "baselines": {"center_box": {name: center[name] for name in self.names if name in center}},
            "images_without_box": self.left_out,
        }

    def describe(self, index: range, maps: list[Tensor], results: dict) -> list[dict]:
        part, threshold = slice(index.start, index.stop), results["cam_threshold"]
        sizes, truths = self.sizes[part], self.boxes[part]
        boxes = predicted_boxes(maps, sizes, self.protocol, threshold)
        overlaps = best_overlaps(maps, sizes, truths, self.protocol, torch.tensor([threshold], dtype=torch.float64))
        return [
            {
                "index": self.index[n],
                "image_id": self.image_ids[n],
                "label": self.labels[n],
                "size": sizes[k].tolist(),
                "gt_boxes": truths[k].tolist(),
                "box": [round(value, 2) for value in boxes[k][0].tolist()],
                "iou": round(float(overlaps[k]), 6),
            }
            for k, n in enumerate(index)
        ]

    def compare(self, n: int, score_map: Tensor) -> None:
        rules = {
            "the largest contour": replace(self.benchmark.rule, selection="contour_area"),
            "all contours": replace(self.benchmark.rule, selection="all"),
        }
        width, height = self.sizes[n].tolist()
        compare_boxes(self.image_ids[n], score_map, (width, height), self.boxes[n], self.benchmark, rules)

    @property
    def compared_thresholds(self) -> int:
        return len(self.benchmark.thresholds)


class _Masks:
    """A split with masks."""

    names = ("px_ap", "p_iou", "peak_iou", "peak_t", "peak_iou_per_image", "peak_t_per_image")

    def __init__(self, folder: Path, split: str, thresholds: tuple[float, ...] | None, root: Path):
        notes = read_mask_metadata(folder, split)
        self.image_ids, self.labels = notes.image_ids, notes.labels
        self.masks = [[root / file for file in files] for files in notes.masks]
        self.ignored = [None if file is None else root / file for file in notes.ignored]
        self.thresholds = get_protocol("wsolevaluation").thresholds if thresholds is None else thresholds
        self.accumulator = PixelAccuracy(thresholds=self.thresholds)
        self.side = self.accumulator.size
        self.identity = [self.thresholds, self.image_ids, notes.masks, notes.ignored, str(root.resolve())]

    def update(self, index: range, maps: list[Tensor]) -> None:
        self.accumulator.update(maps, [self.mask(n) for n in index])

    def mask(self, n: int) -> Tensor:
        """All objects of an image, see :func:`wsolfast.data.images.masks.unite_masks`."""
        return torch.from_numpy(unite_masks(self.masks[n], self.ignored[n]))

    def transferable(self, results: Path) -> dict[str, float]:
        raise UsageError("--thresholds-of: what is measured on masks takes no threshold from elsewhere")

    def keep_thresholds(self, numbers: dict, results: dict, at: dict[str, float] | None) -> None:
        """The threshold of the best pooled overlap."""
        results |= {"oracle_threshold": {"p_iou": numbers["p_iou_threshold"]}}

    def describe(self, index: range, maps: list[Tensor], results: dict) -> list[dict]:
        threshold = results["oracle_threshold"]["p_iou"]
        overlaps = mask_overlaps(maps, [self.mask(n) for n in index], threshold, self.side)
        return [
            {"index": n, "image_id": self.image_ids[n], "label": self.labels[n], "iou": round(iou, 6)}
            for iou, n in zip(overlaps, index, strict=True)
        ]

    def compare(self, n: int, score_map: Tensor) -> None:
        compare_pixels(self.image_ids[n], score_map, self.mask(n), self.thresholds, self.side)

    @property
    def compared_thresholds(self) -> int:
        return len(self.thresholds)


def _thresholds(interval: float | None) -> tuple[float, ...] | None:
    if interval is None:
        return None
    if not 0 < interval <= 1:
        raise UsageError(f"--interval: expected a step in (0, 1], got {interval}")
    return tuple(np.arange(0, 1, interval).tolist())


def _wanted(metrics: str, names: tuple[str, ...]) -> list[str]:
    if metrics == "all":
        return list(names)
    asked = metrics.split(",")
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise UsageError(f"--metrics: no {unknown[0]!r} here; choose from {', '.join(names)}, or all")
    return asked


def _files(folder: Path, image_ids: Sequence[str]) -> list[Path]:
    files = [folder / f"{image_id}.npy" for image_id in image_ids]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise MissingError(f"{missing[0]}: missing, as are {len(missing) - 1} of the other {len(files) - 1} score maps")
    return files


def _make_folder(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    held = [file.name for file in out.iterdir() if not file.name.startswith(".")]
    if held and _COUNTERS not in held and _RESULTS not in held:
        raise UsageError(f"{out} exists and holds something else; choose another --out")


def _load(file: Path) -> Tensor:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MissingError(f"{file}: no readable score map ({error}); write it again") from None
    if array.ndim != 2 or 0 in array.shape or array.dtype.name not in ("float64", "float32", "float16", "uint8"):
        raise DataError(
            f"{file}: expected a score map [h, w] of float64, float32, float16 or uint8, "
            f"got {array.dtype} {list(array.shape)}"
        )
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def _chunks(files: Sequence[Path], start: int, pool: ThreadPoolExecutor) -> Iterator[tuple[int, list[Tensor]]]:
    """(position, score maps) of some files at a time; the next ones are read while these are used."""
    ahead: tuple[int, Iterator[Tensor]] | None = None
    for position in range(start, len(files), _CHUNK):
        following = position, pool.map(_load, files[position : position + _CHUNK])
        if ahead is not None:
            yield ahead[0], list(ahead[1])
        ahead = following
    if ahead is not None:
        yield ahead[0], list(ahead[1])


def _compare(task: _Boxes | _Masks, files: Sequence[Path], count: int, progress: Progress) -> dict:
    version, count = import_opencv().__version__, min(count, len(files))
    with progress.task("comparing with OpenCV", count) as advance:
        for k in range(count):
            n = k * len(files) // count
            task.compare(n, _load(files[n]))
            advance()
    return {"with": f"OpenCV {version}", "images": count, "thresholds": task.compared_thresholds}


def _count(
    task: _Boxes | _Masks, files: list[Path], out: Path, pool: ThreadPoolExecutor, progress: Progress, stop: StopRequest
) -> int:
    """Counts what is not counted yet; returns how many images that were."""
    identity = fingerprint(METRICS_VERSION, *task.identity)
    done = first = _resume(task, files, out / _COUNTERS, identity, progress)
    saved = done
    with progress.task("score maps", len(files), done) as advance:
        for start, maps in _chunks(files, done, pool):
            done = start + len(maps)
            task.update(range(start, done), maps)
            advance(len(maps))
            if stop.requested or done - saved >= _SAVE_EVERY or done == len(files):
                _save(task, files[:done], out / _COUNTERS, identity)
                saved = done
            if stop.requested:
                raise Interrupted(f"stopped after {done} of {len(files)} images; the same command goes on from there")
    return done - first


def _save(task: _Boxes | _Masks, files: list[Path], counters: Path, identity: str) -> None:
    state = {"identity": identity, "done": len(files), "stamp": _stamp(files), "state": task.accumulator.state_dict()}
    write_bytes(counters, lambda stream: torch.save(state, stream))


def _resume(task: _Boxes | _Masks, files: list[Path], counters: Path, identity: str, progress: Progress) -> int:
    """Takes over the counters that an earlier run left, if they are of the same maps; returns how many images."""
    if not counters.is_file():
        return 0
    try:
        kept = torch.load(counters, weights_only=True)
        fits = kept["identity"] == identity and kept["stamp"] == _stamp(files[: kept["done"]])
    except Exception as error:
        progress.log(f"{counters}: cannot be read ({error}); starting over")
        return 0
    if not fits:
        progress.log(f"{counters}: counted from other score maps or settings; starting over")
        return 0
    task.accumulator.load_state_dict(kept["state"])
    progress.log(f"{kept['done']} of {len(files)} images are counted already ({counters})")
    return kept["done"]


def _stamp(files: Sequence[Path]) -> str:
    """Changes when one of the files is written again."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
