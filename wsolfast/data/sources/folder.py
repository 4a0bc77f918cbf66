"""``folder``: images of one's own, described by a CSV with one row per box.

Columns: ``image`` (path below the root), ``split`` (train, val, test), ``class_id`` (0-based) or ``class_name`` or
both, ``x0,y0,x1,y1`` (pixels of the upright image, x1/y1 exclusive; needed for val and test only), and if there
``width,height`` and ``mask`` (path below the root). An image with several objects has several rows; its mask is the
union of theirs. An id is the label
of a class and not its position: the classes are those that occur in the file, in the order of their ids.

COCO files are read too: ``annotations="instances_{split}.json", images="{split}2017"``, where ``{split}`` becomes
train, val or test. An image then has the class of its objects, which must agree.

Where each split has a file of its own, the classes are those of the training file, and are matched by name.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsolfast._nearest import nearest
from wsolfast.data._classes import renumber
from wsolfast.data._files import FileSource, ImageList, ImageRecord, relative_path
from wsolfast.data._source import BoxTable
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import DataError, Faults, SplitMissingError
from wsolfast.data.images.decode import Bits, Decoder
from wsolfast.data.images.masks import InstanceMasks
from wsolfast.data.sources._coco import read_coco
from wsolfast.data.sources._csv import SPLIT_NAMES, read_csv

LAYOUT = """\
annotations.csv     image,class_id,class_name,width,height,x0,y0,x1,y1,split,mask
                    images/a.jpg,0,ant,40,30,1,2,10.5,20,train,
                    images/b.jpg,1,bee,40,30,5,5,6,6,test,masks/b.png
images/a.jpg        (one row per object; split is train, val or test)"""
COCO_LAYOUT = """\
instances_train.json    {"images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}],
                         "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 9.5, 18]}],
                         "categories": [{"id": 3, "name": "ant"}]}
instances_test.json     (the same categories by name; bbox is x, y, width, height)
train/a.jpg             data.options: annotations=instances_{split}.json images={split}"""


def open_source(
    root: Path,
    split: str,
    *,
    annotations: str = "annotations.csv",
    images: str = "",
    decoder: Decoder = "auto",
    orient: bool = True,
    bits: Bits | None = None,
) -> FileSource:
    """Open the images of ``split``.

    Args:
        root: the folder of everything.
        split: which images.
        annotations: a CSV or COCO file below ``root``; ``{split}`` in it becomes train, val or test.
        images: the folder below ``root`` where image paths start, with the same ``{split}``.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
        bits: the same.
    """
    file = root / _below(annotations, split, "annotations")
    folder = root / _below(images, split, "images") if images else root
    if "{split}" in annotations and not file.exists():
        raise SplitMissingError(f"{file}: missing; it is to hold the annotations of split {split!r}")
    listed = _read(file, split)
    chosen = {image_id: image for image_id, image in listed.images.items() if image.split == split}
    if not chosen:
        counts = {name: sum(image.split == name for image in listed.images.values()) for name in SPLIT_NAMES.values()}
        there = ", ".join(f"{name} ({count})" for name, count in counts.items() if count)
        missing = SplitMissingError if there else DataError
        raise missing(f"{file}: split {split!r} is empty; the file has {there or 'no image at all'}")
    listed = replace(listed, images=chosen)
    training = root / _below(annotations, "train_weaksup", "annotations")
    if training != file and training.exists():
        listed = _numbered_as(listed, _read(training, "train_weaksup"), file, training)
    records = list(chosen.values())
    source = FileSource(
        folder,
        list(chosen),
        [image.label for image in records],
        listed.class_names,
        class_ids=listed.class_ids,
        boxes=BoxTable.from_lists([image.boxes for image in records]),
        sizes={i: image.size for i, image in enumerate(records) if image.size},
        masks={} if split == "train_weaksup" else _masks(records),
        mask_folder=root,
        decoder=decoder,
        orient=orient,
        bits=bits,
    )
    source.is_annotated = listed.is_annotated
    return source


def _below(pattern: str, split: str, option: str) -> str:
    short = next(name for name, long in SPLIT_NAMES.items() if long == split)
    return relative_path(pattern.replace("{split}", short), option)


def _masks(records: Sequence[ImageRecord]) -> dict[int, str | tuple[str, ...] | InstanceMasks]:
    return {i: one.masks[0] if len(one.masks) == 1 else tuple(one.masks) for i, one in enumerate(records) if one.masks}


def _read(file: Path, split: str) -> ImageList:
    with_boxes = split != "train_weaksup"
    return read_coco(file, split, with_boxes) if file.suffix.lower() == ".json" else read_csv(file, with_boxes)


def _numbered_as(listed: ImageList, known: ImageList, file: Path, training: Path) -> ImageList:
    """Number the classes of a split as the training file does, by name."""
    places = renumber(listed.class_names, known.class_names, listed.class_ids)
    faults, told = Faults(), set()
    for image_id, image in listed.images.items():
        name = listed.class_names[image.label]
        image.label = int(places[image.label])
        if image.label < 0 and name not in told:
            told.add(name)
            hint = nearest(name, known.class_names, "classes are matched by name")
            faults.add(f"{file}: {image_id} is of class {name!r}, which {training} does not have; {hint}")
    faults.raise_any()
    return replace(listed, class_names=known.class_names, class_ids=known.class_ids)


def _layout(annotations: str = "", **_: Any) -> str:
    return COCO_LAYOUT if annotations.lower().endswith(".json") else LAYOUT


SPEC = SourceSpec(open_source, layout=LAYOUT, layout_for=_layout)
