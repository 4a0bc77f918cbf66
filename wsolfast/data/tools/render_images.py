"""A few rendered images in the layouts that people have, to try the first steps without data of one's own."""

import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from PIL import Image

from wsolfast.data.atomic import write_bytes
from wsolfast.data.sources import synthetic
from wsolfast.data.sources._voc_xml import xml_text
from wsolfast.data.tools._claim import claim

ImageLayout = Literal["classes", "voc", "coco"]
_SETTINGS = ".wsolfast-images.json"


def render_images(
    root: str | Path,
    *,
    layout: ImageLayout = "classes",
    images: int = 40,
    classes: int = 4,
    size: int = 96,
    world: int = 0,
) -> int:
    """Write rendered animals as JPEG files. Called again with the same settings it writes the same files.

    Args:
        root: a new or empty folder, or one of an earlier call with the same settings.
        layout: ``"classes"``: a folder per class; ``"voc"``: JPEGImages and Annotations; ``"coco"``: images and
            instances.json. Only the latter two have boxes.
        images: number of images, spread over the classes.
        classes: 2 to 32.
        size: side of the square images, at least 32 px.
        world: seed of the images.

    Returns:
        Number of images.

    Raises:
        DataError: if the folder holds anything else.
        ValueError: for a number out of range.
    """
    root = Path(root)
    source = synthetic.open_source(None, "test", num_classes=classes, size=size, num_test=images, world=world)
    claim(root, _SETTINGS, {"layout": layout, "images": images, "classes": classes, "size": size, "world": world})
    for path, content in _files(source, layout):
        write_bytes(root / path, partial(_put, content), durable=False)
    return images


def _put(content: bytes, stream: BinaryIO) -> None:
    stream.write(content)


def _files(source: synthetic.SyntheticSource, layout: ImageLayout) -> Iterator[tuple[str, bytes]]:
    folder = {"classes": "", "voc": "JPEGImages/", "coco": "images/"}[layout]
    boxes = []
    for index, label in enumerate(source.labels.tolist()):
        name, (pixels, box) = source.class_names[label], source.scene(index)
        stem = f"{index:04d}"
        path = f"{name}/{stem}.jpg" if layout == "classes" else f"{folder}{stem}.jpg"
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="JPEG", quality=90)
        yield path, stream.getvalue()
        boxes.append(box)
        if layout == "voc":
            height, width = pixels.shape[:2]
            # From the first to the last pixel, counted from 1.
            corners = box[0] + 1, box[1] + 1, box[2], box[3]
            yield f"Annotations/{stem}.xml", xml_text(f"JPEGImages/{stem}", (width, height), name, corners).encode()
    if layout == "coco":
        yield "instances.json", json.dumps(_coco(source, boxes), indent=1).encode()


def _coco(source: synthetic.SyntheticSource, boxes: list[tuple[int, int, int, int]]) -> dict:
    side = source.read(0).shape[0]
    return {
        "images": [{"id": k, "file_name": f"{k:04d}.jpg", "width": side, "height": side} for k in range(len(boxes))],
        "annotations": [
            {"id": k, "image_id": k, "category_id": int(source.labels[k]), "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for k, (x0, y0, x1, y1) in enumerate(boxes)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(source.class_names)],
    }
