"""ImageNet's tree of files: images, lists and one XML of boxes for each validation image."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from wsolfast.data._base import Annotation
from wsolfast.data._files import glob_files, is_stray, listed_folders, read_lines
from wsolfast.data.errors import DataError, SplitMissingError

LAYOUT = """\
train/n01440764/n01440764_10026.JPEG
val/ILSVRC2012_val_00000001.JPEG          or val/n01751748/ILSVRC2012_val_00000001.JPEG
Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml
LOC_synset_mapping.txt                    n01440764 tench, Tinca tinca     (optional; its order is the class order)
LOC_val_solution.csv                      (optional; spares reading every XML file for its label)
The folders may also lie in ILSVRC/Data/CLS-LOC/ and ILSVRC/Annotations/CLS-LOC/, as Kaggle packs them."""
# Of the splits that the tree itself has.
FOLDERS = {"train_weaksup": "train", "test": "val"}

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_IMAGE_FOLDERS = (".", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
_BOX_FOLDERS = ("Annotations/CLS-LOC/val", "ILSVRC/Annotations/CLS-LOC/val", "Annotations/val")
_LIST_FOLDERS = (".", "ILSVRC")
_MAPPING, _SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
_SUFFIXES = {".jpeg", ".jpg", ".png"}


@dataclass(frozen=True)
class Listing:
    """Images of a split, and the folder of their annotations."""

    folder: Path  # where image ids start
    image_ids: list[str]
    labels: list[int]
    synsets: list[str]  # one per class
    names: list[str]  # one per class
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
    return lists + images + [root / place for place in _BOX_FOLDERS]


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


def list_split(root: Path, split: str) -> Listing:
    """List the images of ``train_weaksup`` or ``test``.

    Raises:
        DataError: if a folder or list is missing or malformed.
    """
    folder = image_folder(root)
    synsets, names, remarks = read_classes(root, folder)
    if split == "train_weaksup":
        return Listing(folder, *_images_by_synset(folder, "train", synsets), synsets, names, None, remarks)
    boxes = next((root / name for name in _BOX_FOLDERS if (root / name).is_dir()), None)
    if boxes is None:
        raise DataError(f"{root / _BOX_FOLDERS[0]}: missing; it holds the boxes of the validation images, one XML each")
    return Listing(folder, *_validation_images(root, folder, boxes, synsets), synsets, names, boxes, remarks)


def read_classes(root: Path, folder: Path) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Return synsets in class order, their names, and a line for every folder that would be a class if it had an image.

    Without a list, the classes are the folders of the training images, or else of the validation images.
    """
    mapping = _list_file(root, _MAPPING)
    if mapping is not None:
        rows = [line.split(maxsplit=1) for line in read_lines(mapping, "one synset and its name per line")]
        return [row[0] for row in rows], [row[-1] for row in rows], ()
    for name in ("train", "val"):
        if (folder / name).is_dir():
            places = listed_folders(folder / name)
            empty = [place for place in places if next(_image_names(place), None) is None]
            synsets = [place.name for place in places if place not in empty]
            if synsets:
                return synsets, synsets, tuple(f"{place}: no image in it, so it is no class" for place in empty)
    raise DataError(
        f"{root / 'LOC_synset_mapping.txt'}: missing, and there are no synset folders to take the class order from"
    )


def _image_names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if not is_stray(entry.name) and _is_image(entry.name))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def _list_file(root: Path, name: str) -> Path | None:
    return next((root / place / name for place in _LIST_FOLDERS if (root / place / name).is_file()), None)


def _images_by_synset(folder: Path, name: str, synsets: list[str]) -> tuple[list[str], list[int]]:
    if not (folder / name).is_dir():
        raise SplitMissingError(f"{folder / name}: missing; expected\n{LAYOUT}")
    image_ids, labels = [], []
    position = {synset: label for label, synset in enumerate(synsets)}
    for entry in listed_folders(folder / name):
        files = sorted(_image_names(entry))
        if files and entry.name not in position:
            raise DataError(f"{entry}: {entry.name} is not among the {len(synsets)} classes")
        image_ids += [f"{name}/{entry.name}/{file}" for file in files]
        labels += [position[entry.name] for _ in files]
    if not image_ids:
        raise DataError(f"{folder / name}: no image in it; expected\n{LAYOUT}")
    return image_ids, labels


def _validation_images(root: Path, folder: Path, boxes: Path, synsets: list[str]) -> tuple[list[str], list[int]]:
    """List images and labels of ``val/``, and images that have boxes and are not there, to be missed by name."""
    if not (folder / "val").is_dir():
        raise SplitMissingError(f"{folder / 'val'}: missing; expected\n{LAYOUT}")
    by_synset = bool(listed_folders(folder / "val"))
    if by_synset:
        image_ids, labels = _images_by_synset(folder, "val", synsets)
    else:
        files = sorted(_image_names(folder / "val"))
        if not files:
            raise DataError(f"{folder / 'val'}: no image in it; expected\n{LAYOUT}")
        image_ids, labels = [f"val/{file}" for file in files], []
    position = {synset: label for label, synset in enumerate(synsets)}
    solution = _list_file(root, _SOLUTION)
    named = _read_solution(solution) if solution else {}

    def synset_of(stem: str) -> str:
        source = solution or boxes / f"{stem}.xml"
        if solution and stem not in named:
            raise DataError(f"{solution}: no label for image {stem}")
        synset = named[stem] if solution else read_xml(source)[1][0][0]
        if synset not in position:
            raise DataError(f"{source}: {synset!r} of {stem} is not among the {len(synsets)} classes")
        return synset

    labels = labels or [position[synset_of(Path(image_id).stem)] for image_id in image_ids]
    absent = {file.stem for file in glob_files(boxes, "*.xml")} - {Path(image_id).stem for image_id in image_ids}
    for stem in sorted(absent):
        synset = synset_of(stem)
        image_ids.append(f"val/{synset}/{stem}.JPEG" if by_synset else f"val/{stem}.JPEG")
        labels.append(position[synset])
    return image_ids, labels


def _read_solution(file: Path) -> dict[str, str]:
    """Read the synset of each image stem; a line is ``stem,synset x0 y0 x1 y1 [synset x0 y0 x1 y1 ...]``."""
    with file.open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    bad = next((row for row in rows if len(row) != 2 or not row[1].split()), None)
    if bad is not None:
        raise DataError(f"{file}: expected 'ImageId,PredictionString', got {','.join(bad)!r}")
    return {stem: prediction.split()[0] for stem, prediction in rows}


def read_xml(file: Path) -> tuple[tuple[int, int], list[tuple[str, list[float]]]]:
    """Read (width, height) and (synset, xyxy box) of each object; corners are taken as half-open edges."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, parse

    try:
        tree = parse(file)
    except FileNotFoundError:
        raise DataError(f"{file}: missing; it holds the boxes of a validation image") from None
    except (OSError, ParseError, DefusedXmlException) as error:
        raise DataError(f"{file}: not a readable annotation ({error})") from error
    try:
        size = int(tree.findtext("size/width")), int(tree.findtext("size/height"))
        objects = [
            (item.findtext("name"), [float(item.findtext(f"bndbox/{edge}")) for edge in _EDGES])
            for item in tree.iterfind("object")
        ]
    except (TypeError, ValueError):
        raise DataError(f"{file}: size or bndbox is missing or not a number") from None
    if not objects:
        raise DataError(f"{file}: no object in it")
    flat = next((box for _, box in objects if not (box[0] < box[2] and box[1] < box[3])), None)
    if flat is not None or min(size) < 1:
        raise DataError(f"{file}: size {size} or box {flat} has no area")
    return size, objects
