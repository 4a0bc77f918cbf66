"""``cub``: CUB-200-2011 (Wah et al., 2011) as it is distributed.

``train_weaksup`` and ``test`` are the official split. The set has no ``train_fullsup`` of its own: give ``metadata``
(and ``val_images``) for the benchmark's CUBV2, or ``val_per_class`` to hold images of the training split out.
"""

import hashlib
from pathlib import Path

from wsolfast.data._base import BoxTable
from wsolfast.data._classes import ClassTable
from wsolfast.data._files import FileSource, numbered_lines, relative_path
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import DataError, Faults, SplitMissingError
from wsolfast.data.images.decode import Decoder
from wsolfast.data.metadata import metadata_source

LAYOUT = """\
images.txt                 1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
image_class_labels.txt     1 1
train_test_split.txt       1 0          (1 train, 0 test)
bounding_boxes.txt         1 60.0 27.0 325.0 304.0          (x y width height)
classes.txt                1 001.Black_footed_Albatross
images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"""


_LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt")


def open_source(
    root: Path,
    split: str,
    *,
    metadata: str | Path | None = None,
    val_images: str | Path | None = None,
    val_per_class: int = 0,
    decoder: Decoder = "auto",
    orient: bool = True,
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
    """
    root = root / "CUB_200_2011" if (root / "CUB_200_2011" / "images.txt").exists() else root
    classes = _classes(root / "classes.txt")
    names = list(classes.values())
    if metadata is not None:
        folder = Path(val_images or root / "CUBV2") if split == "train_fullsup" else root / "images"
        return metadata_source(metadata, split, folder, names, decoder=decoder, orient=orient)
    if split == "train_fullsup" and val_per_class < 1:
        raise SplitMissingError(
            f"{root}: CUB-200-2011 has no train_fullsup split; give metadata=DIR (the benchmark's metadata/CUB) and "
            "val_images=DIR (CUBV2), or val_per_class=5 to hold images of the training split out"
        )
    return _official(root, split, classes, val_per_class, decoder, orient)


def _official(
    root: Path, split: str, classes: dict[int, str], val_per_class: int, decoder: Decoder, orient: bool
) -> FileSource:
    paths = _table(root / "images.txt", "the image paths")
    _refuse_repeats(paths, root / "images.txt")
    labels = _numbers(root / "image_class_labels.txt", "the class of every image", paths, 1)
    in_train = _numbers(root / "train_test_split.txt", "the official split", paths, 1)
    odd = next((key for key in paths if in_train[key][0] not in (0, 1)), None)
    if odd is not None:
        file = root / "train_test_split.txt"
        raise DataError(f"{file}: image {odd} is 1 (training) or 0 (test), got {in_train[odd][0]:.12g}")
    held_out = _held_out(paths, labels, in_train, val_per_class)

    def split_of(key: str) -> str:
        if not in_train[key][0]:
            return "test"
        return "train_fullsup" if key in held_out else "train_weaksup"

    keys = [key for key in paths if split_of(key) == split]
    if not keys:
        raise SplitMissingError(f"{root / 'train_test_split.txt'}: split {split!r} is empty")
    position = {class_id: label for label, class_id in enumerate(classes)}
    for key in keys:
        if labels[key][0] not in position:
            file = root / "image_class_labels.txt"
            raise DataError(f"{file}: image {key} has class {labels[key][0]:.12g}, classes.txt has {len(classes)}")
    boxes = None
    if split != "train_weaksup":
        file = root / "bounding_boxes.txt"
        corners = _numbers(file, "the box of every image", paths, 4)
        faults = Faults()
        for key in keys:
            finite = all(abs(edge) < 1e9 for edge in corners[key])
            if not (finite and corners[key][2] > 0 and corners[key][3] > 0):
                faults.add(DataError(f"{file}: the box of image {key} has no area: {corners[key]} (x y width height)"))
        faults.raise_any()
        boxes = BoxTable.from_lists([[_corners(*corners[key])] for key in keys])
    return FileSource(
        root / "images",
        [relative_path(paths[key], f"{root / 'images.txt'}, image {key}") for key in keys],
        [position[int(labels[key][0])] for key in keys],
        list(classes.values()),
        boxes=boxes,
        decoder=decoder,
        orient=orient,
    )


def _classes(file: Path) -> dict[int, str]:
    """Read the name of each class by id, in the order of the ids."""
    classes = ClassTable()
    for key, name in _table(file, "the class names").items():
        if not key.isascii() or not key.isdecimal() or len(key) > 18:
            raise DataError(f"{file}: the id of a class is a whole number, got {key[:40]!r}")
        classes.add(int(key), name, file.as_posix())
    return {class_id: classes.names[class_id] for class_id in classes.ids}


def _refuse_repeats(paths: dict[str, str], file: Path) -> None:
    keys: dict[str, str] = {}
    for key, path in paths.items():
        if keys.setdefault(path, key) != key:
            raise DataError(f"{file}: {path} is image {keys[path]} and image {key}")


def _corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y + height]


def _held_out(paths: dict, labels: dict, in_train: dict, val_per_class: int) -> set[str]:
    by_class: dict[float, list[str]] = {}
    for key in sorted((key for key in paths if in_train[key][0]), key=lambda key: _sha1(paths[key])):
        by_class.setdefault(labels[key][0], []).append(key)
    return {key for keys in by_class.values() for key in keys[:val_per_class]}


def _sha1(path: str) -> str:
    return hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()


def _table(file: Path, purpose: str) -> dict[str, str]:
    """Read lines ``key value`` into a table."""
    table = {}
    for number, line in numbered_lines(file, purpose):
        key, _, value = line.strip().partition(" ")
        if key in table:
            raise DataError(f"{file}, line {number}: the id {key} is listed already; remove one of the lines")
        if not value:
            raise DataError(f"{file}, line {number}: expected an id and a value, got {line!r}")
        table[key] = value
    return table


def _numbers(file: Path, purpose: str, paths: dict[str, str], count: int) -> dict[str, list[float]]:
    """Read lines ``key number...`` into a table, one for every image and for nothing else."""
    table, faults = {}, Faults()
    for key, value in _table(file, purpose).items():
        try:
            table[key] = [float(number) for number in value.split()]
        except ValueError:
            table[key] = []
        if len(table[key]) != count:
            faults.add(DataError(f"{file}: image {key} needs {count} numbers, got {value!r}"))
    faults.raise_any()
    for key in table.keys() ^ paths.keys():
        lacking = "images.txt" if key in table else file.name
        raise DataError(f"{file}: image {key} is missing in {lacking}; the two files must list the same images")
    return table


SPEC = SourceSpec(open_source, layout=LAYOUT, required=("train_weaksup", "test"))
