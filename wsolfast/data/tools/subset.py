"""Small real sets of the zoo, made from the public ones: the same images, splits and boxes.

Pixels differ where another version of Pillow resamples or encodes in another way.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from wsolfast._nearest import nearest
from wsolfast.data._files import numbered_lines
from wsolfast.data._spec import Task, silent
from wsolfast.data.atomic import write_bytes
from wsolfast.data.errors import DataError, Faults
from wsolfast.data.images.decode import decode, decode_labels, image_size
from wsolfast.data.sources import open_source
from wsolfast.data.sources._csv import SPLIT_NAMES
from wsolfast.data.sources._ilsvrc_tree import BOX_FOLDERS, image_folder, read_classes
from wsolfast.data.sources._voc_xml import read_xml
from wsolfast.data.tools._claim import claim
from wsolfast.data.tools._ilsvrc400 import NUMBERS

_SETTINGS = "wsolfast-subset.json"
_CSV = "annotations.csv"
_HEADER = ("image", "class_id", "class_name", "width", "height", "x0", "y0", "x1", "y1", "split")
_QUALITY = 90
_CUB_CLASSES, _CUB_VAL = 50, 6
_PET_BREEDS, _PET_VAL = ("Abyssinian", "american_bulldog", "Bengal"), 20
# A GIF and a PNG under the name of a JPEG.
_PETS_LEFT_OUT = {"Abyssinian_34", "Abyssinian_5"}
# Background, object, pixels that do not count.
_PALETTE = (0, 0, 0, 255, 255, 255, 255, 255, 0)
_SHORT = {long: short for short, long in SPLIT_NAMES.items()}


@dataclass(frozen=True)
class SubsetSummary:
    """Outcome of :func:`wsolfast.data.subset`."""

    root: Path  # of the new set
    images: dict[str, int]  # of each split, train, val or test
    written: int  # images written by this call; the others were there


@dataclass(frozen=True)
class _Item:
    """An image of the public set."""

    source: Path
    path: str  # of the new image, below its folder
    class_id: int
    class_name: str
    split: str  # train, val or test
    boxes: list[list[float]]  # xyxy, pixels of the source
    trimap: Path | None = None


@dataclass(frozen=True)
class _Subset:
    """A small set: which images, and how large they become."""

    title: str
    items: Callable[[Path], Iterator[_Item]]
    longest: int = 0  # images are shrunk to this longer side; 0: squashed to ``square``
    square: int = 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size of an image in the new set."""
        if self.square:
            return self.square, self.square
        scale = min(1.0, self.longest / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))


def _cub50(root: Path) -> Iterator[_Item]:
    for split in ("train_weaksup", "train_fullsup", "test"):
        source = open_source("cub", root, split, val_per_class=_CUB_VAL)
        for index, label in enumerate(source.labels.tolist()):
            if label < _CUB_CLASSES:
                name = source.class_names[label].partition(".")[2]
                path = Path(source.describe(index))
                # A missing image is told with all others.
                told = split != "train_weaksup" and path.is_file()
                boxes = source.annotation(index).boxes.tolist() if told else []
                yield _Item(path, source.image_ids[index], label, name, _SHORT[split], boxes)


def _ilsvrc400(root: Path) -> Iterator[_Item]:
    folder = image_folder(root)
    classes = read_classes(root, folder)
    places = {synset: label for label, synset in enumerate(classes.synsets)}
    if len(places) != 1000:
        raise DataError(f"{root}: {len(places)} classes, expected the 1,000 of ILSVRC 2012 (LOC_synset_mapping.txt)")
    notes = next((root / name for name in BOX_FOLDERS if (root / name).is_dir()), root / BOX_FOLDERS[0])
    faults = Faults()
    for number in NUMBERS:
        stem = f"ILSVRC2012_val_{number:08d}"
        with faults.taken():
            _, objects = read_xml(notes / f"{stem}.xml")
            synset = objects[0][0]
            flat, sorted_ = folder / "val" / f"{stem}.JPEG", folder / "val" / synset / f"{stem}.JPEG"
            boxes = [box for name, box in objects if name == synset]
            label = places[synset]
            name = classes.names[label].partition(",")[0]
            yield _Item(sorted_ if sorted_.exists() else flat, f"{stem}.JPEG", label, name, "test", boxes)
    faults.raise_any()


def _pets3(root: Path) -> Iterator[_Item]:
    annotations = root / "annotations"
    for name, split in (("trainval.txt", "train"), ("test.txt", "test")):
        file = annotations / name
        stems = [line.split()[0] for _, line in numbered_lines(file, "an image, class, species and breed per line")]
        for label, breed in enumerate(_PET_BREEDS):
            ours = [stem for stem in stems if stem.rpartition("_")[0] == breed and stem not in _PETS_LEFT_OUT]
            held_out = set(sorted(ours, key=_sha1)[:_PET_VAL]) if split == "train" else set()
            for stem in ours:
                trimap = annotations / "trimaps" / f"{stem}.png"
                part = "val" if stem in held_out else split
                image = root / "images" / f"{stem}.jpg"
                yield _Item(image, f"{breed}/{stem}.jpg", label, breed, part, [_tight_box(trimap)], trimap)


SUBSETS = {
    "cub50": _Subset("the first 50 classes of CUB-200-2011", _cub50, longest=256),
    "ilsvrc400": _Subset("400 validation images of ILSVRC 2012", _ilsvrc400, square=227),
    "pets3": _Subset("three breeds of the Oxford-IIIT Pet set", _pets3, longest=256),
}


def subset(
    name: str, root: str | Path, output: str | Path, *, task: Task | None = None, workers: int | None = None
) -> SubsetSummary:
    """Make a small set of the zoo from the public one that it is a part of, as ``data.name = "folder"`` reads it.

    Called again it writes what is missing.

    Args:
        name: ``"cub50"`` (from CUB-200-2011), ``"ilsvrc400"`` (from ILSVRC 2012) or ``"pets3"`` (from the Oxford-IIIT
            Pet set).
        root: the folder of the public set, as it is distributed.
        output: a new or empty folder, or one of an earlier call.
        task: makes a progress display from a title and a number of images.
        workers: threads; by the number of cores unless told.

    Returns:
        SubsetSummary: how much is there, and how much of it is new.

    Raises:
        DataError: if a file of the public set is missing or cannot be read, or ``output`` holds anything else.
        ValueError: for an unknown name.
    """
    if name not in SUBSETS:
        raise ValueError(f"no small set named {name!r}; {nearest(name, SUBSETS)}")
    root, output, task, chosen = Path(root), Path(output), task or silent, SUBSETS[name]
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; {name} is {chosen.title}")
    items = list(chosen.items(root))
    _check_there(items)
    claim(output, _SETTINGS, {"subset": name, "images": len(items)})

    def write(item: _Item) -> tuple[list[list[str]], bool]:
        new = _write_image(item, chosen, output)
        advance()
        return list(_rows(item, chosen)), new

    with task(name, len(items)) as advance, ThreadPoolExecutor(workers) as pool:
        done = list(pool.map(write, items))
    header = [*_HEADER, *(["mask"] if items[0].trimap else [])]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *sorted(row for rows, _ in done for row in rows)])
    write_bytes(output / _CSV, lambda stream: stream.write(text.getvalue().encode()))
    counts = {split: sum(item.split == split for item in items) for split in SPLIT_NAMES}
    return SubsetSummary(output, {split: n for split, n in counts.items() if n}, sum(new for _, new in done))


def _check_there(items: list[_Item]) -> None:
    faults = Faults()
    for item in items:
        for file in filter(None, (item.source, item.trimap)):
            if not file.is_file():
                faults.add(f"{file}: no such file")
    faults.raise_any()


def _rows(item: _Item, chosen: _Subset) -> Iterator[list[str]]:
    """Yield a row per box, of a training image one without a box."""
    width, height = image_size(item.source)
    size = chosen.size(width, height)
    start = [f"images/{item.path}", str(item.class_id), item.class_name, *map(str, size)]
    end = [item.split, *([f"masks/{Path(item.path).with_suffix('.png')}"] if item.trimap else [])]
    # As they were made: the benchmark's boxes end at the last pixel, those of masks behind it.
    limits = (width, height) if item.trimap else (width - 1, height - 1)
    scales = size[0] / width, size[1] / height
    for box in item.boxes if item.split != "train" else [[]]:
        edges = [min(edge, limits[k % 2]) if k > 1 else edge for k, edge in enumerate(box)]
        cells = [f"{round(edge * scales[k % 2], 2):g}" for k, edge in enumerate(edges)]
        yield [*start, *(cells or [""] * 4), *end]


def _write_image(item: _Item, chosen: _Subset, output: Path) -> bool:
    """Write an image, its mask first. Return True if it was not there."""
    target = output / "images" / item.path
    if target.exists():
        return False
    pixels = decode(item.source)
    size = chosen.size(pixels.shape[1], pixels.shape[0])
    if item.trimap is not None:
        labels = decode_labels(item.trimap)
        if labels.shape != pixels.shape[:2]:
            raise DataError(f"{item.trimap}: has not the size of {item.source}")
        # 1 object, 2 background, 3 neither.
        values = np.array([0, 1, 0, 2], np.uint8)[np.minimum(labels, 3)]
        mask = Image.frombytes("P", labels.shape[::-1], values.tobytes())
        mask.putpalette(_PALETTE)
        file = (output / "masks" / item.path).with_suffix(".png")
        write_bytes(file, partial(_save, mask.resize(size, Image.Resampling.NEAREST), "PNG"), durable=False)
    image = Image.fromarray(pixels)
    image = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
    write_bytes(target, partial(_save, image, "JPEG"), durable=False)
    return True


def _save(image: Image.Image, kind: str, stream: BinaryIO) -> None:
    image.save(stream, kind, **({"quality": _QUALITY} if kind == "JPEG" else {}))


def _tight_box(trimap: Path) -> list[float]:
    """Return the half-open box of the pixels that are the object's for sure."""
    inside = decode_labels(trimap) == 1
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        raise DataError(f"{trimap}: no pixel of value 1, which is the object")
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
