"""COCO detection files as single-label data: one class per image, its boxes."""

import json
from pathlib import Path
from typing import Any

from wsolfast.data._classes import ClassTable
from wsolfast.data._files import ImageList, ImageRecord, relative_path
from wsolfast.data.errors import DataError


def read_coco(file: Path, split: str, with_boxes: bool) -> ImageList:
    """Read the images of a COCO file by path, and the names of its categories in the order of their ids.

    ``bbox`` is x, y, width, height; crowds are left out, and so are images without an object, which have no label.

    Raises:
        DataError: if the file is not COCO, or an image holds objects of two categories.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = [(category["id"], str(category["name"])) for category in content["categories"]]
        images: dict[Any, dict] = {}
        for image in content["images"]:
            if images.setdefault(image["id"], image) is not image:
                raise DataError(f"{file}: the image id {image['id']} comes twice")
        objects = [item for item in content["annotations"] if not item.get("iscrowd")]
    except FileNotFoundError:
        raise DataError(f"{file}: missing; it is to hold COCO annotations") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: not a COCO file with images, annotations and categories ({error!r})") from error
    classes = ClassTable()
    for identity, name in categories:
        if type(identity) is not int:
            raise DataError(f"{file}: the id of category {name!r} is a whole number, got {str(identity)[:40]!r}")
        classes.add(identity, name, f"{file}, categories")
    names = classes.names
    order = {identity: label for label, identity in enumerate(sorted(names))}
    records: dict[str, ImageRecord] = {}
    ids: dict[str, Any] = {}
    seen: dict[tuple, Any] = {}
    for item in objects:
        where = f"{file}, annotation {item.get('id')}"
        image = images.get(item.get("image_id"))
        if image is None or item.get("category_id") not in order:
            raise DataError(f"{where}: its image or category is not in the file")
        path = relative_path(str(image.get("file_name", "")), where)
        label = order[item["category_id"]]
        record = records.setdefault(path, ImageRecord(label, split, _size(image, where)))
        if ids.setdefault(path, item["image_id"]) != item["image_id"]:
            raise DataError(f"{where}: {path} has the image ids {ids[path]} and {item['image_id']}")
        if record.label != label:
            both = " and ".join(names[sorted(names)[int(k)]] for k in (record.label, label))
            raise DataError(f"{where}: {path} shows {both}; an image has one class here, so split or drop it")
        if with_boxes:
            box = _corners(item.get("bbox"), where)
            first = seen.setdefault((path, *box), item.get("id"))
            if box in record.boxes:
                raise DataError(f"{where}: repeats annotation {first} of {path}; remove one of them")
            record.boxes.append(box)
    return ImageList(records, classes.class_names)


def _size(image: dict, where: str) -> tuple[int, int] | None:
    if "width" not in image or "height" not in image:
        return None
    size = image["width"], image["height"]
    if not all(isinstance(side, int) and side > 0 for side in size):
        raise DataError(f"{where}: width and height of its image are positive whole numbers, got {size}")
    return size


def _corners(box: Any, where: str) -> list[float]:
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
    if not numbers or not (box[2] > 0 and box[3] > 0):
        raise DataError(f"{where}: bbox is [x, y, width, height] with an area, got {box}")
    x, y, width, height = map(float, box)
    return [x, y, x + width, y + height]
