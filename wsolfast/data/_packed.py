"""Sources whose images are stored together in larger files."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wsolfast.data._source import Annotation, BoxTable, Source, boxes_of
from wsolfast.data.errors import DataError
from wsolfast.data.images.decode import (
    Bits,
    Decoder,
    Encoded,
    PlainJpeg,
    decode,
    decode_mask,
    image_format,
    image_size,
    plain_jpeg,
)


class PackedSource(Source):
    """Images that :meth:`content` gives, encoded; a subclass says where they are.

    Args:
        image_ids: one per image.
        labels: class of each image.
        class_names: one per class.
        class_ids: see :class:`Source`.
        boxes: boxes of each image; empty for a split trained on labels.
        sizes: int array [n, 2], (width, height); where it is 0 the image's header is read.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
        bits: the same.
    """

    def __init__(
        self,
        image_ids: Sequence[str],
        labels: np.ndarray,
        class_names: Sequence[str],
        *,
        class_ids: Sequence[int] | None = None,
        boxes: BoxTable | None = None,
        sizes: np.ndarray | None = None,
        decoder: Decoder = "auto",
        orient: bool = True,
        bits: Bits | None = None,
    ):
        self.image_ids = image_ids
        self.labels = np.asarray(labels, np.int64)
        self.class_names = class_names
        self.class_ids = class_ids
        self._boxes = boxes
        self._sizes = np.zeros((len(image_ids), 2), np.int64) if sizes is None else sizes.astype(np.int64)
        self._decoder = decoder
        self._orient = orient
        self._bits = bits

    def content(self, index: int) -> Encoded:
        """Return the bytes of an image.

        Raises:
            DataError: if they cannot be read.
        """
        raise NotImplementedError

    def mask_content(self, index: int) -> Encoded | None:
        """Return the bytes of an image's mask; None if it has none."""
        return None

    def read(self, index: int) -> np.ndarray:
        return decode(self.content(index), self._decoder, self._orient, self._bits)

    def plain_jpeg(self, index: int) -> PlainJpeg | None:
        return plain_jpeg(self.content(index), self._orient)

    def header_size(self, index: int) -> tuple[int, int]:
        return image_size(self.content(index), self._orient)

    def told_size(self, index: int) -> tuple[int, int] | None:
        width, height = self._sizes[index].tolist()
        return (width, height) if width and height else None

    def annotation(self, index: int) -> Annotation:
        if not self._sizes[index].all():
            self._sizes[index] = self.header_size(index)
        width, height = self._sizes[index].tolist()
        return Annotation((width, height), boxes_of(self._boxes, index))

    def mask(self, index: int) -> np.ndarray | None:
        content = self.mask_content(index)
        return None if content is None else decode_mask(content)


def format_of(content: bytes, name: str) -> str | None:
    """Return Pillow's name of the format of an image's bytes.

    Raises:
        DataError: if they are no image.
    """
    return image_format(Encoded(content, name))


def check_boxes(boxes: Any, where: str) -> list[list[float]]:
    """Return boxes as lists of floats, xyxy.

    Raises:
        DataError: if they are anything else.
    """
    right = isinstance(boxes, list) and all(isinstance(box, list) and len(box) == 4 for box in boxes)
    right = right and all(type(edge) in (int, float) for box in boxes for edge in box)
    if not right or not all(0 <= x0 < x1 < 1e9 and 0 <= y0 < y1 < 1e9 for x0, y0, x1, y1 in boxes):
        raise DataError(
            f"{where}: boxes are [x0, y0, x1, y1] with 0 <= x0 < x1 and 0 <= y0 < y1, got {str(boxes)[:80]}"
        )
    return [[float(edge) for edge in box] for box in boxes]
