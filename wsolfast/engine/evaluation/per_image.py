"""``per_image.json``: a row for every image, at one threshold, written batch by batch."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from wsolfast.engine.evaluation.measure import SplitMetrics, boxed
from wsolfast.engine.evaluation.score_maps import MapBatch
from wsolfast.engine.run.distributed import from_all, is_first, rank, world_size
from wsolfast.engine.run.results import ErrorShares, ImageRow, Record
from wsolfast.engine.run.run_folder import write_bytes
from wsolfast.metrics import ErrorSplit, box_iou, mask_overlaps
from wsolfast.metrics.functional import ERROR_KINDS, error_kinds, predicted_boxes

# The kinds of errors in the order of functional.ERROR_KINDS.
_ERRORS = tuple(field.name for field in fields(ErrorShares))


def write_table(
    file: Path,
    batches: Iterator[MapBatch | None],
    describe: Callable[[MapBatch], Sequence[Record]],
    class_names: Sequence[str] = (),
    *,
    write: Callable[[Path, Callable[..., object]], None] = write_bytes,
) -> None:
    """Write the rows of all processes; none is kept in memory.

    Args:
        file: where to.
        batches: this process's: of every turn that the processes take the one that is its own, or None.
        describe: makes the rows of a batch.
        class_names: written in front of the rows if there are any.
        write: puts the file at its place, given what writes into a stream.
    """
    rows = (
        row for batch in batches for part in from_all([] if batch is None else list(describe(batch))) for row in part
    )
    head = {"class_names": list(class_names)} if class_names else {}
    if is_first():
        write(file, lambda stream: _write(stream, head | {"frame": "image"}, rows))
    for _ in rows:
        pass


def turns(batches: Sequence[range]) -> list[range | None]:
    """Return this process's batches, one for every turn that all processes take together; None where they run out."""
    count, ranks = len(batches), world_size()
    return [batches[k] if k < count else None for k in range(rank(), -(-count // ranks) * ranks, ranks)]


class ImageRows:
    """Rows of an evaluated run, and the kinds of errors in them.

    Args:
        metrics: of the same images; they know whether boxes or masks are looked at.
        threshold: where maps are cut; None of given boxes.
    """

    def __init__(self, metrics: SplitMetrics, threshold: float | None):
        self.ground_truth, self.protocol = metrics.ground_truth, metrics.protocol
        # Given boxes are the same at every threshold, so any one will do.
        self.threshold = self.protocol.thresholds[0] if threshold is None else threshold
        self._errors = ErrorSplit(self.protocol, thresholds=[self.threshold]) if metrics.boxes.found else None

    def describe(self, batch: MapBatch) -> list[ImageRow]:
        """Return a row for each image that has a true box, or a mask where masks are looked at."""
        return self._by_mask(batch) if self._errors is None else self._by_box(batch, self._errors)

    def error_split(self) -> ErrorShares | None:
        """Return the shares of the errors in the rows of all processes; None where masks are looked at."""
        if self._errors is None:
            return None
        if world_size() > 1:
            self._errors.all_reduce()
        shares = self._errors.compute()
        return ErrorShares(*(shares[kind] for kind in ERROR_KINDS))

    def _by_box(self, batch: MapBatch, errors: ErrorSplit) -> list[ImageRow]:
        rows, sizes, truths = boxed(self.ground_truth.annotations(batch))
        if not rows:
            return []
        assert batch.classes is not None
        right, given = batch.classes[rows, 0] == self.ground_truth.labels(batch)[rows], batch.given(rows, sizes)
        if given is None:
            maps, cut = batch.select(rows), torch.tensor([self.threshold], dtype=torch.float64)
            kinds = error_kinds(maps, sizes, truths, right, self.protocol, cut)
            boxes = torch.stack([found[0] for found in predicted_boxes(maps, sizes, self.protocol, self.threshold)])
        else:
            kinds = given.error_kinds(truths, right, self.protocol)[:, None]
            boxes = given.in_images(self.protocol)
        errors.update_kinds(kinds)
        # All pairs of a batch cost less than a call for each image.
        pairs = box_iou(boxes, torch.cat(truths))
        overlaps = [of_all[k].max() for k, of_all in enumerate(pairs.split([len(true) for true in truths], dim=1))]
        return [
            ImageRow(
                **self._about(batch, row),
                size=sizes[k].tolist(),
                gt_boxes=rounded(truths[k]),
                box=rounded(boxes[k : k + 1])[0],
                iou=round(float(overlaps[k]), 6),
                error=_ERRORS[int(kinds[k, 0])],
            )
            for k, row in enumerate(rows)
        ]

    def _by_mask(self, batch: MapBatch) -> list[ImageRow]:
        masks, notes = self.ground_truth.masks(batch), self.ground_truth.annotations(batch)
        overlaps = mask_overlaps(batch.select(list(masks)), list(masks.values()), self.threshold)
        unboxed: dict[str, Any] = {"gt_boxes": [], "box": None, "error": None}
        return [
            ImageRow(**self._about(batch, row), size=list(notes[row].size), iou=round(overlap, 6), **unboxed)
            for row, overlap in zip(masks, overlaps, strict=True)
        ]

    def _about(self, batch: MapBatch, row: int) -> dict[str, Any]:
        """Return the fields of an image that do not depend on its annotation."""
        assert batch.classes is not None
        assert batch.scores is not None
        position, dataset = batch.start + row, self.ground_truth.dataset
        index = self.ground_truth.indices[position]
        return {
            "index": index,
            "map": position,
            "image_id": dataset.image_ids[index],
            "label": int(dataset.labels[index]),
            "predicted": int(batch.classes[row, 0]),
            "topk": batch.classes[row].tolist(),
            "score": round(float(batch.scores[row, 0]), 6),
        }


def _write(stream: BinaryIO, head: dict[str, object], rows: Iterator[Record]) -> None:
    stream.write(f'{json.dumps(head, ensure_ascii=False)[:-1]}, "images": ['.encode())
    for number, row in enumerate(rows):
        text = json.dumps(row.to_json(), allow_nan=False, ensure_ascii=False)
        stream.write(f"{',' if number else ''}\n{text}".encode())
    stream.write(b"\n]}\n")


def rounded(boxes: Tensor) -> list[list[float]]:
    """Return boxes [B, 4] to a hundredth of a pixel."""
    return [[round(value, 2) for value in box] for box in boxes.tolist()]
