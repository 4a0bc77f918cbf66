"""What is measured of score maps, one batch after the other: what is added up, then a line for every image."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from wsolfast import data
from wsolfast.engine.evaluation.measure_boxes import BoxCounters
from wsolfast.engine.evaluation.measure_masks import MaskCounters
from wsolfast.engine.evaluation.score_maps import MapBatch
from wsolfast.engine.run.distributed import from_all, is_first, rank, world_size
from wsolfast.engine.run.run_folder import write_bytes
from wsolfast.metrics import ErrorSplit, Protocol, box_iou, mask_overlaps
from wsolfast.metrics.functional import error_kinds, predicted_boxes

# ErrorSplit's kinds, in its order, in words.
_ERROR_NAMES = {
    "cls": "misclassified",
    "correct": "correct",
    "m_ins": "multi_instance",
    "part": "part",
    "more": "more",
    "ot": "other",
}


class GroundTruth:
    """What is known of the images that are measured.

    Args:
        dataset: has the annotations.
        indices: the images that were asked for; batches hold positions in this list.
    """

    def __init__(self, dataset: data.Dataset, indices: Sequence[int]):
        self.dataset, self.indices = dataset, indices

    def labels(self, batch: MapBatch) -> Tensor:
        """Labels [n] of a batch."""
        return self.dataset.labels[[self.indices[position] for position in batch.images]]

    def annotations(self, batch: MapBatch) -> list[data.Annotation]:
        """Size and boxes of every image of a batch."""
        return [self.dataset.annotations(self.indices[position]) for position in batch.images]

    def masks(self, batch: MapBatch) -> dict[int, Tensor]:
        """The masks that there are, by row of the batch."""
        found = {row: self.dataset.mask(self.indices[position]) for row, position in enumerate(batch.images)}
        return {row: mask for row, mask in found.items() if mask is not None}


class SplitMetrics:
    """Everything that is added up over a split: integers, so nothing depends on who counted what.

    Args:
        ground_truth: of the split.
        protocol: the way to score boxes. One that looks at a crop does not measure masks, which show whole images.
        baselines: count the central box.
        gaussian: count the central Gaussian, which takes as long as the method's maps.
    """

    def __init__(
        self, ground_truth: GroundTruth, protocol: Protocol, *, baselines: bool = True, gaussian: bool = False
    ):
        self.ground_truth, self.protocol = ground_truth, protocol
        self.boxes = BoxCounters(protocol, baselines=baselines, gaussian=gaussian)
        masked = ground_truth.dataset.has_masks and protocol.frame != "crop"
        self.masks = MaskCounters(baselines=baselines, gaussian=gaussian) if masked else None

    def update(self, batch: MapBatch) -> None:
        """Add a batch."""
        label, (rows, sizes, boxes) = self.ground_truth.labels(batch), _boxed(self.ground_truth.annotations(batch))
        left_out = len(label) - len(rows)
        self.boxes.update(batch.maps[rows], sizes, boxes, label[rows], batch.classes[rows], left_out=left_out)
        if self.masks is not None:
            masks = self.ground_truth.masks(batch)
            rows = list(masks)
            self.masks.update(batch.maps[rows], list(masks.values()), label[rows], batch.classes[rows])

    def all_reduce(self) -> None:
        """Add up what all processes have counted."""
        self.boxes.all_reduce()
        if self.masks is not None:
            self.masks.all_reduce()

    def measure(self, chosen: "SplitMetrics | None") -> tuple[dict, dict]:
        """What ``results.json`` and ``curves.json`` hold; ``chosen`` are the metrics of train_fullsup.

        Raises:
            DataError: if there is neither a true box nor an object mask.
        """
        results: dict = {}
        curves: dict = {}
        if self.boxes.found:
            results, curves = self.boxes.measure(chosen.boxes if chosen is not None and chosen.boxes.found else None)
        if self.masks is not None and self.masks.found:
            others = None if chosen is None else chosen.masks
            masked = self.masks.measure(others if others is not None and others.found else None)
            results = _merged(results, masked)
            if not self.boxes.found:
                results |= self.masks.describe(results, len(self.ground_truth.indices))
        if not results:
            crop = f"; protocol {self.protocol.name!r} looks at a crop and does not measure masks"
            raise data.DataError(
                f"split {self.ground_truth.dataset.split!r}: no image has a true box or an object mask"
                + crop * (self.ground_truth.dataset.has_masks and self.masks is None)
            )
        return results, curves


class PerImageTable:
    """A line for every image, at one threshold, and the shares of the kinds of errors among them.

    Args:
        metrics: of the same images; they know whether boxes or masks are looked at.
        threshold: where maps are cut.
    """

    def __init__(self, metrics: SplitMetrics, threshold: float):
        self.ground_truth, self.protocol, self.threshold = metrics.ground_truth, metrics.protocol, threshold
        self._describe = self._by_box if metrics.boxes.found else self._by_mask
        self._errors = ErrorSplit(self.protocol, thresholds=[threshold]) if metrics.boxes.found else None

    def write(self, file: Path, batches: Iterator[MapBatch | None]) -> None:
        """Write ``per_image.json``, row by row: nothing is kept.

        Args:
            file: where to.
            batches: this process's: of every turn that the processes take the one that is its own, or None.
        """
        rows = self._rows(batches)
        if is_first():
            write_bytes(file, lambda stream: self._write(stream, rows))
        for _ in rows:
            pass

    def error_split(self) -> dict[str, dict[str, float]]:
        """``error_split``: percent of images of each kind, of what was written; nothing where masks are measured."""
        if self._errors is None:
            return {}
        split = self._errors.compute()
        return {"error_split": {name: split[kind] for kind, name in _ERROR_NAMES.items()}}

    def _write(self, stream: BinaryIO, rows: Iterator[dict]) -> None:
        names = json.dumps(list(self.ground_truth.dataset.class_names), ensure_ascii=False)
        stream.write(f'{{"class_names": {names}, "frame": "image", "images": ['.encode())
        for number, row in enumerate(rows):
            text = json.dumps(row, allow_nan=False, ensure_ascii=False)
            stream.write(f"{',' if number else ''}\n{text}".encode())
        stream.write(b"\n]}\n")

    def _rows(self, batches: Iterator[MapBatch | None]) -> Iterator[dict]:
        names = list(_ERROR_NAMES.values())
        for batch in batches:
            for rows in from_all([] if batch is None else self._describe(batch)):
                if rows and self._errors is not None:
                    self._errors.update_kinds(torch.tensor([[names.index(row["error"])] for row in rows]))
                yield from rows

    def _by_box(self, batch: MapBatch) -> list[dict]:
        """Boxes are half-open pixels of the original image."""
        rows, sizes, truths = _boxed(self.ground_truth.annotations(batch))
        if not rows:
            return []
        maps, right = batch.maps[rows], batch.classes[rows, 0] == self.ground_truth.labels(batch)[rows]
        cut = torch.tensor([self.threshold], dtype=torch.float64)
        kinds = error_kinds(maps, sizes, truths, right, self.protocol, cut)[:, 0].tolist()
        boxes = predicted_boxes(maps, sizes, self.protocol, self.threshold)
        names = list(_ERROR_NAMES.values())
        return [
            self._about(batch, row, sizes[k].tolist())
            | {
                "gt_boxes": _rounded(truths[k]),
                "box": _rounded(boxes[k])[0],
                "iou": round(float(box_iou(boxes[k][:1], truths[k]).max()), 6),
                "error": names[kinds[k]],
            }
            for k, row in enumerate(rows)
        ]

    def _by_mask(self, batch: MapBatch) -> list[dict]:
        masks, notes = self.ground_truth.masks(batch), self.ground_truth.annotations(batch)
        overlaps = mask_overlaps(batch.maps[list(masks)], list(masks.values()), self.threshold)
        return [
            self._about(batch, row, notes[row].size)
            | {"gt_boxes": [], "box": None, "iou": round(overlap, 6), "error": None}
            for row, overlap in zip(masks, overlaps, strict=True)
        ]

    def _about(self, batch: MapBatch, row: int, size: Sequence[int]) -> dict:
        """What is said of an image whatever its annotation is."""
        position = batch.start + row
        index, classes = self.ground_truth.indices[position], batch.classes[row]
        return {
            "index": index,
            "map": position,
            "image_id": self.ground_truth.dataset.image_ids[index],
            "label": int(self.ground_truth.dataset.labels[index]),
            "predicted": int(classes[0]),
            "topk": classes.tolist(),
            "score": round(float(batch.scores[row, 0]), 6),
            "size": list(size),
        }


def turns(batches: Sequence[range]) -> list[range | None]:
    """This process's batches, one for every turn that all processes take together; None where they run out."""
    count, ranks = len(batches), world_size()
    return [batches[k] if k < count else None for k in range(rank(), -(-count // ranks) * ranks, ranks)]


def _boxed(notes: Sequence[data.Annotation]) -> tuple[list[int], Tensor, list[Tensor]]:
    """Of the images that have a true box: rows, sizes [n, 2] as (w, h), boxes."""
    rows = [row for row, note in enumerate(notes) if len(note.boxes)]
    sizes = torch.tensor([notes[row].size for row in rows], dtype=torch.int64).reshape(-1, 2)
    return rows, sizes, [notes[row].boxes for row in rows]


def _merged(first: dict, second: dict) -> dict:
    """The values of both; tables that are in both are merged, too."""
    both = {key for key in first.keys() & second.keys() if isinstance(first[key], dict)}
    return first | second | {key: _merged(first[key], second[key]) for key in both}


def _rounded(boxes: Tensor) -> list[list[float]]:
    return [[round(value, 2) for value in box] for box in boxes.tolist()]
