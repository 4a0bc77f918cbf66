"""``voc``: Pascal VOC's layout, which most programs for annotation write: one XML file of boxes per image.

An image has one class here. One that shows objects of several classes is a fault, or left out
(``mixed="leave_out"``); one that shows none has no label and is left out. The lists of ``ImageSets/Main`` are the
splits. Without them, shares of each class are.

The index, ``ROOT/.wsolfast/voc.safetensors``, holds the content of all XML files. It is used as that of
:mod:`wsolfast.data.sources.ilsvrc` is.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsolfast.data._files import FileSource, ImageRecord, glob_files, read_lines, relative_path
from wsolfast.data._index import (
    FOLDER,
    Unusable,
    first_changed,
    pack_texts,
    read_index,
    states,
    unpack_texts,
    write_index,
)
from wsolfast.data._source import BoxTable
from wsolfast.data._spec import IndexedSplit, SourceSpec, Task
from wsolfast.data.errors import DataError, Faults, SplitMissingError
from wsolfast.data.images.decode import Bits, Decoder
from wsolfast.data.images.masks import decode_objects
from wsolfast.data.sources._shares import assign_splits
from wsolfast.data.sources._voc_xml import Annotated, read_xml
from wsolfast.data.sources.imagefolder import is_image

LAYOUT = """\
JPEGImages/a.jpg
Annotations/a.xml            object/name, object/bndbox/xmin ymin xmax ymax, size/width height
ImageSets/Main/train.txt     a          (val.txt and test.txt likewise; without them shares of each class)
SegmentationObject/a.png     (optional, with data.options.masks=SegmentationObject; 0 background, 255 ignored)"""

_LISTS = {"train_weaksup": "train", "train_fullsup": "val", "test": "test"}
_MAIN = "ImageSets/Main"
_FILES_PER_JOB = 64

_log = logging.getLogger(__name__)


def open_source(
    root: Path,
    split: str,
    *,
    images: str = "JPEGImages",
    annotations: str = "Annotations",
    masks: str = "",
    one_based: bool = True,
    mixed: Literal["refuse", "leave_out"] = "refuse",
    val_share: float = 0.1,
    test_share: float = 0.2,
    decoder: Decoder = "auto",
    orient: bool = True,
    bits: Bits | None = None,
) -> FileSource:
    """Open the images of ``split``.

    Args:
        root: the folder of ``Annotations``.
        split: which images.
        images: the folder of the images below ``root``.
        annotations: the folder of the XML files below ``root``.
        masks: a folder below ``root`` with a PNG file for each image that has masks, numbered by object or class.
        one_based: corners of boxes are pixels counted from 1, the last one included, as Pascal VOC defines them.
            Otherwise they are edges counted from 0.
        mixed: what becomes of an image with objects of several classes.
        val_share: without ``ImageSets/Main``: so much of each class is ``train_fullsup``, and not trained on.
        test_share: the same for ``test``.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
        bits: the same.
    """
    notes = _read_notes(_note_files(root, annotations), one_based)
    options: dict[str, Any] = {"masks": masks, "mixed": mixed, "val_share": val_share, "test_share": test_share}
    return _open(root, split, notes, images, **options, decoder=decoder, orient=orient, bits=bits)


class _Source(FileSource):
    """Masks are numbered by object or class: every number but 0 and 255 is the object."""

    def mask(self, index: int) -> np.ndarray | None:
        file = self.mask_path(index)
        return None if file is None else decode_objects(file)


def _open(
    root: Path,
    split: str,
    notes: Mapping[str, Annotated],
    images: str = "JPEGImages",
    *,
    masks: str = "",
    mixed: str = "refuse",
    val_share: float = 0.1,
    test_share: float = 0.2,
    **options: Any,
) -> FileSource:
    folder = root / relative_path(images, "images")
    mask_folder = root / relative_path(masks, "masks") if masks else None
    for place in filter(None, (folder, mask_folder)):
        if not place.is_dir():
            raise DataError(f"{place}: no such folder")
    files = _image_files(folder)
    records, names, remarks = _records(root, notes, mixed)
    splits = _listed_splits(root, records, notes)
    if splits is None:
        stems = list(records)
        labels = [record.label for record in records.values()]
        splits = dict(zip(stems, assign_splits(stems, labels, val_share, test_share, str(root)), strict=True))
    stems = [stem for stem in records if splits.get(stem) == split]
    if not stems:
        raise SplitMissingError(f"{root}: split {split!r} is empty; {_MAIN}/{_LISTS[split]}.txt lists its images")
    found = [records[stem] for stem in stems]
    known = {} if mask_folder is None or split == "train_weaksup" else _mask_files(stems, mask_folder)
    source = _Source(
        folder,
        [files.get(stem, f"{stem}.jpg") for stem in stems],
        [record.label for record in found],
        names,
        boxes=BoxTable.from_lists([record.boxes if split != "train_weaksup" else [] for record in found]),
        sizes={index: record.size for index, record in enumerate(found) if record.size},
        masks=known,
        mask_folder=mask_folder,
        **options,
    )
    source.remarks = remarks
    return source


def _note_files(root: Path, annotations: str) -> list[Path]:
    folder = root / relative_path(annotations, "annotations")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it holds an XML file for each image")
    files = glob_files(folder, "*.xml")
    if not files:
        raise DataError(f"{folder}: no XML file in it; expected one for each image, named as the image is")
    return files


def _read_notes(
    files: list[Path], one_based: bool, workers: int | None = 1, advance: Callable[..., None] = lambda steps: None
) -> dict[str, Annotated]:
    """Read XML files by the stem of their names.

    Raises:
        DataError: names up to twenty that cannot be read.
    """

    def read(file: Path) -> Annotated | DataError:
        try:
            return read_xml(file, one_based=one_based, empty_ok=True)
        except DataError as error:
            return error

    def read_some(start: int) -> list[Annotated | DataError]:
        some = [read(file) for file in files[start : start + _FILES_PER_JOB]]
        advance(len(some))
        return some

    faults, notes = Faults(), {}
    with ThreadPoolExecutor(workers) as pool:
        found = (one for some in pool.map(read_some, range(0, len(files), _FILES_PER_JOB)) for one in some)
        for file, one in zip(files, found, strict=True):
            if isinstance(one, DataError):
                faults.add(one)
            else:
                notes[file.stem] = one
    faults.raise_any()
    return notes


def _image_files(folder: Path) -> dict[str, str]:
    """Return the name of each image by its stem.

    Raises:
        DataError: if one stem has two images, which one annotation cannot tell apart.
    """
    found: dict[str, str] = {}
    faults = Faults()
    for name in sorted(entry.name for entry in folder.iterdir() if is_image(entry.name)):
        stem = Path(name).stem
        if found.setdefault(stem, name) != name:
            faults.add(f"{folder / name}: has the annotation of {found[stem]}; give one of them another name")
    faults.raise_any()
    return found


def _records(
    root: Path, notes: Mapping[str, Annotated], mixed: str
) -> tuple[dict[str, ImageRecord], list[str], list[str]]:
    """Return label, size and boxes of each image that has a class, the names of the classes, and what was left out."""
    faults, several, without = Faults(), 0, 0
    shown: dict[str, str] = {}
    for stem, (_, objects) in notes.items():
        classes = sorted({name or "" for name, _ in objects})
        if "" in classes:
            faults.add(f"{root}: {stem}.xml: an object has no name, which is its class")
        elif len(classes) > 1 and mixed == "refuse":
            both = " and ".join(classes[:2])
            faults.add(
                f"{root}: {stem}.xml shows {both}; an image has one class here, so split or drop it, or leave such "
                "images out with data.options.mixed=leave_out"
            )
        elif len(classes) == 1:
            shown[stem] = classes[0]
        else:
            several, without = several + bool(classes), without + (not classes)
    faults.raise_any()
    told = ((several, "show objects of several classes"), (without, "show no object and have no class"))
    remarks = [f"{root}: {count} of {len(notes)} images {what}; left out" for count, what in told if count]
    if not shown:
        raise DataError(f"{root}: no image shows objects of one class, so none has a label")
    names = sorted(set(shown.values()))
    places = {name: label for label, name in enumerate(names)}
    records = {
        stem: ImageRecord(places[name], "", notes[stem][0], [box for _, box in notes[stem][1]])
        for stem, name in shown.items()
    }
    return records, names, remarks


def _listed_splits(
    root: Path, records: Mapping[str, ImageRecord], notes: Mapping[str, Annotated]
) -> dict[str, str] | None:
    """Return the split of each image by the lists; None if there are none."""
    files = {split: root / _MAIN / f"{name}.txt" for split, name in _LISTS.items()}
    if not any(file.is_file() for file in files.values()):
        return None
    faults, found = Faults(), dict[str, str]()
    for split, file in files.items():
        for line in read_lines(file, "an image per line") if file.is_file() else ():
            stem = line.strip()
            if stem not in notes:
                faults.add(f"{file}: image {stem} has no annotation {stem}.xml")
            elif found.setdefault(stem, split) != split:
                faults.add(f"{file}: image {stem} is in {_LISTS[found[stem]]}.txt, too; take it out of one of them")
    faults.raise_any()
    return {stem: split for stem, split in found.items() if stem in records}


def _mask_files(stems: Iterable[str], folder: Path) -> dict[int, str]:
    return {index: f"{stem}.png" for index, stem in enumerate(stems) if (folder / f"{stem}.png").is_file()}


def _open_indexed(
    root: Path, split: str, *, annotations: str = "Annotations", one_based: bool = True, **options: Any
) -> FileSource | None:
    """Open the split from the index; None if there is none, or it does not hold any more (then said)."""
    path = root / FOLDER / "voc.safetensors"
    if not path.exists():
        return None
    try:
        notes = _read_index(root, path, annotations, one_based)
    except Unusable as reason:
        _log.warning("%s: %s; the files are read instead. Renew it: wsolfast data index voc %s", path, reason, root)
        return None
    return _open(root, split, notes, **options)


def _index(
    root: Path,
    split: str,
    *,
    task: Task,
    workers: int | None,
    force: bool,
    annotations: str = "Annotations",
    one_based: bool = True,
    **options: Any,
) -> IndexedSplit | None:
    """Write the index, which is that of all splits, unless the one that is there still holds."""
    path, built = root / FOLDER / "voc.safetensors", False
    try:
        # Built for the first of the splits, it is new to the others.
        if (force and split == "train_weaksup") or not path.exists():
            raise Unusable("")
        notes = _read_index(root, path, annotations, one_based)
    except Unusable:
        started, files = time.time_ns(), _note_files(root, annotations)
        before = states(root, [root / annotations])
        with task("index", len(files)) as advance:
            notes = _read_notes(files, one_based, workers, advance)
        changed = first_changed(root, before, since=started)
        if changed is not None:
            raise DataError(f"{changed}: changed while it was indexed; give the command again") from None
        _write_index(path, notes, {"fingerprint": before, "annotations": annotations, "one_based": one_based})
        built = True
    try:
        return IndexedSplit(len(_open(root, split, notes, **options).image_ids), built=built)
    except SplitMissingError:
        return None


def _write_index(path: Path, notes: Mapping[str, Annotated], header: dict) -> None:
    objects = [one for _, some in notes.values() for one in some]
    names = sorted({name or "" for name, _ in objects})
    places = {name: label for label, name in enumerate(names)}
    table = BoxTable.from_lists([[box for _, box in some] for _, some in notes.values()])
    arrays = {
        "stems": pack_texts(notes),
        "sizes": np.array([size for size, _ in notes.values()], np.int64),
        "classes": np.array([places[name or ""] for name, _ in objects], np.int64),
        "boxes": table.boxes,
        "offsets": table.offsets,
    }
    write_index(path, header | {"names": names}, arrays)


def _read_index(root: Path, path: Path, annotations: str, one_based: bool) -> dict[str, Annotated]:
    header, arrays = read_index(path)
    if (header["annotations"], header["one_based"]) != (annotations, one_based):
        raise Unusable("of other options")
    changed = first_changed(root, header["fingerprint"])
    if changed is not None:
        raise Unusable(f"stale, {changed} has changed")
    names = [header["names"][label] for label in arrays["classes"].tolist()]
    objects = list(zip(names, arrays["boxes"].tolist(), strict=True))
    ends = arrays["offsets"].tolist()
    return {
        stem: ((width, height), objects[ends[k] : ends[k + 1]])
        for k, (stem, (width, height)) in enumerate(
            zip(unpack_texts(arrays["stems"]), arrays["sizes"].tolist(), strict=True)
        )
    }


SPEC = SourceSpec(open_source, layout=LAYOUT, title="Pascal VOC's layout", index=_index, open_indexed=_open_indexed)
