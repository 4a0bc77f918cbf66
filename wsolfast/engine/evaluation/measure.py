"""Score maps, or boxes, against the annotations of a split, added up batch by batch."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wsolfast import data
from wsolfast.engine.evaluation.counters import Counters
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

    @property
    def image_ids(self) -> list[str]:
        """Ids of the images, by position."""
        return [self.dataset.image_ids[index] for index in self.indices]

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
    """Counters of a split: integers, so that no number depends on the order of the images or of the processes.

    Args:
        ground_truth: of the split.
        protocol: the way to score boxes. One that looks at a crop does not measure masks, which show whole images.
        baselines: count the central box.
        gaussian: count the central Gaussian, which takes as long as the method's maps.
        max_box: count MaxBoxAcc and MaxBoxAccV2.
        pixel_thresholds: of the masks; those of :class:`wsolfast.metrics.PixelAccuracy` if None.
        given_boxes: batches hold boxes and no maps. There is then no threshold, and masks are not measured.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        protocol: Protocol,
        *,
        baselines: bool = True,
        gaussian: bool = False,
        max_box: bool = True,
        pixel_thresholds: Sequence[float] | None = None,
        given_boxes: bool = False,
    ):
        self.ground_truth, self.protocol, self.given_boxes = ground_truth, protocol, given_boxes
        classes = len(ground_truth.dataset.class_names) if protocol.class_means else None
        self.boxes = BoxCounters(
            protocol,
            baselines=baselines,
            gaussian=gaussian,
            max_box=max_box,
            num_classes=classes,
            given_boxes=given_boxes,
        )
        self.masks: MaskCounters | None = None
        if ground_truth.dataset.has_masks and protocol.frame != "crop" and not given_boxes:
            self.masks = MaskCounters(baselines=baselines, gaussian=gaussian, thresholds=pixel_thresholds)

    def update(self, batch: MapBatch) -> None:
        """Add a batch."""
        label, classes = self.ground_truth.labels(batch), batch.classes
        rows, sizes, boxes = boxed(self.ground_truth.annotations(batch))
        left_out, likely = len(label) - len(rows), None if classes is None else classes[rows]
        given = batch.given(rows, sizes)
        self.boxes.update(
            batch.select(rows) if given is None else given, sizes, boxes, label[rows], likely, left_out=left_out
        )
        if self.masks is not None:
            masks = self.ground_truth.masks(batch)
            rows = list(masks)
            likely = None if classes is None else classes[rows]
            self.masks.update(batch.select(rows), list(masks.values()), label[rows], likely)

    def all_reduce(self) -> None:
        """Add up what all processes have counted."""
        for counters in self._counters.values():
            counters.all_reduce()

    def state_dict(self) -> dict:
        """Return a copy of all counters."""
        return {name: counters.state_dict() for name, counters in self._counters.items()}

    def load_state_dict(self, state: Mapping) -> None:
        """Replace the counters by ``state``, which :meth:`state_dict` gave.

        Raises:
            ValueError: if they are of another protocol.
        """
        for name, counters in self._counters.items():
            counters.load_state_dict(state[name])

    @property
    def _counters(self) -> dict[str, Counters]:
        return {"boxes": self.boxes} | ({} if self.masks is None else {"masks": self.masks})

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
            dataset, why = self.ground_truth.dataset, ""
            if dataset.has_masks and self.given_boxes:
                why = "; the method gives boxes, which are not measured by masks"
            elif dataset.has_masks and self.masks is None:
                why = f"; protocol {self.protocol.name!r} looks at a crop and does not measure masks"
            raise data.DataError(f"split {dataset.split!r}: no image has a true box or an object mask{why}")
        return boxes

    def curves(self) -> Curves | None:
        """Return the metrics of boxes over all thresholds; None without a true box, or without a threshold."""
        return self.boxes.curves() if self.boxes.found and not self.given_boxes else None


def boxed(notes: Sequence[data.Annotation]) -> tuple[list[int], Tensor, list[Tensor]]:
    """Return rows, sizes [n, 2] as (w, h) and boxes of the images that have a true box."""
    rows = [row for row, note in enumerate(notes) if len(note.boxes)]
    sizes = torch.tensor([notes[row].size for row in rows], dtype=torch.int64).reshape(-1, 2)
    return rows, sizes, [notes[row].boxes for row in rows]
