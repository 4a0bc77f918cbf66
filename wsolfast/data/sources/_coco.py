"""COCO detection files as single-label data: one class per image, its boxes."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from wsolfast.data._classes import ClassTable
from wsolfast.data._files import ImageList, ImageRecord, relative_path
from wsolfast.data.errors import DataError, Faults


def read_coco(file: Path, split: str, with_boxes: bool) -> ImageList:
    """Read the images of a COCO file by path, and the names of its categories in the order of their ids.

    ``bbox`` is x, y, width, height; crowds are left out, and so are images without an object, which have no label.

    Raises:
        DataError: if the file is not COCO, or an image holds objects of two categories.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        categories = [(category["id"], str(category["name"])) for category in content["categories"]]
        images = [(image["id"], image) for image in content["images"]]
        objects = [item for item in content["annotations"] if not item.get("iscrowd")]
    except FileNotFoundError:
        raise DataError(f"{file}: missing; it is to hold COCO annotations") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file}: not a COCO file with images, annotations and categories ({error!r})") from error
    faults = Faults()
    reading = _Reading(file, split, with_boxes, _by_id(images, file, faults), _classes(categories, file, faults))
    # Objects speak of both.
    faults.raise_any()
    for item in objects:
        with faults.taken():
            reading.add(item)
    faults.raise_any()
    return ImageList(reading.records, reading.classes.class_names)


def _classes(categories: list[tuple[Any, str]], file: Path, faults: Faults) -> ClassTable:
    classes = ClassTable()
    for identity, name in categories:
        if type(identity) is not int:
            faults.add(f"{file}: the id of category {name!r} is a whole number, got {str(identity)[:40]!r}")
            continue
        with faults.taken():
            classes.add(identity, name, f"{file}, categories")
    return classes


def _by_id(images: list[tuple[Any, dict]], file: Path, faults: Faults) -> dict[int | str, dict]:
    found: dict[int | str, dict] = {}
    for identity, image in images:
        if not isinstance(identity, int | str) or found.setdefault(identity, image) is not image:
            faults.add(f"{file}: the image id {str(identity)[:40]} comes twice, or is no number")
    return found


class _Reading:
    """Images of a COCO file as its annotations come."""

    def __init__(self, file: Path, split: str, with_boxes: bool, images: dict[int | str, dict], classes: ClassTable):
        self.file, self.split, self.with_boxes = file, split, with_boxes
        self.images, self.classes = images, classes
        self.records: dict[str, ImageRecord] = {}
        self._labels = {identity: label for label, identity in enumerate(classes.ids)}
        self._ids: dict[str, int | str] = {}
        self._seen: dict[tuple, Any] = {}

    def add(self, item: dict) -> None:
        """Take an annotation.

        Raises:
            DataError: if it is malformed, or contradicts another one.
        """
        where = f"{self.file}, annotation {item.get('id')}"
        identity, category = item.get("image_id"), item.get("category_id")
        if not isinstance(identity, int | str) or identity not in self.images or not isinstance(category, int):
            raise DataError(f"{where}: its image or category is not in the file")
        if category not in self._labels:
            raise DataError(f"{where}: its image or category is not in the file")
        image = self.images[identity]
        path = str(PurePosixPath(relative_path(str(image.get("file_name", "")), where)))
        label = self._labels[category]
        record = self.records.setdefault(path, ImageRecord(label, self.split, _size(image, where)))
        if self._ids.setdefault(path, identity) != identity:
            raise DataError(f"{where}: {path} has the image ids {self._ids[path]} and {identity}")
        if record.label != label:
            both = " and ".join(self.classes.class_names[k] for k in (record.label, label))
            raise DataError(f"{where}: {path} shows {both}; an image has one class here, so split or drop it")
        if self.with_boxes:
            box = _corners(item.get("bbox"), where)
            first = self._seen.setdefault((path, *box), item.get("id"))
            if box in record.boxes:
                raise DataError(f"{where}: repeats annotation {first} of {path}; remove one of them")
            record.boxes.append(box)


def _size(image: dict, where: str) -> tuple[int, int] | None:
    if "width" not in image or "height" not in image:
        return None
    size = image["width"], image["height"]
    if not all(type(side) is int and side > 0 for side in size):
        raise DataError(f"{where}: width and height of its image are positive whole numbers, got {size}")
    return size


def _corners(box: Any, where: str) -> list[float]:
    numbers = isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)
    if not numbers or not (box[2] > 0 and box[3] > 0) or not all(abs(side) < 1e9 for side in box):
        raise DataError(f"{where}: bbox is [x, y, width, height] with an area, got {str(box)[:80]}")
    x, y, width, height = map(float, box)
    return [x, y, x + width, y + height]
