"""A source says which images, labels and boxes one split of a data set has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsolfast.data.errors import DataError
from wsolfast.data.hierarchies import Hierarchy
from wsolfast.data.images.decode import PlainJpeg

SPLITS = ("train_weaksup", "train_fullsup", "test")


@dataclass(frozen=True)
class Annotation:
    """Size of an image and place of its object. Never given for a split that is trained on image labels."""

    size: tuple[int, int]  # (width, height) of the original
    boxes: Tensor  # float64 [B, 4], xyxy, half-open, pixels of the upright original
    mask: Path | None = None  # its file, where one file is the image's


class Source:
    """Images, labels and annotations of one split; a data set subclasses this and nothing else.

    Attributes:
        image_ids: one per image, unique.
        labels: int64 array [n].
        class_names: one per class, in the same order for every split of the data set.
        class_ids: what the annotations number the classes by, from 0; None where that is their position.
        is_annotated: False if no image has a box or a mask, because the layout has none.
        has_masks: True if :meth:`mask` answers.
        masks_fit: True if masks have the size of their images.
        remarks: what is odd about the files and does not hinder, one line each.
        hierarchy: the levels above the classes; None if nobody says them.
    """

    image_ids: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    class_ids: Sequence[int] | None = None
    is_annotated: bool = True
    has_masks: bool = False
    masks_fit: bool = True
    remarks: Sequence[str] = ()
    hierarchy: Hierarchy | None = None

    def read(self, index: int) -> np.ndarray:
        """Return the pixels of image ``index``, uint8 [H, W, 3]."""
        raise NotImplementedError

    def plain_jpeg(self, index: int) -> PlainJpeg | None:
        """Return image ``index`` as its file has it, for another decoder; None where only :meth:`read` can read it."""
        return None

    def state(self, index: int) -> int:
        """Return 64 bits that change when image ``index`` is replaced; 0 where that cannot happen."""
        return 0

    def header_size(self, index: int) -> tuple[int, int] | None:
        """Return (width, height) that the file of image ``index`` itself says; None without one."""
        return None

    def told_size(self, index: int) -> tuple[int, int] | None:
        """Return (width, height) that the annotations say of image ``index``; None where they do not."""
        return None

    def annotation(self, index: int) -> Annotation:
        """Return size, boxes and the mask's file of image ``index``."""
        raise NotImplementedError

    def mask(self, index: int) -> np.ndarray | None:
        """Mask of image ``index``, uint8 [H, W]: 0 background, 1 object, 255 ignore; None if there is none."""
        return None

    def describe(self, index: int) -> str:
        """Return the name of image ``index`` in errors: its file, where it has one."""
        return self.image_ids[index]


@dataclass
class BoxTable:
    """Boxes of many images in two arrays, which workers share without copying."""

    boxes: np.ndarray  # float64 [M, 4]
    offsets: np.ndarray  # int64 [n + 1]

    @classmethod
    def from_lists(cls, boxes_of_images: Sequence[Sequence[Sequence[float]]]) -> "BoxTable":
        """Make a table of one list of xyxy boxes per image."""
        counts = np.array([len(boxes) for boxes in boxes_of_images], dtype=np.int64)
        flat = [box for boxes in boxes_of_images for box in boxes]
        return cls(np.array(flat, np.float64).reshape(-1, 4), np.concatenate([[0], np.cumsum(counts)]))

    def of(self, index: int) -> Tensor:
        """Return the boxes [B, 4] of one image."""
        return torch.from_numpy(self.boxes[self.offsets[index] : self.offsets[index + 1]].copy())


def boxes_of(table: BoxTable | None, index: int) -> Tensor:
    """Return the boxes [B, 4] of one image; none of a split that is trained on labels."""
    return torch.zeros((0, 4), dtype=torch.float64) if table is None else table.of(index)


def check_size(source: Source, index: int, size: tuple[int, int]) -> None:
    """Compare (width, height) of an image with what its annotation says.

    Raises:
        DataError: if they differ; the message names both.
    """
    told = source.told_size(index)
    if told is not None and told != size:
        turned = told == size[::-1]
        hint = "; boxes are those of the image as EXIF turns it, or set data.options.orient=false" if turned else ""
        raise DataError(
            f"{source.describe(index)}: the image is {size[0]}x{size[1]}, its annotation says {told[0]}x{told[1]}{hint}"
        )


def boxes_outside(annotation: Annotation) -> Iterator[str]:
    """Yield what is wrong with every box that has no part inside the image."""
    width, height = annotation.size
    for x0, y0, x1, y1 in annotation.boxes.tolist():
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            yield f"the box {[x0, y0, x1, y1]} lies outside the image, which is {width}x{height}"


def mask_differs(mask: np.ndarray, size: tuple[int, int]) -> str:
    """Return what is wrong with a mask [H, W] that has another size than its image."""
    return f"the mask is {mask.shape[1]}x{mask.shape[0]}, the image {size[0]}x{size[1]}"
