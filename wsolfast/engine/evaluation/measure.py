"""Score maps against the annotations of a split, added up batch by batch."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wsolfast import data
from wsolfast.engine.evaluation.measure_boxes import BoxCounters
from wsolfast.engine.evaluation.measure_masks import MaskCounters
from wsolfast.engine.evaluation.score_maps import MapBatch
from wsolfast.engine.run.results import Curves, Measurement
from wsolfast.metrics import Protocol


class GroundTruth:
    """Annotations of the images that are measured.

    Args:
        dataset: has the annotations.
        indices: the images that were asked for; batches hold positions in this list.
    """

    def __init__(self, dataset: data.Dataset, indices: Sequence[int]):
        self.dataset, self.indices = dataset, indices

    def labels(self, batch: MapBatch) -> Tensor:
        """Return the labels [n] of a batch."""
        return self.dataset.labels[[self.indices[position] for position in batch.images]]

    def annotations(self, batch: MapBatch) -> list[data.Annotation]:
        """Return size and boxes of every image of a batch."""
        return [self.dataset.annotations(self.indices[position]) for position in batch.images]

    def masks(self, batch: MapBatch) -> dict[int, Tensor]:
        """Return the masks that there are, by row of the batch."""
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
        label, (rows, sizes, boxes) = self.ground_truth.labels(batch), boxed(self.ground_truth.annotations(batch))
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

    @property
    def best_thresholds(self) -> dict[str, float]:
        """The best threshold of each metric on this split; empty if there is neither a true box nor an object mask."""
        return self.boxes.best_thresholds | ({} if self.masks is None else self.masks.best_thresholds)

    def measure(self, at: Mapping[str, float] | None = None) -> Measurement:
        """Return the numbers of the split.

        Args:
            at: thresholds of another split, train_fullsup, to measure at, too: its :attr:`best_thresholds`.

        Raises:
            DataError: if there is neither a true box nor an object mask.
        """
        boxes = self.boxes.measure(at or {}) if self.boxes.found else None
        if self.masks is not None and self.masks.found:
            return self.masks.measure(at or {}, boxes, len(self.ground_truth.indices))
        if boxes is None:
            dataset, crop = self.ground_truth.dataset, ""
            if dataset.has_masks and self.masks is None:
                crop = f"; protocol {self.protocol.name!r} looks at a crop and does not measure masks"
            raise data.DataError(f"split {dataset.split!r}: no image has a true box or an object mask{crop}")
        return boxes

    def curves(self) -> Curves | None:
        """Return the metrics of boxes over all thresholds; None without a true box."""
        return self.boxes.curves() if self.boxes.found else None


def boxed(notes: Sequence[data.Annotation]) -> tuple[list[int], Tensor, list[Tensor]]:
    """Return rows, sizes [n, 2] as (w, h) and boxes of the images that have a true box."""
    rows = [row for row, note in enumerate(notes) if len(note.boxes)]
    sizes = torch.tensor([notes[row].size for row in rows], dtype=torch.int64).reshape(-1, 2)
    return rows, sizes, [notes[row].boxes for row in rows]
