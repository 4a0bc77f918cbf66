"""``ilsvrc``: ImageNet-1k (ILSVRC 2012) as it is distributed, by the challenge or by Kaggle.

``train_weaksup`` is the training set, ``test`` the validation set with its CLS-LOC boxes, several per image. The set
has no ``train_fullsup`` of its own: give ``metadata`` and ``val_images`` for the benchmark's ImageNetV2.

Every validation image has an XML file of its own, and there are 1,281,167 training images to be listed. The index,
``ROOT/.wsolfast/ilsvrc-<split>.safetensors``, holds both, so that opening asks the file system for folders and lists
alone, never for anything per image. It is used if its *fingerprint* is that of the day it was built, namely

- the time of the last change of every folder of images or XML files, which changes when a file is added, removed,
  renamed or replaced in it,
- the SHA-256 of the two lists,
- the absence of those that may be there and are not.

An XML file that is overwritten in place leaves no trace in that; ``wsolfast data index --force`` then builds the index
anew. An index that is stale, damaged or of another version is said in one line and left aside.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from wsolfast.data._files import FileSource
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
from wsolfast.data._source import Annotation, BoxTable
from wsolfast.data._spec import IndexedSplit, SourceSpec, Task
from wsolfast.data.errors import DataError, SplitMissingError
from wsolfast.data.images.decode import Bits, Decoder
from wsolfast.data.metadata import metadata_source
from wsolfast.data.sources._ilsvrc_tree import (
    FOLDERS,
    LAYOUT,
    Listing,
    class_folders,
    consulted,
    image_folder,
    list_split,
    read_classes,
)

_IMAGES_PER_JOB = 128

_log = logging.getLogger(__name__)


def open_source(
    root: Path,
    split: str,
    *,
    metadata: str | Path | None = None,
    val_images: str | Path | None = None,
    subset: bool = False,
    decoder: Decoder = "auto",
    orient: bool = True,
    bits: Bits | None = None,
) -> FileSource:
    """Open the images of ``split`` in the official tree.

    Args:
        root: the folder that holds ``train`` and ``val``, or Kaggle's.
        split: which images.
        metadata: the benchmark's ``metadata/ILSVRC``, for ``train_fullsup`` only.
        val_images: the folder in which the benchmark's ``val2/`` lies; ``root`` unless told.
        subset: only some of the classes are there: they are those with training images (or else validation images),
            and what is annotated of others does not count.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
        bits: the same.
    """
    if split in FOLDERS:
        return _Source(list_split(root, split, subset), decoder=decoder, orient=orient, bits=bits)
    folder = image_folder(root)
    classes = read_classes(root, folder, subset)
    if metadata is None:
        raise SplitMissingError(
            f"{root}: ILSVRC has no train_fullsup split; give metadata=DIR (the benchmark's metadata/ILSVRC) and "
            "val_images=DIR (where val2/ of ImageNetV2 lies)"
        )
    if subset and classes.ids is None:
        raise DataError(f"{root / 'LOC_synset_mapping.txt'}: missing; with subset it tells the labels of {metadata}")
    return metadata_source(
        metadata,
        split,
        Path(val_images or folder),
        classes.names,
        kept=classes.ids,
        class_ids=classes.ids,
        decoder=decoder,
        orient=orient,
        bits=bits,
    )


class _Source(FileSource):
    """Images of the tree; the XML of an image is read when its boxes are asked for and the index does not tell them."""

    def __init__(self, listing: Listing, **options: Any):
        options["class_ids"] = listing.class_ids
        super().__init__(listing.folder, listing.image_ids, listing.labels, listing.names, **options)
        self.remarks = listing.remarks
        self._listing = listing

    def told_size(self, index: int) -> tuple[int, int] | None:
        if self._listing.boxes is None or index in self._sizes:
            return super().told_size(index)
        return self._listing.annotation(index).size

    def annotation(self, index: int) -> Annotation:
        if self._listing.boxes is None or index in self._sizes:
            return super().annotation(index)
        return self._listing.annotation(index)


def _open_indexed(
    root: Path,
    split: str,
    *,
    subset: bool = False,
    decoder: Decoder = "auto",
    orient: bool = True,
    bits: Bits | None = None,
    **_: Any,
) -> FileSource | None:
    """Open the split from its index; None if there is none, or it does not hold any more (then said)."""
    path = _index_path(root, split, subset)
    if not path.exists():
        return None
    try:
        listing, arrays = _read(root, path)
    except Unusable as reason:
        _log.warning(
            "%s: %s; the files are read instead. Renew it: wsolfast data index ilsvrc %s",
            path,
            reason,
            root,
        )
        return None
    annotations: dict[str, Any] = {}
    if listing.boxes is not None:
        sizes = enumerate(map(tuple, arrays["sizes"].tolist()))
        annotations["sizes"] = {index: size for index, size in sizes if size[0]}
        annotations["boxes"] = BoxTable(arrays["boxes"], arrays["offsets"])
    return _Source(listing, **annotations, decoder=decoder, orient=orient, bits=bits)


def _index(
    root: Path, split: str, *, task: Task, workers: int | None, force: bool, subset: bool = False, **_: Any
) -> IndexedSplit | None:
    """Write the index of a split, unless the one that is there still holds.

    Raises:
        DataError: if the split cannot be listed, or the tree changes all the while.
    """
    if split not in FOLDERS or not (image_folder(root) / FOLDERS[split]).is_dir():
        return None
    path = _index_path(root, split, subset)
    if not force and path.exists():
        try:
            return IndexedSplit(len(_read(root, path)[0].labels), built=False)
        except Unusable:
            pass
    started = time.time_ns()
    before = states(root, consulted(root))
    listing = list_split(root, split, subset)
    # A folder without an image is no class until it has one.
    before |= states(root, [*listing.folders(), *class_folders(listing.folder)])
    arrays = {"image_ids": pack_texts(listing.image_ids), "labels": np.array(listing.labels, np.int64)}
    unreadable: tuple[str, ...] = ()
    with task(f"index {split}", len(listing.image_ids)) as advance:
        if listing.boxes is not None:
            found = _annotations(listing, workers, advance)
            arrays |= _annotation_arrays(found)
            unreadable = tuple(str(each) for each in found if isinstance(each, DataError))
    changed = first_changed(root, before, since=started)
    if changed is not None:
        raise DataError(f"{changed}: changed while it was indexed; give the command again")
    header = {
        "folder": str(listing.folder.relative_to(root)),
        "synsets": listing.synsets,
        "names": listing.names,
        "class_ids": listing.class_ids,
        "box_folder": None if listing.boxes is None else str(listing.boxes.relative_to(root)),
        "fingerprint": before,
    }
    write_index(path, header, arrays)
    return IndexedSplit(len(listing.image_ids), unreadable)


def _annotations(listing: Listing, workers: int | None, advance: Callable[..., None]) -> list[Annotation | DataError]:
    count = len(listing.image_ids)

    def read(index: int) -> Annotation | DataError:
        try:
            return listing.annotation(index)
        except DataError as error:
            return error

    def read_some(start: int) -> list[Annotation | DataError]:
        found = [read(index) for index in range(start, min(start + _IMAGES_PER_JOB, count))]
        advance(len(found))
        return found

    with ThreadPoolExecutor(workers) as pool:
        return [each for some in pool.map(read_some, range(0, count, _IMAGES_PER_JOB)) for each in some]


def _annotation_arrays(found: list[Annotation | DataError]) -> dict[str, np.ndarray]:
    """Pack sizes and boxes; size 0 where there is no annotation."""
    boxes = BoxTable.from_lists([each.boxes.tolist() if isinstance(each, Annotation) else [] for each in found])
    sizes = [each.size if isinstance(each, Annotation) else (0, 0) for each in found]
    return {"sizes": np.array(sizes, np.int64), "boxes": boxes.boxes, "offsets": boxes.offsets}


def _index_path(root: Path, split: str, subset: bool) -> Path:
    return root / FOLDER / f"ilsvrc-{split}{'-subset' * subset}.safetensors"


def _read(root: Path, path: Path) -> tuple[Listing, dict[str, np.ndarray]]:
    """Read a split and its annotations from the index.

    Raises:
        Unusable: if it is damaged, or the tree has changed.
    """
    header, arrays = read_index(path)
    changed = first_changed(root, header["fingerprint"])
    if changed is not None:
        raise Unusable(f"stale, {changed} has changed")
    listing = Listing(
        root / header["folder"],
        unpack_texts(arrays["image_ids"]),
        arrays["labels"].tolist(),
        header["synsets"],
        header["names"],
        header.get("class_ids"),
        header["box_folder"] and root / header["box_folder"],
    )
    return listing, arrays


SPEC = SourceSpec(
    open_source,
    layout=LAYOUT,
    title="ILSVRC",
    required=("train_weaksup", "test"),
    index=_index,
    open_indexed=_open_indexed,
)
