"""Metadata folders of the WSOL benchmark (Choe et al., CVPR 2020): ids, labels, sizes and boxes as plain text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsolfast.data._classes import MAX_POSITION, check_positions
from wsolfast.data._files import FileSource, numbered_lines, relative_path
from wsolfast.data._source import BoxTable
from wsolfast.data.errors import DataError, Faults, SplitMissingError

_LABELS = "class_labels.txt"
FOLDERS = {"train_weaksup": "train", "train_fullsup": "val", "test": "test"}


@dataclass(frozen=True)
class Metadata:
    """One split of the benchmark, in its own order."""

    image_ids: list[str]
    labels: list[int]
    sizes: dict[int, tuple[int, int]]
    boxes: BoxTable


@dataclass(frozen=True)
class MaskMetadata:
    """One split of the benchmark that is annotated with masks, in its own order."""

    image_ids: list[str]
    labels: list[int]
    masks: list[list[str]]
    """Mask files of each image, one per instance, below the mask folder."""
    ignored: list[str | None]
    """The file of each image's pixels that do not count, if there is one."""


def read_metadata(folder: Path, split: str) -> Metadata:
    """Read ``folder / {train, val, test}``.

    The four files hold ``id``, ``id,label``, ``id,width,height`` and ``id,x0,y0,x1,y1`` (an id with several boxes has
    several lines). Box corners are taken as they stand, as edges of a half-open box.

    Raises:
        DataError: if a file is missing, malformed, or speaks of an image that ``image_ids.txt`` does not have.
    """
    folder = folder / FOLDERS[split]
    faults = Faults()
    image_ids, labels, position = _read_classes(folder, split, faults)
    sizes: dict[int, tuple[int, int]] = {}
    boxes: list[list[list[int]]] = [[] for _ in image_ids]
    if split != "train_weaksup":
        for index, size in _rows(folder / "image_sizes.txt", position, 2, faults, once=True):
            if size:
                sizes[index] = size[0], size[1]
        file = folder / "localization.txt"
        for index, box in _rows(file, position, 4, faults):
            if box and not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
                faults.add(f"{file}: {image_ids[index]}: a box is 0 <= x0 < x1 and 0 <= y0 < y1, got {box}")
            boxes[index].append(box)
    faults.raise_any()
    return Metadata(image_ids, labels, sizes, BoxTable.from_lists(boxes))


def metadata_source(
    metadata: str | Path,
    split: str,
    folder: Path,
    class_names: Sequence[str],
    *,
    kept: Sequence[int] | None = None,
    **options: Any,
) -> FileSource:
    """Open the images below ``folder`` that :func:`read_metadata` lists.

    Args:
        metadata: folder of the benchmark's files.
        split: which images.
        folder: where their ids start.
        class_names: one per class.
        kept: take the images of these classes only, and number the classes in this order.
        **options: of :class:`FileSource`.

    Raises:
        DataError: as :func:`read_metadata`.
    """
    found = read_metadata(Path(metadata), split)
    if kept is not None:
        found = _select(found, kept)
        if not found.image_ids:
            raise SplitMissingError(
                f"{metadata}: split {split!r} has no image of the {len(kept)} classes that are there"
            )
    check_positions(found.labels, found.image_ids, class_names, Path(metadata) / FOLDERS[split] / _LABELS)
    return FileSource(
        folder, found.image_ids, found.labels, class_names, boxes=found.boxes, sizes=found.sizes, **options
    )


def _select(found: Metadata, kept: Sequence[int]) -> Metadata:
    """Return the images of some classes, numbered in the order of ``kept``."""
    position = {label: new for new, label in enumerate(kept)}
    indices = [index for index, label in enumerate(found.labels) if label in position]
    return Metadata(
        [found.image_ids[index] for index in indices],
        [position[found.labels[index]] for index in indices],
        {new: found.sizes[index] for new, index in enumerate(indices) if index in found.sizes},
        BoxTable.from_lists([found.boxes.of(index).tolist() for index in indices]),
    )


def read_mask_metadata(folder: Path, split: str) -> MaskMetadata:
    """Read ``folder / {train, val, test}`` of a data set with masks.

    As :func:`read_metadata`, but without sizes, and ``localization.txt`` holds ``id,mask file,ignore file``; an image's
    further lines end in a comma. The masks of ``train_weaksup`` are not read.

    Raises:
        DataError: as :func:`read_metadata`, and if an image has no mask or two ignore files.
    """
    folder = folder / FOLDERS[split]
    faults = Faults()
    image_ids, labels, position = _read_classes(folder, split, faults)
    if split == "train_weaksup":
        faults.raise_any()
        return MaskMetadata(image_ids, labels, [], [])
    masks: list[list[str]] = [[] for _ in image_ids]
    ignored: list[str | None] = [None] * len(image_ids)
    file, listed = folder / "localization.txt", set()
    for number, line in _lines(file, "an image id, a mask file and an ignore file per line", faults):
        where = f"{file}, line {number}"
        image_id, *files = line.rsplit(",", 2)
        index = position.get(image_id)
        listed.add(index)
        if len(files) != 2:
            faults.add(f"{where}: expected an image id, a mask file and an ignore file, got {line!r}")
        elif index is None:
            faults.add(f"{where}: {image_id} is not in image_ids.txt")
        else:
            with faults.taken():
                masks[index].append(relative_path(files[0], where))
                if files[1] and ignored[index] is not None:
                    raise DataError(f"{where}: a second ignore file for {image_id}")
                ignored[index] = relative_path(files[1], where) if files[1] else ignored[index]
    for image_id, index in position.items():
        if index not in listed:
            faults.add(f"{file}: no mask for image {image_id}")
    faults.raise_any()
    return MaskMetadata(image_ids, labels, masks, ignored)


def _read_classes(folder: Path, split: str, faults: Faults) -> tuple[list[str], list[int], dict[str, int]]:
    """Read image ids, their labels, and the position of each id; what is wrong with labels goes to ``faults``.

    Raises:
        SplitMissingError: if there is no such folder.
        DataError: if the ids are missing or wrong: the other files speak of them.
    """
    if not folder.is_dir():
        raise SplitMissingError(f"{folder}: no such folder; it holds the lists of split {split!r}")
    ids_file, file = folder / "image_ids.txt", folder / _LABELS
    lines: dict[str, int] = {}
    for number, line in _lines(ids_file, "one image id per line", faults):
        first = lines.setdefault(line, number)
        if first != number:
            faults.add(f"{ids_file}, line {number}: {line} is listed in line {first} already; remove one of them")
        with faults.taken():
            relative_path(line, f"{ids_file}, line {number}")
    if not lines and not faults:
        faults.add(f"{ids_file}: empty; split {split!r} needs one image id per line")
    faults.raise_any()
    position = {image_id: index for index, image_id in enumerate(lines)}
    labels: dict[int, int] = {}
    for index, values in _rows(file, position, 1, faults, once=True):
        labels[index] = values[0] if values else 0
        if not 0 <= labels[index] < MAX_POSITION:
            faults.add(f"{file}: {list(lines)[index]}: labels are whole numbers from 0, got {labels[index]}")
    for image_id, index in position.items():
        if index not in labels:
            faults.add(f"{file}: no label for image {image_id}")
    return list(lines), [labels.get(index, 0) for index in position.values()], position


def _lines(file: Path, purpose: str, faults: Faults) -> list[tuple[int, str]]:
    """Read the numbered lines of a file; none of one that cannot be read, which goes to ``faults``."""
    lines: list[tuple[int, str]] = []
    with faults.taken():
        lines = numbered_lines(file, purpose)
    return lines


def _rows(
    file: Path, position: dict[str, int], count: int, faults: Faults, *, once: bool = False
) -> Iterator[tuple[int, list[int]]]:
    """Yield (index of the image, its ``count`` whole numbers) for each line; ``once`` allows an image one line.

    What is wrong goes to ``faults``; a line of which no more than the image is known has no numbers.
    """
    lines: dict[str, int] = {}
    for number, line in _lines(file, f"an image id and {count} whole numbers per line", faults):
        image_id, *words = line.rsplit(",", count)
        try:
            values = [int(word) for word in words]
        except ValueError:
            values = []
        if len(values) != count:
            values, fault = [], f"expected an image id and {count} whole numbers, got {line[:80]!r}"
        elif image_id not in position:
            fault = f"{image_id} is not in image_ids.txt"
        elif once and lines.setdefault(image_id, number) != number:
            fault = f"{image_id} is listed in line {lines[image_id]} already; remove one of them"
        else:
            fault = ""
        if fault:
            faults.add(f"{file}, line {number}: {fault}")
        if image_id in position:
            yield position[image_id], values
