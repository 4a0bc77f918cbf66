"""Other layouts written as the CSV that the data set ``folder`` reads. Images stay where they are."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsolfast.data._files import FileSource, ImageRecord
from wsolfast.data._source import SPLITS
from wsolfast.data.atomic import write_bytes
from wsolfast.data.errors import DataError, Faults, SplitMissingError
from wsolfast.data.images.decode import image_size
from wsolfast.data.sources import open_source
from wsolfast.data.sources._coco import read_coco
from wsolfast.data.sources._csv import SPLIT_NAMES
from wsolfast.data.sources._shares import assign_splits
from wsolfast.data.sources._voc_xml import read_xml
from wsolfast.data.sources.imagefolder import is_text
from wsolfast.data.tools.look import FoundLayout, annotated_beside, columns_of, look, read_corners

NAME = "annotations.csv"
_SHORT = {long: short for short, long in SPLIT_NAMES.items()}
_SPLITS_OF_TABLES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"} | {
    name: name for name in SPLIT_NAMES
}
_VAL_SHARE, _TEST_SHARE = 0.1, 0.2
_BOX = ("x0", "y0", "x1", "y1")
_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".JPG", ".JPEG")


@dataclass(frozen=True)
class CsvSummary:
    """Outcome of :func:`wsolfast.data.to_csv`."""

    file: Path  # the CSV
    kind: str  # what was read, in words
    images: dict[str, int]  # of each split, train, val or test
    classes: int  # number of classes of all splits
    boxes: int  # number of boxes that were read; those of training images are not written
    remarks: tuple[str, ...]  # what was left out, one line each


@dataclass
class _Row:
    class_name: str
    image: ImageRecord  # its label is not looked at


def to_csv(root: str | Path, found: FoundLayout | None = None) -> CsvSummary:
    """Write ``annotations.csv`` into a folder of images of another layout. Nothing is overwritten.

    Read are class folders, ImageFolder, Pascal VOC, XML files beside images, COCO, CUB's and ImageNet's tree, and
    tables with a column for the image and one for its class. Images without a split are split by the SHA-1 of their
    paths: a tenth of each class becomes val and a fifth test where there are boxes; without boxes all are train.

    Args:
        root: the folder.
        found: what :func:`look` found there; it is called if None.

    Returns:
        CsvSummary: what was read and written.

    Raises:
        DataError: if there is such a file already, nothing that can be read, or a fault in it.
    """
    found = found or look(root)
    root, file = found.root, found.root / NAME
    if found.file == file and found.name is not None:
        raise DataError(f"{root}: the CSV that data.name=folder reads is there; there is nothing to import")
    if file.exists():
        raise DataError(f"{file}: exists and is not replaced; rename it to import the layout anew")
    rows, remarks = _read(found)
    if not rows:
        raise DataError(f"{root}: {found.kind} without an image of a class")
    boxed = any(row.image.boxes for row in rows.values())
    if not all(row.image.split for row in rows.values()):
        splits = _shares(rows, root) if boxed else ["train_weaksup"] * len(rows)
        for row, split in zip(rows.values(), splits, strict=True):
            row.image.split = split
    _look_at_images(root, rows)
    text = "".join(_lines(rows))
    write_bytes(file, lambda stream: stream.write(text.encode()))
    counts = Counter(_SHORT[row.image.split] for row in rows.values())
    return CsvSummary(
        file,
        found.kind,
        {name: counts[name] for name in SPLIT_NAMES if counts[name]},
        len({row.class_name for row in rows.values()}),
        sum(len(row.image.boxes) for row in rows.values()),
        (*found.remarks, *remarks),
    )


def _read(found: FoundLayout) -> tuple[dict[str, _Row], list[str]]:
    """Return the rows by path below the root, and what was left out."""
    if found.name is not None:
        return _of_data_set(found)
    if found.file is None:
        return _of_xml(found.root)
    return (_of_coco if found.file.suffix == ".json" else _of_table)(found.root, found.file)


def _of_data_set(found: FoundLayout) -> tuple[dict[str, _Row], list[str]]:
    rows: dict[str, _Row] = {}
    remarks: list[str] = []
    for split in SPLITS:
        try:
            assert found.name is not None
            source = open_source(found.name, found.root, split, **found.options)
        except SplitMissingError:
            continue
        assert isinstance(source, FileSource)
        if found.name == "voc" and source.has_masks:
            remarks.append(f"{found.root}: masks that number objects are left out; data.name=voc reads them")
        for index, label in enumerate(source.labels.tolist()):
            image = ImageRecord(label, split, source.told_size(index))
            if split != "train_weaksup":
                note = source.annotation(index)
                image.boxes = note.boxes.tolist()
                if note.mask is not None and found.name != "voc":
                    image.masks = [note.mask.relative_to(found.root).as_posix()]
            path = source.path(index).relative_to(found.root).as_posix()
            rows[path] = _Row(source.class_names[label], image)
        remarks += source.remarks
    return rows, list(dict.fromkeys(remarks))


def _of_coco(root: Path, file: Path) -> tuple[dict[str, _Row], list[str]]:
    listed = read_coco(file, "", with_boxes=True)
    first = next(iter(listed.images), "")
    folders = ("", "images", "train", *sorted(place.name for place in root.iterdir() if place.is_dir()))
    place = next((name for name in folders if (root / name / first).is_file()), None)
    if place is None:
        raise DataError(f"{file}: {first} is neither in {root} nor in a folder of it")
    rows = {
        (Path(place) / path).as_posix(): _Row(listed.class_names[image.label], image)
        for path, image in listed.images.items()
    }
    return rows, []


def _of_xml(root: Path) -> tuple[dict[str, _Row], list[str]]:
    pairs = list(annotated_beside(root))
    from_zero, _ = read_corners([note for _, note in pairs])
    rows: dict[str, _Row] = {}
    faults, without, several = Faults(), 0, 0
    for path, note in pairs:
        with faults.taken():
            size, objects = read_xml(note, one_based=not from_zero, empty_ok=True)
            names = {name or "" for name, _ in objects}
            if "" in names:
                raise DataError(f"{note}: an object has no name, which is its class")
            without, several = without + (not names), several + (len(names) > 1)
            if len(names) == 1:
                image = ImageRecord(0, "", size, [box for _, box in objects])
                rows[path.relative_to(root).as_posix()] = _Row(names.pop(), image)
    faults.raise_any()
    told = ((without, "show no object"), (several, "show objects of several classes"))
    return rows, [f"{root}: {count} of {len(pairs)} images {what}; left out" for count, what in told if count]


def _of_table(root: Path, file: Path) -> tuple[dict[str, _Row], list[str]]:
    faults, rows = Faults(), dict[str, _Row]()
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        columns = columns_of(list(reader.fieldnames or ()))
        boxed = set(_BOX) <= columns.keys()
        for given in reader:
            where = f"{file}, line {reader.line_num}"
            row = {ours: (given.get(theirs) or "").strip() for ours, theirs in columns.items()}
            with faults.taken():
                path, split = _path(root, row["image"], where), _split(row.get("split"), where)
                if not row["class_name"]:
                    raise DataError(f"{where}: {columns['class_name']} is empty, which is the class")
                known = rows.setdefault(path, _Row(row["class_name"], ImageRecord(0, split, None)))
                if (known.class_name, known.image.split) != (row["class_name"], split):
                    raise DataError(f"{where}: {path} has another class or split above; an image has one")
                if boxed and any(row[name] for name in _BOX):
                    known.image.boxes.append(_box([row[name] for name in _BOX], where))
                if row.get("mask"):
                    known.image.masks.append(row["mask"])
    faults.raise_any()
    return rows, []


def _path(root: Path, text: str, where: str) -> str:
    """Return the path of an image that a table names, which may leave out a folder or the suffix."""
    for folder in ("", "images/", "train/"):
        for suffix in _SUFFIXES:
            if text and ".." not in Path(text).parts and (root / f"{folder}{text}{suffix}").is_file():
                return f"{folder}{text}{suffix}".removeprefix("./")
    raise DataError(f"{where}: no image {text!r} below {root}")


def _split(text: str | None, where: str) -> str:
    if text is None:
        return ""
    if text.lower() not in _SPLITS_OF_TABLES:
        raise DataError(f"{where}: split is train, val or test, got {text!r}")
    return SPLIT_NAMES[_SPLITS_OF_TABLES[text.lower()]]


def _box(values: list[str], where: str) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError:
        raise DataError(f"{where}: a box is four numbers, got {', '.join(values)}") from None


def _shares(rows: dict[str, _Row], root: Path) -> list[str]:
    names = sorted({row.class_name for row in rows.values()})
    labels = [names.index(row.class_name) for row in rows.values()]
    return assign_splits(list(rows), labels, _VAL_SHARE, _TEST_SHARE, str(root))


def _look_at_images(root: Path, rows: dict[str, _Row]) -> None:
    """Add the sizes that nobody told."""
    faults = Faults()
    for path, row in rows.items():
        with faults.taken():
            if not is_text(path):
                raise DataError(f"{root}: the name of {os.fsencode(path)!r} is not UTF-8; rename it")
            row.image.size = row.image.size or image_size(root / path)
    faults.raise_any()


def _lines(rows: dict[str, _Row]) -> Iterator[str]:
    """Yield the lines of the CSV. A training image has no box there, since nothing may look at it."""
    boxed = any(row.image.boxes and row.image.split != "train_weaksup" for row in rows.values())
    masked = any(row.image.masks for row in rows.values())
    header = [
        "image",
        "class_name",
        "width",
        "height",
        "split",
        *(_BOX if boxed else ()),
        *(["mask"] if masked else ()),
    ]
    yield _line(header)
    for path, row in rows.items():
        image = row.image
        start = [path, row.class_name, *map(str, image.size or ()), _SHORT[image.split]]
        boxes = image.boxes if boxed and image.split != "train_weaksup" else []
        for k in range(max(1, len(boxes), len(image.masks))):
            cells = [f"{edge:.10g}" for edge in boxes[k]] if k < len(boxes) else [""] * 4
            mask = [image.masks[k] if k < len(image.masks) else ""]
            yield _line([*start, *(cells if boxed else []), *(mask if masked else [])])


def _line(cells: list[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue()
