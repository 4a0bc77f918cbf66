"""``shards``: tar files as WebDataset writes them, read in any order.

Members of one image share a name up to the first dot: ``KEY.jpg`` (or another image), ``KEY.cls`` with the label as
text, and if there ``KEY.json`` and ``KEY.mask.png``. The JSON may hold ``label``, the same if both are there,
``image_id``, ``boxes`` (xyxy pixels of the upright image, x1/y1 exclusive), ``width`` and ``height``. Labels are
positions in ``classes.txt``; without it the classes are the labels that occur.

Where every member lies is found once, from the heads of the members alone, and kept in ``.wsolfast`` below the folder
until a shard changes. Shards are plain tar files: compressed ones cannot be read in any order.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from wsolfast.data._classes import check_positions, occurring
from wsolfast.data._files import file_state, glob_files, numbered_lines, read_lines, relative_path
from wsolfast.data._index import FOLDER, Unusable, pack_texts, read_index, unpack_texts, write_index
from wsolfast.data._packed import PackedSource
from wsolfast.data._source import SPLITS, BoxTable
from wsolfast.data._spec import IndexedSplit, SourceSpec, Task
from wsolfast.data.errors import DataError, Faults, SplitMissingError
from wsolfast.data.images.decode import Bits, Decoder, Encoded
from wsolfast.data.metadata import FOLDERS
from wsolfast.data.sources._shard_members import ShardImage, scan_shard

LAYOUT = """\
train-000000.tar    000000.jpg 000000.cls 000001.jpg 000001.cls ...     (val-*.tar and test-*.tar likewise)
test-000000.tar     000000.jpg 000000.json, such as {"label": 1, "boxes": [[60, 27, 385, 331]]}, 000000.mask.png
classes.txt         one class name per line, in the order of the labels (optional)
class_ids.txt       the id of each class in the data set that was packed, where it is not the label (optional)
Made by: wsolfast data pack NAME ROOT DIR"""
CLASSES = "classes.txt"
CLASS_IDS = "class_ids.txt"

_log = logging.getLogger(__name__)


def open_source(
    root: Path,
    split: str,
    *,
    shards: str = "{split}-*.tar",
    masks_fit: bool = True,
    decoder: Decoder = "auto",
    orient: bool = True,
    bits: Bits | None = None,
) -> "ShardSource":
    """Open the images of ``split``.

    Args:
        root: the folder of the shards.
        split: which images.
        shards: pattern of their names; ``{split}`` becomes train, val or test.
        masks_fit: True if masks have the size of their images.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
        bits: the same.
    """
    files = _shards(root, split, shards)
    if not files:
        raise SplitMissingError(
            f"{root / shards.replace('{split}', FOLDERS[split])}: no such shard; expected\n{LAYOUT}"
        )
    arrays = _index(root, split, shards, files)
    image_ids = unpack_texts(arrays["image_ids"])
    names, ids = _classes(root, shards, arrays["labels"], image_ids, split)
    return ShardSource(
        files, arrays, names, class_ids=ids, masks_fit=masks_fit, decoder=decoder, orient=orient, bits=bits
    )


def _index_split(
    root: Path,
    split: str,
    *,
    task: Task,
    workers: int | None,
    force: bool,
    shards: str = "{split}-*.tar",
    **_: Any,
) -> IndexedSplit | None:
    """Find every member of every shard, unless that is known."""
    files = _shards(root, split, shards)
    if not files:
        return None
    path = _index_path(root, split, shards)
    arrays = None if force else _known(path, files)
    if arrays is not None:
        return IndexedSplit(len(arrays["labels"]), built=False)
    before = _fingerprint(files)
    with task(f"index {split} (shards)", len(files)) as advance:
        arrays = _scan(files, split, workers, advance)
    write_index(path, before, arrays)
    return IndexedSplit(len(arrays["labels"]))


class ShardSource(PackedSource):
    """Images of tar files, by where their bytes lie."""

    def __init__(
        self,
        files: Sequence[Path],
        arrays: dict[str, np.ndarray],
        class_names: Sequence[str],
        *,
        masks_fit: bool,
        **options: Any,
    ):
        boxes = BoxTable(arrays["boxes"], arrays["offsets"])
        ids = unpack_texts(arrays["image_ids"])
        super().__init__(ids, arrays["labels"], class_names, boxes=boxes, sizes=arrays["sizes"], **options)
        self.has_masks = bool(arrays["mask_bytes"].any())
        self.masks_fit = masks_fit
        self._files = files
        self._states = [file_state(file) for file in files]
        self._arrays = {key: arrays[key] for key in ("shard", "place", "bytes", "mask_place", "mask_bytes")}

    def content(self, index: int) -> Encoded:
        return self._member(index, "place", "bytes", "")

    def mask_content(self, index: int) -> Encoded | None:
        return self._member(index, "mask_place", "mask_bytes", ", mask") if self._arrays["mask_bytes"][index] else None

    def state(self, index: int) -> int:
        return (self._states[self._arrays["shard"][index]] + int(self._arrays["place"][index])) & 0xFFFFFFFFFFFFFFFF

    def describe(self, index: int) -> str:
        return f"{self._files[self._arrays['shard'][index]]}, {self.image_ids[index]}"

    def _member(self, index: int, place: str, count: str, what: str) -> Encoded:
        shard = int(self._arrays["shard"][index])
        name = self.describe(index) + what
        try:
            # Opened for each image: there may be more shards than files that a process may hold.
            with self._files[shard].open("rb", buffering=0) as stream:
                content = os.pread(stream.fileno(), int(self._arrays[count][index]), int(self._arrays[place][index]))
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror})") from error
        if file_state(self._files[shard]) != self._states[shard]:
            raise DataError(f"{name}: the shard has changed since it was opened; start again")
        return Encoded(content, name)


def _shards(root: Path, split: str, pattern: str) -> list[Path]:
    return glob_files(root, relative_path(pattern.replace("{split}", FOLDERS[split]), "shards"))


def _classes(
    root: Path, pattern: str, labels: np.ndarray, image_ids: Sequence[str], split: str
) -> tuple[list[str], list[int] | None]:
    """Return the names of the classes and their ids; ``labels`` of ``split`` become positions among them.

    Without a list the classes are the labels that occur in any split.
    """
    file = root / CLASSES
    if file.exists():
        names = read_lines(file, "a class name per line")
        faults, ids = Faults(), None
        with faults.taken():
            check_positions(labels, image_ids, names, file)
        with faults.taken():
            ids = _class_ids(root / CLASS_IDS, len(names))
        faults.raise_any()
        return names, ids
    others = [(other, _shards(root, other, pattern)) for other in SPLITS if other != split]
    ids = occurring([labels, *(_index(root, other, pattern, files)["labels"] for other, files in others if files)])
    labels[:] = np.searchsorted(ids, labels)
    return [f"class {label}" for label in ids], ids


def _class_ids(file: Path, count: int) -> list[int] | None:
    if not file.exists():
        return None
    faults, lines = Faults(), numbered_lines(file, "the id of a class per line")
    words = [(number, line.strip()) for number, line in lines]
    for number, word in words:
        if not (word.isascii() and word.isdecimal() and len(word) < 19):
            faults.add(f"{file}, line {number}: the id of a class is a whole number, got {word[:40]!r}")
    if len(words) != count:
        faults.add(f"{file}: expected {count} whole numbers, one per line of {CLASSES}, got {len(words)} lines")
    faults.raise_any()
    return [int(word) for _, word in words]


def _index_path(root: Path, split: str, pattern: str) -> Path:
    return root / FOLDER / f"shards-{split}-{hashlib.sha256(pattern.encode()).hexdigest()[:12]}.safetensors"


def _index(root: Path, split: str, pattern: str, files: list[Path]) -> dict[str, np.ndarray]:
    path = _index_path(root, split, pattern)
    arrays = _known(path, files)
    if arrays is None:
        before = _fingerprint(files)
        arrays = _scan(files, split, None, lambda: None)
        try:
            write_index(path, before, arrays)
        except OSError as error:
            _log.warning("%s: cannot be kept (%s); the shards are looked through each time", path, error.strerror)
    return arrays


def _fingerprint(files: list[Path]) -> dict[str, int]:
    return {file.name: file_state(file) for file in files}


def _known(path: Path, files: list[Path]) -> dict[str, np.ndarray] | None:
    """Return the index, if it is there, whole, and that of these files as they are."""
    if not path.exists():
        return None
    try:
        header, arrays = read_index(path)
    except Unusable as error:
        _log.warning("%s: %s; the shards are looked through again", path, error)
        return None
    return arrays if header == _fingerprint(files) else None


def _scan(files: list[Path], split: str, workers: int | None, advance: Callable[[], None]) -> dict[str, np.ndarray]:
    def scan(file: Path) -> list[ShardImage] | DataError:
        try:
            return scan_shard(file, with_boxes=split != "train_weaksup")
        except DataError as error:
            return error
        finally:
            advance()

    faults, by_shard = Faults(), []
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(scan, files):
            if isinstance(found, DataError):
                faults.add(found)
            else:
                by_shard.append(found)
    faults.raise_any()
    images = [image for found in by_shard for image in found]
    if not images:
        raise DataError(f"{files[0]}: split {split!r} is empty; the shards hold no image")
    for name, count in Counter(image.name for image in images).items():
        if count > 1:
            faults.add(f"{files[0].parent}: image {name!r} comes more than once in {split}; names are unique")
    faults.raise_any()
    boxes = BoxTable.from_lists([image.note["boxes"] for image in images])
    return {
        "image_ids": pack_texts(image.name for image in images),
        "labels": np.array([image.label for image in images], np.int64),
        "sizes": np.array([image.note["size"] for image in images], np.int64).reshape(-1, 2),
        "boxes": boxes.boxes,
        "offsets": boxes.offsets,
        "shard": np.repeat(np.arange(len(files)), [len(found) for found in by_shard]),
        **{
            key: np.array([getattr(image, key) for image in images], np.int64)
            for key in ("place", "bytes", "mask_place", "mask_bytes")
        },
    }


SPEC = SourceSpec(open_source, layout=LAYOUT, index=_index_split)
