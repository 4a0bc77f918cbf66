"""ImageNet's tree of files: images, lists and one XML of boxes for each validation image."""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from wsolfast.data._files import glob_files, is_stray, listed_folders, read_lines
from wsolfast.data._source import Annotation
from wsolfast.data.errors import DataError, Faults, SplitMissingError
from wsolfast.data.sources._voc_xml import read_xml

LAYOUT = """\
train/n01440764/n01440764_10026.JPEG
val/ILSVRC2012_val_00000001.JPEG          or val/n01751748/ILSVRC2012_val_00000001.JPEG
Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml
LOC_synset_mapping.txt                    n01440764 tench, Tinca tinca     (optional; its order is the class order)
LOC_val_solution.csv                      (optional; spares reading every XML file for its label)
The folders may also lie in ILSVRC/Data/CLS-LOC/ and ILSVRC/Annotations/CLS-LOC/, as Kaggle packs them."""
# Of the splits that the tree itself has.
FOLDERS = {"train_weaksup": "train", "test": "val"}

_IMAGE_FOLDERS = (".", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
BOX_FOLDERS = ("Annotations/CLS-LOC/val", "ILSVRC/Annotations/CLS-LOC/val", "Annotations/val")
_LIST_FOLDERS = (".", "ILSVRC")
_MAPPING, _SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
_SUBSET_HINT = "; where only some of ImageNet's classes are there, set data.options.subset=true"
_SUFFIXES = {".jpeg", ".jpg", ".png"}


@dataclass(frozen=True)
class Listing:
    """Images of a split, and the folder of their annotations."""

    folder: Path  # where image ids start
    image_ids: list[str]
    labels: list[int]
    synsets: list[str]  # one per class
    names: list[str]  # one per class
    class_ids: list[int] | None  # positions in the list of all classes, where these are some of them
    boxes: Path | None  # the folder of the XML files; None for the training set
    remarks: tuple[str, ...] = ()  # what is odd and does not hinder

    def annotation(self, index: int) -> Annotation:
        """Read size and boxes of a validation image from its XML.

        Raises:
            DataError: if the file is missing or malformed, or has no box of the class of the image.
        """
        assert self.boxes is not None
        file = self.boxes / f"{Path(self.image_ids[index]).stem}.xml"
        size, objects = read_xml(file)
        synset = self.synsets[self.labels[index]]
        boxes = [box for name, box in objects if name == synset]
        if not boxes:
            raise DataError(f"{file}: no box of {synset}, the class of {self.image_ids[index]}")
        return Annotation(size, torch.tensor(boxes, dtype=torch.float64))

    def folders(self) -> Iterator[Path]:
        """Yield every folder that holds images."""
        yield from (self.folder / parent for parent in {os.path.dirname(image_id) for image_id in self.image_ids})


def consulted(root: Path) -> list[Path]:
    """List the files and folders that decide, besides the images, what :func:`list_split` finds; absent ones too."""
    lists = [root / place / name for place in _LIST_FOLDERS for name in (_MAPPING, _SOLUTION)]
    images = [root / place / part for place in _IMAGE_FOLDERS for part in FOLDERS.values()]
    return lists + images + [root / place for place in BOX_FOLDERS]


def image_folder(root: Path) -> Path:
    """Return the folder of ``train`` and ``val``.

    Raises:
        DataError: if neither is there.
    """
    for part in ("val", "train"):
        for place in _IMAGE_FOLDERS:
            if (root / place / part).is_dir():
                return root / place
    raise DataError(f"{root}: neither train/ nor val/ is there; expected\n{LAYOUT}")


def list_split(root: Path, split: str, subset: bool = False) -> Listing:
    """List the images of ``train_weaksup`` or ``test``.

    Args:
        root: of the tree.
        split: which images.
        subset: the classes are those with an image, and annotations without an image or of another class do not count.

    Raises:
        DataError: if a folder or list is missing or malformed.
    """
    folder = image_folder(root)
    classes = read_classes(root, folder, subset)
    if split == "train_weaksup":
        images = _images_by_synset(folder, "train", classes.synsets, subset)
        return Listing(folder, *images, classes.synsets, classes.names, classes.ids, None, classes.remarks)
    boxes = next((root / name for name in BOX_FOLDERS if (root / name).is_dir()), None)
    if boxes is None:
        # Who has images alone can train.
        raise SplitMissingError(
            f"{root / BOX_FOLDERS[0]}: missing; it holds the boxes of the validation images, one XML each"
        )
    image_ids, labels, absent = _validation_images(root, folder, boxes, classes.synsets, subset)
    remarks = classes.remarks
    if absent:
        hint = "data.options.subset=true leaves such annotations out"
        remarks += (f"{boxes}: {absent} of {len(image_ids)} annotations have no image; {hint}",)
    return Listing(folder, image_ids, labels, classes.synsets, classes.names, classes.ids, boxes, remarks)


@dataclass(frozen=True)
class Classes:
    """Classes of a tree, in their order."""

    synsets: list[str]
    names: list[str]
    ids: list[int] | None = None  # positions in the list of all classes, where these are some of them
    remarks: tuple[str, ...] = ()


def read_classes(root: Path, folder: Path, subset: bool = False) -> Classes:
    """Read the classes: those of the list, or else the folders of training or of validation images that hold one.

    Args:
        root: has the list.
        folder: has the images.
        subset: of a list, take the classes that have an image in the first folder of images that there is.

    Raises:
        DataError: if there is neither a list nor a folder of a class, or the list has a class twice.
    """
    mapping = _list_file(root, _MAPPING)
    if mapping is not None:
        faults = Faults()
        rows = [line.split(maxsplit=1) for line in read_lines(mapping, "one synset and its name per line")]
        synsets = [row[0] for row in rows]
        for synset, count in Counter(synsets).items():
            if count > 1:
                faults.add(f"{mapping}: {synset} is listed more than once; keep one of the lines")
        faults.raise_any()
        if not subset:
            return Classes(synsets, [row[-1] for row in rows])
        there = set(_folders_with_images(folder)[0])
        ids = [class_id for class_id, synset in enumerate(synsets) if synset in there]
        return Classes([synsets[k] for k in ids], [rows[k][-1] for k in ids], ids)
    found, empty = _folders_with_images(folder)
    if found:
        return Classes(found, found, None, tuple(f"{place}: no image in it, so it is no class" for place in empty))
    raise DataError(
        f"{root / 'LOC_synset_mapping.txt'}: missing, and there are no synset folders to take the class order from"
    )


def _folders_with_images(folder: Path) -> tuple[list[str], list[Path]]:
    """Return the names of the synset folders that hold an image, and the other ones, of ``train`` or else ``val``."""
    for name in ("train", "val"):
        places = listed_folders(folder / name) if (folder / name).is_dir() else []
        empty = [place for place in places if next(_image_names(place), None) is None]
        if len(empty) < len(places):
            return [place.name for place in places if place not in empty], empty
    return [], []


def class_folders(folder: Path) -> list[Path]:
    """Return the synset folders of all images, those without an image, too."""
    places = [folder / name for name in FOLDERS.values()]
    return [entry for place in places if place.is_dir() for entry in listed_folders(place)]


def _image_names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if not is_stray(entry.name) and _is_image(entry.name))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def _list_file(root: Path, name: str) -> Path | None:
    return next((root / place / name for place in _LIST_FOLDERS if (root / place / name).is_file()), None)


def _images_by_synset(folder: Path, name: str, synsets: list[str], subset: bool) -> tuple[list[str], list[int]]:
    if not (folder / name).is_dir():
        raise SplitMissingError(f"{folder / name}: missing; expected\n{LAYOUT}")
    image_ids, labels, faults = [], [], Faults()
    position = {synset: label for label, synset in enumerate(synsets)}
    for entry in listed_folders(folder / name):
        files = sorted(_image_names(entry))
        if entry.name not in position:
            if files and not subset:
                faults.add(f"{entry}: {entry.name} is not among the {len(synsets)} classes{_SUBSET_HINT}")
            continue
        image_ids += [f"{name}/{entry.name}/{file}" for file in files]
        labels += [position[entry.name] for _ in files]
    faults.raise_any()
    if not image_ids:
        raise DataError(f"{folder / name}: no image in it; expected\n{LAYOUT}")
    return image_ids, labels


def _validation_images(
    root: Path, folder: Path, boxes: Path, synsets: list[str], subset: bool
) -> tuple[list[str], list[int], int]:
    """List images and labels of ``val/``; images that have boxes and are not there are among them, and counted.

    With ``subset``, neither absent images nor those of other classes are listed.
    """
    if not (folder / "val").is_dir():
        raise SplitMissingError(f"{folder / 'val'}: missing; expected\n{LAYOUT}")
    by_synset = bool(listed_folders(folder / "val"))
    faults = Faults()
    image_ids: list[str] = []
    labels: list[int] = []
    solution = _list_file(root, _SOLUTION)
    named: dict[str, str] = {}
    with faults.taken():
        if by_synset:
            image_ids, labels = _images_by_synset(folder, "val", synsets, subset)
    with faults.taken():
        named = _read_solution(solution) if solution else {}
    faults.raise_any()
    if not by_synset:
        image_ids = [f"val/{file}" for file in sorted(_image_names(folder / "val"))]
        if not image_ids:
            raise DataError(f"{folder / 'val'}: no image in it; expected\n{LAYOUT}")
    position = {synset: label for label, synset in enumerate(synsets)}

    def synset_of(stem: str) -> str:
        source = solution or boxes / f"{stem}.xml"
        if solution and stem not in named:
            raise DataError(f"{solution}: no label for image {stem}")
        synset = named[stem] if solution else read_xml(source)[1][0][0]
        if synset not in position and not subset:
            raise DataError(f"{source}: {synset!r} of {stem} is not among the {len(synsets)} classes{_SUBSET_HINT}")
        return synset

    listed = {Path(image_id).stem for image_id in image_ids}
    if not by_synset:
        found = []
        for image_id in image_ids:
            with faults.taken():
                found.append((image_id, position.get(synset_of(Path(image_id).stem))))
        image_ids = [image_id for image_id, label in found if label is not None]
        labels = [label for _, label in found if label is not None]
    if subset:
        faults.raise_any()
        if not image_ids:
            raise SplitMissingError(f"{folder / 'val'}: no image of the {len(synsets)} classes that are there")
        return image_ids, labels, 0
    absent = {file.stem for file in glob_files(boxes, "*.xml")} - listed
    for stem in sorted(absent):
        with faults.taken():
            synset = synset_of(stem)
            image_ids.append(f"val/{synset}/{stem}.JPEG" if by_synset else f"val/{stem}.JPEG")
            labels.append(position[synset])
    faults.raise_any()
    return image_ids, labels, len(absent)


def _read_solution(file: Path) -> dict[str, str]:
    """Read the synset of each image stem; a line is ``stem,synset x0 y0 x1 y1 [synset x0 y0 x1 y1 ...]``."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))[1:]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as CSV ({error})") from error
    faults, found = Faults(), {}
    for row in rows:
        if len(row) != 2 or not row[1].split():
            faults.add(f"{file}: expected 'ImageId,PredictionString', got {','.join(row)[:80]!r}")
        elif row[0] in found:
            faults.add(f"{file}: {row[0]} is listed twice; remove one of the lines")
        else:
            found[row[0]] = row[1].split()[0]
    faults.raise_any()
    return found
