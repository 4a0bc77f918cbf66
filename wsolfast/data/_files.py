"""Sources whose images are files under one folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from wsolfast.data._source import Annotation, BoxTable, Source, boxes_of
from wsolfast.data.errors import DataError
from wsolfast.data.images.decode import Bits, Decoder, PlainJpeg, decode, decode_mask, image_size, plain_jpeg
from wsolfast.data.images.masks import InstanceMasks, unite_labels, unite_masks

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_STRAY = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}


@dataclass
class ImageRecord:
    """Content of an annotation file on one image."""

    label: int  # position of its class
    split: str
    size: tuple[int, int] | None
    boxes: list[list[float]] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)  # of its objects


@dataclass
class ImageList:
    """Content of an annotation file."""

    images: dict[str, ImageRecord]  # by path
    class_names: list[str]
    class_ids: list[int] | None = None  # what the file numbers the classes by; None where nothing depends on it
    is_annotated: bool = True  # False if it has no place for boxes and masks


class FileSource(Source):
    """Images at ``folder / image_id``.

    Args:
        folder: where image ids start.
        image_ids: paths below ``folder``.
        labels: class of each image.
        class_names: one per class.
        class_ids: see :class:`Source`.
        boxes: boxes of each image; empty for a split trained on labels.
        sizes: (width, height) by index where the annotations tell it; the rest is read from image headers.
        masks: by index, the mask file of the image, those of its objects, or the benchmark's of its objects; below
            ``mask_folder``.
        mask_folder: where mask paths start; ``folder`` unless told.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
        bits: the same.
    """

    def __init__(
        self,
        folder: Path,
        image_ids: Sequence[str],
        labels: Sequence[int],
        class_names: Sequence[str],
        *,
        class_ids: Sequence[int] | None = None,
        boxes: BoxTable | None = None,
        sizes: dict[int, tuple[int, int]] | None = None,
        masks: Mapping[int, str | tuple[str, ...] | InstanceMasks] | None = None,
        mask_folder: Path | None = None,
        decoder: Decoder = "auto",
        orient: bool = True,
        bits: Bits | None = None,
    ):
        self.folder = folder
        self.image_ids = image_ids
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = class_names
        self.class_ids = class_ids
        self.has_masks = bool(masks)
        self.masks_fit = not any(isinstance(files, InstanceMasks) for files in (masks or {}).values())
        self._boxes = boxes
        self._sizes = dict(sizes or {})
        self._masks = masks or {}
        self._mask_folder = mask_folder or folder
        self._decoder = decoder
        self._orient = orient
        self._bits = bits

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self.folder / self.image_ids[index]

    def read(self, index: int) -> np.ndarray:
        return decode(self.path(index), self._decoder, self._orient, self._bits)

    def plain_jpeg(self, index: int) -> PlainJpeg | None:
        return plain_jpeg(self.path(index), self._orient)

    def state(self, index: int) -> int:
        return file_state(self.path(index))

    def header_size(self, index: int) -> tuple[int, int]:
        return image_size(self.path(index), self._orient)

    def told_size(self, index: int) -> tuple[int, int] | None:
        return self._sizes.get(index)

    def annotation(self, index: int) -> Annotation:
        if index not in self._sizes:
            self._sizes[index] = self.header_size(index)
        return Annotation(self._sizes[index], boxes_of(self._boxes, index), self.mask_path(index))

    def mask(self, index: int) -> np.ndarray | None:
        files = self._masks.get(index)
        if files is None:
            return None
        if isinstance(files, str):
            return decode_mask(self._mask_folder / files)
        if isinstance(files, tuple):
            return unite_labels([self._mask_folder / file for file in files])
        ignored = None if files.ignored is None else self._mask_folder / files.ignored
        return unite_masks([self._mask_folder / file for file in files.objects], ignored)

    def describe(self, index: int) -> str:
        return str(self.path(index))

    def mask_paths(self) -> Iterator[Path]:
        """Yield every mask file."""
        for files in self._masks.values():
            for file in _files_of(files):
                yield self._mask_folder / file

    def mask_path(self, index: int) -> Path | None:
        """Return the mask file of an image; None if it has none, or one for each object."""
        files = self._masks.get(index)
        return self._mask_folder / files if isinstance(files, str) else None


def _files_of(masks: str | tuple[str, ...] | InstanceMasks) -> tuple[str, ...]:
    if isinstance(masks, str):
        return (masks,)
    return masks if isinstance(masks, tuple) else masks.files


def file_state(path: Path) -> int:
    """Return 64 bits of a file's size and time; 0 if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0
    return (found.st_mtime_ns * 0x9E3779B97F4A7C15 + found.st_size) & 0xFFFFFFFFFFFFFFFF


def is_stray(name: str) -> bool:
    """Return True for a hidden entry of a folder, or one that an operating system puts there: never data."""
    return name.startswith(".") or name.lower() in _STRAY


def listed_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name."""
    return sorted(entry for entry in folder.iterdir() if not is_stray(entry.name) and entry.is_dir())


def glob_files(root: Path, pattern: str) -> list[Path]:
    """Return the files below ``root`` that match, sorted; stray ones only where the pattern spells their name."""
    spelt = set(pattern.split("/"))
    found = (path for path in root.glob(pattern) if path.is_file())
    return sorted(path for path in found if not any(map(is_stray, {*path.relative_to(root).parts} - spelt)))


def relative_path(text: str, where: str) -> str:
    """Return ``text`` if it is a path below the root.

    Raises:
        DataError: if it could lead out of the root; the message says ``where`` it stands.
    """
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or "\\" in text or "\0" in text:
        raise DataError(f"{where}: {text!r} is not a path below the data folder; write it relative, with /, without ..")
    return text


def read_lines(path: Path, purpose: str) -> list[str]:
    """Read the lines of a text file of annotations, blank ones left out."""
    return [line for _, line in numbered_lines(path, purpose)]


def numbered_lines(path: Path, purpose: str) -> list[tuple[int, str]]:
    """Read what :func:`read_lines` does, each line with its number in the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: missing; it holds {purpose}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
