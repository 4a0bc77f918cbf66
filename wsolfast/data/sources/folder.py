"""``folder``: images of one's own, described by a CSV with one row per box.

Columns: ``image`` (path below the root), ``split`` (train, val, test), ``class_id`` (0-based) or ``class_name`` or
both, ``x0,y0,x1,y1`` (pixels of the upright image, x1/y1 exclusive; needed for val and test only), and if there
``width,height`` and ``mask`` (path below the root). An image with several boxes has several rows.

COCO files are read too: ``annotations="instances_{split}.json", images="{split}2017"``, where ``{split}`` becomes
train, val or test. An image then has the class of its objects, which must agree.
"""

import csv
from pathlib import Path

from wsolfast.data._base import BoxTable
from wsolfast.data._files import FileSource, ImageRecord, relative_path
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import DataError
from wsolfast.data.images.decode import Decoder
from wsolfast.data.sources._coco import read_coco

LAYOUT = """\
annotations.csv     image,class_id,class_name,width,height,x0,y0,x1,y1,split,mask
                    images/a.jpg,0,ant,40,30,1,2,10.5,20,train,
                    images/b.jpg,1,bee,40,30,5,5,6,6,test,masks/b.png
images/a.jpg        (one row per box; split is train, val or test)"""
SPLIT_NAMES = {"train": "train_weaksup", "val": "train_fullsup", "test": "test"}
_BOX = ("x0", "y0", "x1", "y1")


def open_source(
    root: Path,
    split: str,
    *,
    annotations: str = "annotations.csv",
    images: str = "",
    decoder: Decoder = "auto",
    orient: bool = True,
) -> FileSource:
    """Open the images of ``split``.

    Args:
        root: the folder of everything.
        split: which images.
        annotations: a CSV or COCO file below ``root``; ``{split}`` in it becomes train, val or test.
        images: the folder below ``root`` where image paths start, with the same ``{split}``.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
    """
    file = root / _below(annotations, split, "annotations")
    folder = root / _below(images, split, "images") if images else root
    with_boxes = split != "train_weaksup"
    if file.suffix == ".json":
        listed, names = read_coco(file, split, with_boxes)
    else:
        listed, names = _read(file, with_boxes)
    chosen = {image_id: image for image_id, image in listed.items() if image.split == split}
    if not chosen:
        counts = {name: sum(image.split == name for image in listed.values()) for name in SPLIT_NAMES.values()}
        there = ", ".join(f"{name} ({count})" for name, count in counts.items() if count) or "no image at all"
        raise DataError(f"{file}: split {split!r} is empty; the file has {there}")
    records = list(chosen.values())
    return FileSource(
        folder,
        list(chosen),
        [names.index(image.label) if isinstance(image.label, str) else image.label for image in records],
        names,
        boxes=BoxTable.from_lists([image.boxes for image in records]),
        sizes={i: image.size for i, image in enumerate(records) if image.size},
        masks={i: image.mask for i, image in enumerate(records) if image.mask and split != "train_weaksup"},
        mask_folder=root,
        decoder=decoder,
        orient=orient,
    )


def _below(pattern: str, split: str, option: str) -> str:
    short = next(name for name, long in SPLIT_NAMES.items() if long == split)
    return relative_path(pattern.replace("{split}", short), option)


def _read(file: Path, with_boxes: bool) -> tuple[dict[str, ImageRecord], list[str]]:
    images: dict[str, ImageRecord] = {}
    names: dict[int, str] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = set(reader.fieldnames or ())
            missing = [name for name in ("image", "split") if name not in columns]
            if missing or not columns & {"class_id", "class_name"}:
                wanted = "image, split, class_id or class_name, x0, y0, x1, y1"
                raise DataError(f"{file}: the header lacks {', '.join(missing) or 'class_id'}; expected {wanted}")
            for row in reader:
                _add(row, f"{file}, line {reader.line_num}", images, names, with_boxes)
    except FileNotFoundError:
        raise DataError(f"{file}: missing; 'folder' data needs this CSV (image,class_id,split,x0,y0,x1,y1)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as CSV ({error})") from error
    if "class_id" in columns:
        return images, [names.get(k) or f"class {k}" for k in range(max(names, default=-1) + 1)]
    return images, sorted({str(image.label) for image in images.values()})


def _add(row: dict, where: str, images: dict[str, ImageRecord], names: dict[int, str], with_boxes: bool) -> None:
    if None in row or None in row.values():
        raise DataError(f"{where}: the row does not have as many fields as the header")
    image_id = relative_path(row["image"], where)
    split = SPLIT_NAMES.get(row["split"], row["split"])
    if split not in SPLIT_NAMES.values():
        raise DataError(f"{where}: split is train, val or test, got {row['split']!r}")
    mask = relative_path(row["mask"], where) if row.get("mask") else None
    image = ImageRecord(_label(row, where, names), split, _size(row, where), mask)
    known = images.setdefault(image_id, image)
    if (known.label, known.split) != (image.label, image.split):
        here, above = (f"class {each.label} of {each.split}" for each in (image, known))
        raise DataError(f"{where}: {image_id} is {here} here and {above} above")
    if with_boxes and split != "train_weaksup" and any(row.get(name) for name in _BOX):
        known.boxes.append(_box(row, where))


def _label(row: dict, where: str, names: dict[int, str]) -> int | str:
    name = row.get("class_name", "")
    if "class_id" not in row:
        if not name:
            raise DataError(f"{where}: class_name is empty")
        return name
    try:
        label = int(row["class_id"])
    except ValueError:
        label = -1
    if label < 0:
        raise DataError(f"{where}: class_id is a whole number from 0, got {row['class_id']!r}")
    if names.setdefault(label, name) != name:
        raise DataError(f"{where}: class {label} is {name!r} here and {names[label]!r} above")
    return label


def _size(row: dict, where: str) -> tuple[int, int] | None:
    if not (row.get("width") and row.get("height")):
        return None
    try:
        size = int(row["width"]), int(row["height"])
    except ValueError:
        size = (0, 0)
    if min(size) < 1:
        raise DataError(f"{where}: width and height are positive whole numbers, got {row['width']}, {row['height']}")
    return size


def _box(row: dict, where: str) -> list[float]:
    try:
        box = [float(row[name]) for name in _BOX]
    except (KeyError, ValueError):
        raise DataError(f"{where}: x0, y0, x1, y1 are numbers, got {[row.get(name) for name in _BOX]}") from None
    if not (0 <= box[0] < box[2] < float("inf") and 0 <= box[1] < box[3] < float("inf")):
        raise DataError(f"{where}: a box is 0 <= x0 < x1 and 0 <= y0 < y1 (x1, y1 exclusive), got {box}")
    return box


SPEC = SourceSpec(open_source, layout=LAYOUT)
