"""``ilsvrc``: ImageNet-1k (ILSVRC 2012) as it is distributed, by the challenge or by Kaggle.

``train_weaksup`` is the training set, ``test`` the validation set with its CLS-LOC boxes, several per image. The set
has no ``train_fullsup`` of its own: give ``metadata`` and ``val_images`` for the benchmark's ImageNetV2.
"""

import csv
from pathlib import Path
from typing import Any

import torch

from wsolfast.data._base import Annotation
from wsolfast.data._files import FileSource, read_lines
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import DataError
from wsolfast.data.images.decode import Decoder
from wsolfast.data.metadata import metadata_files, metadata_source

LAYOUT = """\
train/n01440764/n01440764_10026.JPEG
val/ILSVRC2012_val_00000001.JPEG          or val/n01751748/ILSVRC2012_val_00000001.JPEG
Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml
LOC_synset_mapping.txt                    n01440764 tench, Tinca tinca     (optional; its order is the class order)
LOC_val_solution.csv                      (optional; spares reading every XML file for its label)
The folders may also lie in ILSVRC/Data/CLS-LOC/ and ILSVRC/Annotations/CLS-LOC/, as Kaggle packs them."""

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_IMAGE_FOLDERS = (".", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
_BOX_FOLDERS = ("Annotations/CLS-LOC/val", "ILSVRC/Annotations/CLS-LOC/val", "Annotations/val")
_LIST_FOLDERS = (".", "ILSVRC")
_MAPPING, _SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
_SUFFIXES = {".jpeg", ".jpg", ".png"}


def _consulted(root: Path, split: str, *, metadata: str | Path | None = None, **_: Any) -> list[Path]:
    """The files and folders that decide, besides the images, what :func:`open_source` finds; absent ones too."""
    lists = [root / place / name for place in _LIST_FOLDERS for name in (_MAPPING, _SOLUTION)]
    images = [root / place / part for place in _IMAGE_FOLDERS for part in ("train", "val")]
    boxes = [root / place for place in _BOX_FOLDERS]
    return lists + images + boxes + (metadata_files(Path(metadata), split) if metadata is not None else [])


def open_source(
    root: Path,
    split: str,
    *,
    metadata: str | Path | None = None,
    val_images: str | Path | None = None,
    decoder: Decoder = "auto",
    orient: bool = True,
) -> FileSource:
    """The images of ``split`` in the official tree.

    Args:
        root: the folder that holds ``train`` and ``val``, or Kaggle's.
        split: which images.
        metadata: the benchmark's ``metadata/ILSVRC``, for ``train_fullsup`` only.
        val_images: the folder in which the benchmark's ``val2/`` lies; ``root`` unless told.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
    """
    folder = next((root / name for name in _IMAGE_FOLDERS if (root / name / "val").is_dir()), None)
    folder = folder or next((root / name for name in _IMAGE_FOLDERS if (root / name / "train").is_dir()), None)
    if folder is None:
        raise DataError(f"{root}: neither train/ nor val/ is there; expected\n{LAYOUT}")
    synsets, names = _classes(root, folder)
    if split == "train_fullsup":
        if metadata is None:
            raise DataError(
                f"{root}: ILSVRC has no train_fullsup split; give metadata=DIR (the benchmark's metadata/ILSVRC) and "
                "val_images=DIR (where val2/ of ImageNetV2 lies)"
            )
        return metadata_source(metadata, split, Path(val_images or folder), names, decoder=decoder, orient=orient)
    if split == "train_weaksup":
        image_ids, labels = _images_by_synset(folder, "train", synsets)
        return FileSource(folder, image_ids, labels, names, decoder=decoder, orient=orient)
    boxes = next((root / name for name in _BOX_FOLDERS if (root / name).is_dir()), None)
    if boxes is None:
        raise DataError(f"{root / _BOX_FOLDERS[0]}: missing; it holds the boxes of the validation images, one XML each")
    image_ids, labels = _validation_images(root, folder, boxes, synsets)
    return _ValidationSource(boxes, synsets, folder, image_ids, labels, names, decoder=decoder, orient=orient)


class _ValidationSource(FileSource):
    """Validation images; the XML of an image is read when its boxes are asked for."""

    def __init__(self, boxes: Path, synsets: list[str], *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._box_folder = boxes
        self._synsets = synsets

    def annotation(self, index: int) -> Annotation:
        file = self._box_folder / f"{Path(self.image_ids[index]).stem}.xml"
        size, objects = read_xml(file)
        synset = self._synsets[self.labels[index]]
        boxes = [box for name, box in objects if name == synset]
        if not boxes:
            raise DataError(f"{file}: no box of {synset}, the class of {self.image_ids[index]}")
        return Annotation(size, torch.tensor(boxes, dtype=torch.float64))


def _classes(root: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Synsets in class order, and their names."""
    mapping = _list_file(root, _MAPPING)
    if mapping is not None:
        rows = [line.split(maxsplit=1) for line in read_lines(mapping, "one synset and its name per line")]
        return [row[0] for row in rows], [row[-1] for row in rows]
    for name in ("train", "val"):
        if (folder / name).is_dir():
            synsets = sorted(entry.name for entry in (folder / name).iterdir() if entry.is_dir())
            if synsets:
                return synsets, synsets
    raise DataError(
        f"{root / 'LOC_synset_mapping.txt'}: missing, and there are no synset folders to take the class order from"
    )


def _list_file(root: Path, name: str) -> Path | None:
    return next((root / place / name for place in _LIST_FOLDERS if (root / place / name).is_file()), None)


def _images_by_synset(folder: Path, name: str, synsets: list[str]) -> tuple[list[str], list[int]]:
    if not (folder / name).is_dir():
        raise DataError(f"{folder / name}: missing; expected\n{LAYOUT}")
    image_ids, labels = [], []
    for entry in sorted(path for path in (folder / name).iterdir() if path.is_dir()):
        if entry.name not in synsets:
            raise DataError(f"{entry}: {entry.name} is not among the {len(synsets)} classes of LOC_synset_mapping.txt")
        files = sorted(file.name for file in entry.iterdir() if file.suffix.lower() in _SUFFIXES)
        image_ids += [f"{name}/{entry.name}/{file}" for file in files]
        labels += [synsets.index(entry.name)] * len(files)
    if not image_ids:
        raise DataError(f"{folder / name}: no image in it; expected\n{LAYOUT}")
    return image_ids, labels


def _validation_images(root: Path, folder: Path, boxes: Path, synsets: list[str]) -> tuple[list[str], list[int]]:
    """Images and labels of ``val/``; an image that has boxes and is not there is listed too, to be missed by name."""
    if not (folder / "val").is_dir():
        raise DataError(f"{folder / 'val'}: missing; expected\n{LAYOUT}")
    by_synset = any(entry.is_dir() for entry in (folder / "val").iterdir())
    if by_synset:
        image_ids, labels = _images_by_synset(folder, "val", synsets)
    else:
        files = sorted(file.name for file in (folder / "val").iterdir() if file.suffix.lower() in _SUFFIXES)
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
    absent = {file.stem for file in boxes.glob("*.xml")} - {Path(image_id).stem for image_id in image_ids}
    for stem in sorted(absent):
        synset = synset_of(stem)
        image_ids.append(f"val/{synset}/{stem}.JPEG" if by_synset else f"val/{stem}.JPEG")
        labels.append(position[synset])
    return image_ids, labels


def _read_solution(file: Path) -> dict[str, str]:
    """Synset by image stem; a line is ``stem,synset x0 y0 x1 y1 [synset x0 y0 x1 y1 ...]``."""
    with file.open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    bad = next((row for row in rows if len(row) != 2 or not row[1].split()), None)
    if bad is not None:
        raise DataError(f"{file}: expected 'ImageId,PredictionString', got {','.join(bad)!r}")
    return {stem: prediction.split()[0] for stem, prediction in rows}


def read_xml(file: Path) -> tuple[tuple[int, int], list[tuple[str, list[float]]]]:
    """(width, height) and (synset, xyxy box) of each object; corners as they stand, as edges of a half-open box."""
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


SPEC = SourceSpec(open_source, layout=LAYOUT, required=("train_weaksup", "test"), consulted=_consulted)
