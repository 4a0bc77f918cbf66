"""A CSV with one row per box, as the data set ``folder`` reads it."""

import csv
import difflib
import re
from pathlib import Path, PurePosixPath

from wsolfast.data._classes import ClassTable
from wsolfast.data._files import ImageList, ImageRecord, relative_path
from wsolfast.data.errors import DataError, Faults

SPLIT_NAMES = {"train": "train_weaksup", "val": "train_fullsup", "test": "test"}
_BOX = ("x0", "y0", "x1", "y1")
_COLUMNS = ("image", "split", "class_id", "class_name", "width", "height", "mask", *_BOX)
_OTHER_NAMES = {"xmin": "x0", "ymin": "y0", "xmax": "x1", "ymax": "y1"}
_MAX_DIGITS = 18  # of a 64-bit integer


def read_csv(file: Path, with_boxes: bool) -> ImageList:
    """Read the images of all splits by path. The classes are those that occur, in the order of their ids or names.

    Raises:
        DataError: if the file is missing or no such CSV, or a row contradicts itself or another.
    """
    images: dict[str, ImageRecord] = {}
    classes, faults = ClassTable(), Faults()
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or ())
            _check_columns(columns, file)
            lines: dict[tuple, int] = {}
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                first = lines.setdefault(_meaning(row), reader.line_num)
                with faults.taken():
                    if first != reader.line_num:
                        raise DataError(f"{where}: repeats line {first}; remove one of them")
                    _add(row, where, images, classes, with_boxes)
    except FileNotFoundError:
        raise DataError(f"{file}: missing; 'folder' data needs this CSV (image,class_id,split,x0,y0,x1,y1)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as CSV ({error})") from error
    faults.raise_any()
    named = "class_id" not in columns
    ids = sorted(classes.ids, key=classes.names.__getitem__) if named else classes.ids
    position = {class_id: label for label, class_id in enumerate(ids)}
    for image in images.values():
        image.label = position[image.label]
    names, annotated = [classes.name(class_id) for class_id in ids], bool({"x0", "mask"} & set(columns))
    return ImageList(images, names, None if named else ids, annotated)


def _meaning(row: dict) -> tuple:
    """Return what two rows have in common that say the same: 8 and 8.0 are one number, a.jpg and ./a.jpg one image."""
    return tuple(_value(name, str(value)) for name, value in row.items())


def _value(column: str | None, text: str) -> object:
    if column == "image":
        return PurePosixPath(text)
    if column in ("class_id", "width", "height"):
        whole = _whole(text)
        return text if whole is None else whole
    try:
        return float(text) if column in _BOX else text
    except ValueError:
        return text


def _check_columns(columns: list[str], file: Path) -> None:
    """Refuse a header that lacks a column, has one twice, or has one under a name that is nearly right."""
    there = set(columns)
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{file}: the column {twice!r} comes twice")
    absent = [name for name in _COLUMNS if name not in there]
    for name in columns:
        plain = "".join(filter(str.isalnum, name)).lower()
        meant = _OTHER_NAMES.get(plain) or next((one for one in absent if one.replace("_", "") == plain), None)
        near = [meant] if meant else difflib.get_close_matches(name, absent, n=1, cutoff=0.8)
        if name not in _COLUMNS and near and near[0] in absent:
            raise DataError(f"{file}: unknown column {name!r}; did you mean {near[0]!r}?")
    missing = [name for name in ("image", "split") if name not in there]
    missing += [] if there & {"class_id", "class_name"} else ["class_id"]
    for together in (_BOX, ("width", "height")):
        if there & set(together):
            missing += [name for name in together if name not in there]
    if missing:
        wanted = "image, split, class_id or class_name, x0, y0, x1, y1"
        raise DataError(f"{file}: the header lacks {', '.join(missing)}; expected {wanted}")


def _add(row: dict, where: str, images: dict[str, ImageRecord], classes: ClassTable, with_boxes: bool) -> None:
    if None in row or None in row.values():
        raise DataError(f"{where}: the row does not have as many fields as the header")
    image_id = str(PurePosixPath(relative_path(row["image"], where)))
    split = SPLIT_NAMES.get(row["split"], row["split"])
    if split not in SPLIT_NAMES.values():
        raise DataError(f"{where}: split is train, val or test, got {row['split']!r}")
    image = ImageRecord(_label(row, where, classes), split, _size(row, where))
    known = images.setdefault(image_id, image)
    if (known.label, known.split) != (image.label, image.split):
        titles = classes.names if "class_id" not in row else {}
        here, above = (f"class {titles.get(one.label, one.label)} of {one.split}" for one in (image, known))
        raise DataError(f"{where}: {image_id} is {here} here and {above} above")
    if known.size and image.size and known.size != image.size:
        raise DataError(f"{where}: {image_id} is {_by(image.size)} here and {_by(known.size)} above")
    known.size = known.size or image.size
    mask = relative_path(row["mask"], where) if row.get("mask") else None
    if mask and mask not in known.masks:
        known.masks.append(mask)
    if split != "train_weaksup" and any(row.get(name) for name in _BOX):
        # Looked at for training, too, which would else succeed and leave the fault to the evaluation.
        box = _box(row, where)
        if with_boxes:
            known.boxes.append(box)


def _label(row: dict, where: str, classes: ClassTable) -> int:
    """Return the id of a row's class; where there are names alone, they get ids as they come."""
    name = row.get("class_name", "")
    if "class_id" not in row:
        if not name:
            raise DataError(f"{where}: class_name is empty")
        return classes.add_name(name)
    label = _whole(row["class_id"])
    if label is None:
        raise DataError(f"{where}: class_id is a whole number from 0, got {row['class_id'][:40]!r}")
    classes.add(label, name, where)
    return label


def _size(row: dict, where: str) -> tuple[int, int] | None:
    if not (row.get("width") and row.get("height")):
        return None
    width, height = _whole(row["width"]), _whole(row["height"])
    if not (width and height):
        raise DataError(f"{where}: width and height are positive whole numbers, got {row['width']}, {row['height']}")
    return width, height


def _whole(text: str) -> int | None:
    """Return a whole number from 0, also as tables with gaps write it, 48.0; None if the text is none."""
    digits = re.fullmatch(r"([0-9]+)(\.0*)?", text.strip())
    return int(digits[1]) if digits and len(digits[1]) <= _MAX_DIGITS else None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _box(row: dict, where: str) -> list[float]:
    try:
        box = [float(row[name]) for name in _BOX]
    except (KeyError, ValueError):
        raise DataError(f"{where}: x0, y0, x1, y1 are numbers, got {[row.get(name) for name in _BOX]}") from None
    if not (0 <= box[0] < box[2] < float("inf") and 0 <= box[1] < box[3] < float("inf")):
        raise DataError(f"{where}: a box is 0 <= x0 < x1 and 0 <= y0 < y1 (x1, y1 exclusive), got {box}")
    return box
