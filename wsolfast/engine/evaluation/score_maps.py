"""Score maps, or boxes, of a split on disk: a file per batch that the network has seen, each whole or absent."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsolfast.data import atomic, tensor_files
from wsolfast.engine.evaluation.stopwatch import FIELDS
from wsolfast.metrics import GivenBoxes

_CLASSES = ("classes", "scores")
_BOXES = ("boxes", "shown_sizes")
_NAME = re.compile(r"(\d{6,})-(\d{6,})\.safetensors")


@dataclass(frozen=True)
class MapBatch:
    """Score maps or boxes of consecutive images that were asked for, and the classes that networks see in them."""

    start: int  # position of the first image
    # [n, h, w], float32 in [0, 1]: the localization map of the true class, at its own resolution. Maps of other
    # programs are a list of [h, w], each of any size, type and range. Empty where the method gives boxes.
    maps: Tensor | list[Tensor] = field(default_factory=list)
    classes: Tensor | None = None  # int64 [n, k]: the most likely classes, the first one first
    scores: Tensor | None = None  # float32 [n, k]: their probabilities
    # By stopwatch.FIELDS: the time that it took, divided among parallel workers.
    seconds: Mapping[str, float] = field(default_factory=dict)
    # Of a method that gives boxes instead of maps, else None: the one of the true class, float32 [n, 4] xyxy,
    # half-open, pixels of the view that the network was shown; and that view's (w, h), int64 [n, 2].
    boxes: Tensor | None = None
    shown_sizes: Tensor | None = None

    @property
    def images(self) -> range:
        """Positions of its images."""
        return range(self.start, self.start + len(self.maps if self.boxes is None else self.boxes))

    def given(self, rows: Sequence[int], image_sizes: Tensor) -> GivenBoxes | None:
        """Return the boxes of some of its images, of (w, h) ``image_sizes`` [n, 2]; None where there are maps."""
        if self.boxes is None or self.shown_sizes is None:
            return None
        return GivenBoxes(self.boxes[rows], self.shown_sizes[rows], image_sizes)

    def select(self, rows: Sequence[int]) -> Tensor | list[Tensor]:
        """Return the maps of some of its images."""
        return self.maps[rows] if isinstance(self.maps, Tensor) else [self.maps[row] for row in rows]


class ScoreMaps:
    """The files of one evaluation.

    Args:
        folder: holds ``<first>-<end>.safetensors``, positions of images.
        identity: what the maps depend on besides the images; None reads whatever is there.
        image_ids: of all images that were asked for, in order. A file counts if its own are still the same.
    """

    def __init__(self, folder: Path, identity: str | None = None, image_ids: Sequence[str] = ()):
        self.folder, self.identity, self.image_ids = folder, identity, image_ids

    def save(self, batch: MapBatch) -> None:
        """Write a batch with the time that it took; several processes may do so."""
        places = ("maps",) if batch.boxes is None else _BOXES
        tensors = {name: getattr(batch, name).contiguous() for name in (*places, *_CLASSES)}
        tensors["seconds"] = torch.tensor([batch.seconds[name] for name in FIELDS], dtype=torch.float64)
        content = tensor_files.pack(tensors, self._identity_of(batch.images) or "")
        # Not waited for on disk: what the machine's power cuts off is noticed by its digest and computed again.
        atomic.write_bytes(self._file(batch.images), lambda stream: stream.write(content), durable=False)

    def load(self, images: range) -> MapBatch | None:
        """Read a batch that :meth:`save` wrote; None if it is absent, damaged, or something else."""
        found = tensor_files.read(self._file(images), self._identity_of(images))
        if found is None or len(found["classes"]) != len(images):
            return None
        tensors: dict[str, Any] = {name: found[name] for name in ("maps", *_BOXES, *_CLASSES) if name in found}
        return MapBatch(images.start, **tensors, seconds=dict(zip(FIELDS, found["seconds"].tolist(), strict=True)))

    def batches(self, batch_size: int) -> tuple[list[range], list[range]]:
        """Return the batches that the images are cut into, and those of them that are there.

        Files that cover all images count, whatever their batches were; otherwise those of ``batch_size`` do.
        """
        images = len(self.image_ids)
        there = [part for part in self._listed() if self.load(part) is not None]
        if [0, *(part.stop for part in there)] == [*(part.start for part in there), images]:
            return there, there
        cut = [range(start, min(start + batch_size, images)) for start in range(0, images, batch_size)]
        return cut, sorted(set(cut) & set(there), key=lambda part: part.start)

    def remove_all_but(self, kept: Sequence[range]) -> None:
        """Delete the files of all other batches."""
        names = {self._file(part).name for part in kept}
        for file in self.folder.glob("*.safetensors") if self.folder.is_dir() else ():
            if file.name not in names:
                file.unlink()

    def rows(self, images: Sequence[int]) -> dict[int, Tensor]:
        """Return the maps [h, w] of some images, by position; those that are not there, or are boxes, are left out."""
        found: dict[int, Tensor] = {}
        for part in self._listed():
            wanted = [position for position in images if position in part]
            batch = self.load(part) if wanted else None
            if batch is not None and batch.boxes is None:
                found |= {position: batch.maps[position - batch.start] for position in wanted}
        return found

    def all(self) -> Iterator[MapBatch]:
        """Yield every batch that is there, in order."""
        found = (self.load(part) for part in self._listed())
        yield from (batch for batch in found if batch is not None)

    def _listed(self) -> list[range]:
        return sorted(self._named(), key=lambda part: (part.start, part.stop))

    def _named(self) -> Iterator[range]:
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            name = _NAME.fullmatch(file.name)
            if name is not None:
                yield range(int(name[1]), int(name[2]))

    def _identity_of(self, images: range) -> str | None:
        return self.identity and tensor_files.fingerprint(
            self.identity, list(self.image_ids[images.start : images.stop])
        )

    def _file(self, images: range) -> Path:
        return self.folder / f"{images.start:06d}-{images.stop:06d}.safetensors"
