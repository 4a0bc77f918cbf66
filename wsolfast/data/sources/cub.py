"""``cub``: CUB-200-2011 (Wah et al., 2011) as it is distributed.

``train_weaksup`` and ``test`` are the official split. The set has no ``train_fullsup`` of its own: give ``metadata``
(and ``val_images``) for the benchmark's CUBV2, or ``val_per_class`` to hold images of the training split out.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wsolfast.data._classes import ClassTable
from wsolfast.data._files import FileSource, numbered_lines, relative_path
from wsolfast.data._source import BoxTable
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import Faults, SplitMissingError
from wsolfast.data.images.decode import Bits, Decoder
from wsolfast.data.metadata import metadata_source

LAYOUT = """\
images.txt                 1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
image_class_labels.txt     1 1
train_test_split.txt       1 0          (1 train, 0 test)
bounding_boxes.txt         1 60.0 27.0 325.0 304.0          (x y width height)
classes.txt                1 001.Black_footed_Albatross
images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"""


def open_source(
    root: Path,
    split: str,
    *,
    metadata: str | Path | None = None,
    val_images: str | Path | None = None,
    val_per_class: int = 0,
    decoder: Decoder = "auto",
    orient: bool = True,
    bits: Bits | None = None,
) -> FileSource:
    """Open the images of ``split`` in the official tree.

    Args:
        root: the folder CUB_200_2011, or the one that holds it.
        split: which images.
        metadata: the benchmark's ``metadata/CUB``; all three splits are then its lists, with its boxes.
        val_images: where the benchmark's CUBV2 images are; ``root / "CUBV2"`` unless told.
        val_per_class: without ``metadata``, so many images of each class leave ``train_weaksup`` and are
            ``train_fullsup``: those whose path has the smallest SHA-1.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
        bits: the same.
    """
    root = root / "CUB_200_2011" if (root / "CUB_200_2011" / "images.txt").exists() else root
    faults = Faults()
    classes = _classes(root / "classes.txt", faults)
    if metadata is None and (split != "train_fullsup" or val_per_class > 0):
        return _official(root, split, classes, val_per_class, faults, decoder=decoder, orient=orient, bits=bits)
    faults.raise_any()
    if metadata is not None:
        folder = Path(val_images or root / "CUBV2") if split == "train_fullsup" else root / "images"
        return metadata_source(
            metadata, split, folder, list(classes.values()), decoder=decoder, orient=orient, bits=bits
        )
    raise SplitMissingError(
        f"{root}: CUB-200-2011 has no train_fullsup split; give metadata=DIR (the benchmark's metadata/CUB) and "
        "val_images=DIR (CUBV2), or val_per_class=5 to hold images of the training split out"
    )


def _official(
    root: Path, split: str, classes: dict[int, str], val_per_class: int, faults: Faults, **options: Any
) -> FileSource:
    lists = _read_lists(root, faults, with_boxes=split != "train_weaksup")
    # Who lacks what, and the classes of images, can be told once every line is read.
    faults.raise_any()
    _check_ids(root, lists, faults)
    _check_images(root, lists, classes, faults)
    faults.raise_any()
    held_out = _held_out(lists, val_per_class)

    def split_of(key: str) -> str:
        if not lists.in_train[key]:
            return "test"
        return "train_fullsup" if key in held_out else "train_weaksup"

    keys = [key for key in lists.paths if split_of(key) == split]
    if not keys:
        raise SplitMissingError(f"{root / 'train_test_split.txt'}: split {split!r} is empty")
    position = {class_id: label for label, class_id in enumerate(classes)}
    boxes = None
    if lists.boxes is not None:
        boxes = BoxTable.from_lists([[_corners(*lists.boxes[key])] for key in keys])
    return FileSource(
        root / "images",
        [lists.paths[key] for key in keys],
        [position[int(lists.labels[key])] for key in keys],
        list(classes.values()),
        boxes=boxes,
        **options,
    )


@dataclass(frozen=True)
class _Lists:
    """The lists of images by the number that they give each image."""

    paths: dict[str, str]
    labels: dict[str, float]  # ids of classes
    in_train: dict[str, float]
    boxes: dict[str, list[float]] | None  # x, y, width, height; None of a split trained on labels


def _read_lists(root: Path, faults: Faults, *, with_boxes: bool) -> _Lists:
    return _Lists(
        _table(root / "images.txt", "the image paths", faults),
        _single(_numbers(root / "image_class_labels.txt", "the class of every image", 1, faults)),
        _single(_numbers(root / "train_test_split.txt", "the official split", 1, faults)),
        _numbers(root / "bounding_boxes.txt", "the box of every image", 4, faults) if with_boxes else None,
    )


def _single(table: dict[str, list[float]]) -> dict[str, float]:
    return {key: number for key, (number,) in table.items()}


def _check_ids(root: Path, lists: _Lists, faults: Faults) -> None:
    """Look whether every list has the same images, each once."""
    tables = {"image_class_labels.txt": lists.labels, "train_test_split.txt": lists.in_train}
    for name, table in (tables | ({"bounding_boxes.txt": lists.boxes} if lists.boxes is not None else {})).items():
        for key in [
            *(key for key in lists.paths if key not in table),
            *(key for key in table if key not in lists.paths),
        ]:
            lacking = "images.txt" if key in table else name
            faults.add(f"{root / name}: image {key} is missing in {lacking}; the two files must list the same images")
    keys: dict[str, str] = {}
    for key, path in lists.paths.items():
        if keys.setdefault(path, key) != key:
            faults.add(f"{root / 'images.txt'}: {path} is image {keys[path]} and image {key}")
        with faults.taken():
            relative_path(path, f"{root / 'images.txt'}, image {key}")


def _check_images(root: Path, lists: _Lists, classes: dict[int, str], faults: Faults) -> None:
    """Look at what the lists say of each image; of one that a list lacks, at the others."""
    folders = {name: class_id for class_id, name in classes.items()}
    for key, path in lists.paths.items():
        label, in_train = lists.labels.get(key), lists.in_train.get(key, 0)
        if in_train not in (0, 1):
            file = root / "train_test_split.txt"
            faults.add(f"{file}: image {key} is 1 (training) or 0 (test), got {in_train:.12g}")
        if label is not None and label not in classes:
            file = root / "image_class_labels.txt"
            faults.add(f"{file}: image {key} has class {label:.12g}, classes.txt has {len(classes)}")
        elif label is not None and folders.get(PurePosixPath(path).parent.name, label) != label:
            file, folder = root / "image_class_labels.txt", PurePosixPath(path).parent.name
            faults.add(
                f"{file}: image {key} ({path}) has class {label:.12g} ({classes[int(label)]}) and lies in the folder "
                f"of class {folders[folder]} ({folder}); correct its class or its path"
            )
        if lists.boxes is not None and key in lists.boxes:
            box = lists.boxes[key]
            if not (all(abs(edge) < 1e9 for edge in box) and box[2] > 0 and box[3] > 0):
                file = root / "bounding_boxes.txt"
                faults.add(f"{file}: the box of image {key} has no area: {box} (x y width height)")


def _classes(file: Path, faults: Faults) -> dict[int, str]:
    """Read the name of each class by id, in the order of the ids."""
    classes = ClassTable()
    for key, name in _table(file, "the class names", faults).items():
        if not key.isascii() or not key.isdecimal() or len(key) > 18:
            faults.add(f"{file}: the id of a class is a whole number, got {key[:40]!r}")
            continue
        with faults.taken():
            classes.add(int(key), name, file.as_posix())
    return {class_id: classes.names[class_id] for class_id in classes.ids}


def _corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y + height]


def _held_out(lists: _Lists, val_per_class: int) -> set[str]:
    by_class: dict[float, list[str]] = {}
    training = (key for key in lists.paths if lists.in_train[key])
    for key in sorted(training, key=lambda key: _sha1(lists.paths[key])):
        by_class.setdefault(lists.labels[key], []).append(key)
    return {key for keys in by_class.values() for key in keys[:val_per_class]}


def _sha1(path: str) -> str:
    return hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()


def _table(file: Path, purpose: str, faults: Faults) -> dict[str, str]:
    """Read lines ``key value`` into a table."""
    table: dict[str, str] = {}
    with faults.taken():
        for number, line in numbered_lines(file, purpose):
            key, _, value = line.strip().partition(" ")
            if key in table:
                faults.add(f"{file}, line {number}: the id {key} is listed already; remove one of the lines")
            elif not value:
                faults.add(f"{file}, line {number}: expected an id and a value, got {line!r}")
            else:
                table[key] = value
    return table


def _numbers(file: Path, purpose: str, count: int, faults: Faults) -> dict[str, list[float]]:
    """Read lines ``key number...`` into a table."""
    table = {}
    for key, value in _table(file, purpose, faults).items():
        try:
            numbers = [float(number) for number in value.split()]
        except ValueError:
            numbers = []
        if len(numbers) == count:
            table[key] = numbers
        else:
            faults.add(f"{file}: image {key} needs {count} numbers, got {value!r}")
    return table


SPEC = SourceSpec(open_source, layout=LAYOUT, title="CUB-200-2011", required=("train_weaksup", "test"), hierarchy="cub")
