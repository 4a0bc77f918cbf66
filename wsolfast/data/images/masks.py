"""Objects of an image that each have a mask file of their own, as the WSOL benchmark reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsolfast.data.errors import DataError
from wsolfast.data.images.decode import decode_grey, decode_labels, decode_mask

# Where the benchmark compares maps with masks.
_SIDE = 224


@dataclass(frozen=True)
class InstanceMasks:
    """Mask files of one image, below the mask folder."""

    objects: tuple[str, ...]
    ignored: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All of them."""
        return self.objects if self.ignored is None else (*self.objects, self.ignored)


def unite_masks(objects: Sequence[Path], ignored: Path | None = None) -> np.ndarray:
    """Unite all objects of an image in one mask, uint8 [H, W]: 1 object, 255 ignored and not object, 0 the rest.

    Any grey level above 0 is set. The mask has the size of its files, which need not be the image's; files of several
    sizes are brought to 224 x 224, where the benchmark compares.

    Raises:
        DataError: if a file is missing or broken.
    """
    parts = [decode_grey(file) > 0 for file in (*objects, *([ignored] if ignored else []))]
    if len({part.shape for part in parts}) > 1:
        parts = [_nearest(part) for part in parts]
    found = np.logical_or.reduce(parts[: len(objects)])
    mask = found.astype(np.uint8)
    if ignored:
        mask[parts[-1] & ~found] = 255
    return mask


def unite_labels(objects: Sequence[Path]) -> np.ndarray:
    """Unite the masks of an image's objects, uint8 [H, W]: 1 of any object, else 255 if any ignores it, else 0.

    Raises:
        DataError: if a file is missing or broken, see :func:`wsolfast.data.images.decode.decode_mask`, or two differ in
            size.
    """
    parts = [decode_mask(file) for file in objects]
    odd = next((k for k, part in enumerate(parts) if part.shape != parts[0].shape), None)
    if odd is not None:
        sizes = [f"{file} is {part.shape[1]}x{part.shape[0]}" for file, part in zip(objects, parts, strict=True)]
        raise DataError(f"{sizes[0]} and {sizes[odd]}: masks of the objects of an image have one size")
    stack = np.stack(parts)
    ignored = np.where((stack == 255).any(0), np.uint8(255), np.uint8(0))
    return np.where((stack == 1).any(0), np.uint8(1), ignored)


def decode_objects(file: Path) -> np.ndarray:
    """Decode a mask file that numbers objects or classes, uint8 [H, W]: 1 any object, 255 ignored, 0 background.

    Raises:
        DataError: if the file is missing or broken, or not single-channel with 8 bits.
    """
    labels = decode_labels(file)
    return np.where(labels == 255, labels, np.minimum(labels, 1))


def _nearest(mask: np.ndarray) -> np.ndarray:
    """Resize as OpenCV's INTER_NEAREST: the source pixel is floor(i * source / target)."""
    rows, columns = (
        np.minimum(np.floor(np.arange(_SIDE) * (1.0 / (_SIDE / source))).astype(np.int64), source - 1)
        for source in mask.shape
    )
    return mask[rows[:, None], columns]
