"""A look at a folder of images: which data set reads it as it is, or what has to be imported first."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsolfast.data._files import glob_files, is_stray, listed_folders
from wsolfast.data.errors import DataError, Faults
from wsolfast.data.sources._voc_xml import read_xml
from wsolfast.data.sources.imagefolder import SPLIT_FOLDERS, is_image, split_folders

# Columns of other people's tables, by ours.
COLUMNS = {
    "image": ("image", "filename", "file_name", "file", "path", "image_path", "img", "image_id", "id"),
    "class_name": ("class_name", "class", "label", "category", "species", "breed", "target"),
    "split": ("split", "set", "subset", "fold"),
    "x0": ("x0", "xmin", "x_min"),
    "y0": ("y0", "ymin", "y_min"),
    "x1": ("x1", "xmax", "x_max"),
    "y1": ("y1", "ymax", "y_max"),
    "width": ("width",),
    "height": ("height",),
    "mask": ("mask",),
}
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "img", "imgs")
_MASK_FOLDERS = ("masks", "mask", "segmentations")
# Folders that hold images of all classes.
_NO_CLASSES = {
    *(name for names in SPLIT_FOLDERS.values() for name in names),
    *(name.lower() for name in (*_IMAGE_FOLDERS, *_MASK_FOLDERS)),
    "labels",
    "annotations",
    "photos",
    "pictures",
}
# Where masks say that there is something to measure.
_VAL_SHARE, _TEST_SHARE = 0.1, 0.2


@dataclass(frozen=True)
class FoundLayout:
    """Layout of a folder of images, as :func:`look` finds it."""

    root: Path  # where the data lies: the folder, or the only one in it
    kind: str  # in words
    name: str | None  # the data set that reads it as it is; None where it is to be imported
    options: dict[str, Any] = field(default_factory=dict)  # of that data set
    file: Path | None = None  # the one that is to be imported, where it is one file
    remarks: tuple[str, ...] = ()  # what is odd about it, one line each


def look(root: str | Path) -> FoundLayout:
    """Say what lies in a folder of images.

    Args:
        root: the folder.

    Returns:
        FoundLayout: the data set that reads it, with its options.

    Raises:
        DataError: if there is no folder, no image, or nothing that tells classes; the message says what to do.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    for finder in (_cub, _ilsvrc, _csv, _coco, _voc, _yolo, _classes, _xml_beside):
        found = finder(root)
        if found is not None:
            return found
    if any(is_image(entry.name) for entry in root.iterdir()):
        raise _no_classes(root, root)
    raise DataError(f"{root}: no image in it; expected {root}/CLASS/IMAGE.jpg, or boxes as COCO, Pascal VOC or a CSV")


def _no_classes(folder: Path, root: Path) -> DataError:
    return DataError(
        f"{folder}: images and nothing that tells their classes; put the images of each class into a folder of its own "
        f"({folder}/CLASS/IMAGE.jpg), or write a table {root}/annotations.csv with the columns image, class_name, split"
    )


def _cub(root: Path) -> FoundLayout | None:
    if all((root / name).is_file() for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")):
        return FoundLayout(root, "CUB-200-2011", "cub", {"val_per_class": 5})
    return None


def _ilsvrc(root: Path) -> FoundLayout | None:
    if any((root / place / "Annotations" / "CLS-LOC").is_dir() for place in (".", "ILSVRC")):
        return FoundLayout(root, "ImageNet", "ilsvrc")
    return None


def _csv(root: Path) -> FoundLayout | None:
    ours, others = [], []
    for file in glob_files(root, "*.csv"):
        header = _header(file)
        if {"image", "split"} <= set(header) and {"class_id", "class_name"} & set(header):
            ours.append(file)
        elif columns_of(header).keys() >= {"image", "class_name"}:
            others.append(file)
    if not ours and not others:
        return None
    tables = ours or others
    if len(tables) > 1 and root / "annotations.csv" not in tables:
        names = ", ".join(file.name for file in tables[:3])
        raise DataError(f"{root}: {len(tables)} tables tell images and classes ({names}); join them in annotations.csv")
    file = root / "annotations.csv" if root / "annotations.csv" in tables else tables[0]
    if not ours:
        return FoundLayout(root, f"a table, {file.name}", None, file=file)
    options = {} if file.name == "annotations.csv" else {"annotations": file.name}
    return FoundLayout(root, f"a table, {file.name}", "folder", options, file)


def _header(file: Path) -> list[str]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            return next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def columns_of(header: list[str]) -> dict[str, str]:
    """Return the column of a table for each of ours that it has, under any of its names."""
    plain = {name.strip().lower(): name for name in reversed(header)}
    return {
        ours: plain[known] for ours, names in COLUMNS.items() if (known := next((n for n in names if n in plain), None))
    }


def _coco(root: Path) -> FoundLayout | None:
    files = [file for file in (*glob_files(root, "*.json"), *glob_files(root, "annotations/*.json")) if _is_coco(file)]
    if not files:
        return None
    training = [file for file in files if "train" in file.name]
    others = {name: file for file in files for name in ("val", "test") if name in file.name}
    for file in training:
        pattern = file.relative_to(root).as_posix().replace("train", "{split}")
        if all(root / pattern.replace("{split}", name) == other for name, other in others.items()) and others:
            places = ("{split}", "{split}2017", "images/{split}", "images/{split}2017", "images", "")
            place = next((one for one in places if _holds_first(root / one.replace("{split}", "train"), file)), None)
            if place is None:
                raise DataError(f"{file}: its images are neither in {root}/train nor in {root}/images")
            return FoundLayout(root, "COCO", "folder", {"annotations": pattern, "images": place}, file)
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise DataError(f"{root}: {len(files)} COCO files ({names}); name them alike, such as train.json and test.json")
    return FoundLayout(root, f"COCO, {files[0].name}", None, file=files[0])


def _is_coco(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _holds_first(folder: Path, file: Path) -> bool:
    images = json.loads(file.read_text(encoding="utf-8-sig"))["images"]
    return bool(images) and (folder / str(images[0].get("file_name", ""))).is_file()


def _voc(root: Path) -> FoundLayout | None:
    folder = next((root / name for name in ("Annotations", "annotations", "xml") if (root / name).is_dir()), None)
    files = [] if folder is None else glob_files(folder, "*.xml")
    if folder is None or not files:
        return None
    images = next((name for name in _IMAGE_FOLDERS if (root / name).is_dir()), None)
    if images is None:
        raise DataError(
            f"{root}: {folder.name} has XML files, and no folder {' or '.join(_IMAGE_FOLDERS[:2])} is there"
        )
    options: dict[str, Any] = {"images": images} if images != "JPEGImages" else {}
    options |= {"annotations": folder.name} if folder.name != "Annotations" else {}
    corners, several = read_corners(files)
    options |= {"one_based": False} if corners else {}
    remarks = []
    if several:
        options["mixed"] = "leave_out"
        remarks.append(f"{several} of {len(files)} images show objects of several classes; they are left out")
    masks = next((name for name in ("SegmentationObject", "SegmentationClass") if (root / name).is_dir()), None)
    options |= {"masks": masks} if masks else {}
    return FoundLayout(root, "Pascal VOC", "voc", options, remarks=tuple(remarks))


def read_corners(files: list[Path]) -> tuple[bool, int]:
    """Return whether a corner of a box is at 0, so that pixels count from 0, and how many images show several classes.

    Raises:
        DataError: names up to twenty files that cannot be read.
    """
    faults, from_zero, several = Faults(), False, 0
    for file in files:
        with faults.taken():
            _, objects = read_xml(file, one_based=None, empty_ok=True)
            from_zero = from_zero or any(min(box[:2]) < 1 for _, box in objects)
            several += len({name for name, _ in objects}) > 1
    faults.raise_any()
    return from_zero, several


def _yolo(root: Path) -> FoundLayout | None:
    if (root / "images").is_dir() and (root / "labels").is_dir() and next((root / "labels").rglob("*.txt"), None):
        raise DataError(
            f"{root}: labels/*.txt of YOLO have no names of classes and are not read; export COCO or VOC XML"
        )
    return None


def _classes(root: Path) -> FoundLayout | None:
    masks = next((name for name in _MASK_FOLDERS if (root / name).is_dir() and listed_folders(root / name)), "")
    if split_folders(root, masks):
        return FoundLayout(root, "ImageFolder", "imagefolder", {"masks": masks} if masks else {})
    places = [place for place in listed_folders(root) if place.name != masks and _holds_image(place)]
    if len(places) == 1:
        inside = [place for place in listed_folders(places[0]) if _holds_image(place)]
        if len(inside) > 1:
            return look(places[0])
    if not places or next(annotated_beside(root), None):
        return None
    if all(place.name.lower() in _NO_CLASSES for place in places):
        raise _no_classes(places[0], root)
    shares = {"masks": masks, "val_share": _VAL_SHARE, "test_share": _TEST_SHARE}
    return FoundLayout(root, "class folders", "imagefolder", shares if masks else {})


def _holds_image(folder: Path) -> bool:
    return any(is_image(path.name) for path in folder.rglob("*"))


def _xml_beside(root: Path) -> FoundLayout | None:
    return FoundLayout(root, "XML files beside images", None) if next(annotated_beside(root), None) else None


def annotated_beside(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each image with an XML file of its name beside it, at any depth, and that file."""
    for parent, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_stray(name))
        there = set(files)
        for name in sorted(filter(is_image, files)):
            note = Path(name).with_suffix(".xml").name
            if note in there:
                yield Path(parent, name), Path(parent, note)
