"""``shards``: tar files as WebDataset writes them, read in any order.

Members of one image share a name up to the first dot: ``KEY.jpg`` (or another image), ``KEY.cls`` with the label as
text, and if there ``KEY.json`` and ``KEY.mask.png``. The JSON may hold ``label``, ``image_id``, ``boxes`` (xyxy pixels
of the upright image, x1/y1 exclusive), ``width`` and ``height``. Labels are positions in ``classes.txt``; without it
the classes are the labels that occur.

Where every member lies is found once, from the heads of the members alone, and kept in ``.wsolfast`` below the folder
until a shard changes. Shards are plain tar files: compressed ones cannot be read in any order.
"""

import hashlib
import json
import logging
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsolfast.data._base import SPLITS, BoxTable
from wsolfast.data._classes import check_positions, occurring
from wsolfast.data._files import file_state, glob_files, read_lines, relative_path
from wsolfast.data._index import FOLDER, Unusable, pack_texts, read_index, unpack_texts, write_index
from wsolfast.data._packed import PackedSource, check_boxes
from wsolfast.data._spec import IndexedSplit, SourceSpec, Task
from wsolfast.data.errors import DataError, SplitMissingError
from wsolfast.data.images.decode import Decoder, Encoded
from wsolfast.data.metadata import FOLDERS

LAYOUT = """\
train-000000.tar    000000.jpg 000000.cls 000001.jpg 000001.cls ...     (val-*.tar and test-*.tar likewise)
test-000000.tar     000000.jpg 000000.json, such as {"label": 1, "boxes": [[60, 27, 385, 331]]}, 000000.mask.png
classes.txt         one class name per line, in the order of the labels (optional)
class_ids.txt       the id of each class in the data set that was packed, where it is not the label (optional)
Made by: wsolfast data pack NAME ROOT DIR"""
CLASSES = "classes.txt"
CLASS_IDS = "class_ids.txt"

_IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"}
_MASK = "mask.png"
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
# Of the small members; anything larger is not what it says.
_MAX_NOTE_BYTES = 1 << 20

_log = logging.getLogger(__name__)


def open_source(
    root: Path,
    split: str,
    *,
    shards: str = "{split}-*.tar",
    masks_fit: bool = True,
    decoder: Decoder = "auto",
    orient: bool = True,
) -> "ShardSource":
    """Open the images of ``split``.

    Args:
        root: the folder of the shards.
        split: which images.
        shards: pattern of their names; ``{split}`` becomes train, val or test.
        masks_fit: True if masks have the size of their images.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
    """
    files = _shards(root, split, shards)
    if not files:
        raise SplitMissingError(
            f"{root / shards.replace('{split}', FOLDERS[split])}: no such shard; expected\n{LAYOUT}"
        )
    arrays = _index(root, split, shards, files)
    names, ids = _classes(root, shards, arrays["labels"], split)
    return ShardSource(files, arrays, names, class_ids=ids, masks_fit=masks_fit, decoder=decoder, orient=orient)


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


@dataclass
class _Image:
    """Members of one key."""

    name: str = ""
    place: int = 0
    bytes: int = 0
    label: int | None = None
    note: dict = field(default_factory=dict)
    mask_place: int = 0
    mask_bytes: int = 0


def _shards(root: Path, split: str, pattern: str) -> list[Path]:
    return glob_files(root, relative_path(pattern.replace("{split}", FOLDERS[split]), "shards"))


def _classes(root: Path, pattern: str, labels: np.ndarray, split: str) -> tuple[list[str], list[int] | None]:
    """Return the names of the classes and their ids; ``labels`` of ``split`` become positions among them.

    Without a list the classes are the labels that occur in any split.
    """
    file = root / CLASSES
    if file.exists():
        names = read_lines(file, "a class name per line")
        check_positions(labels, names, file)
        return names, _class_ids(root / CLASS_IDS, len(names))
    others = [(other, _shards(root, other, pattern)) for other in SPLITS if other != split]
    ids = occurring([labels, *(_index(root, other, pattern, files)["labels"] for other, files in others if files)])
    labels[:] = np.searchsorted(ids, labels)
    return [f"class {label}" for label in ids], ids


def _class_ids(file: Path, count: int) -> list[int] | None:
    if not file.exists():
        return None
    words = [line.strip() for line in read_lines(file, "the id of a class per line")]
    if len(words) != count or not all(word.isascii() and word.isdecimal() and len(word) < 19 for word in words):
        raise DataError(f"{file}: expected {count} whole numbers, one per line of {CLASSES}")
    return [int(word) for word in words]


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
    def scan(file: Path) -> list[_Image]:
        found = _scan_shard(file, with_boxes=split != "train_weaksup")
        advance()
        return found

    with ThreadPoolExecutor(workers) as pool:
        by_shard = list(pool.map(scan, files))
    images = [image for found in by_shard for image in found]
    if not images:
        raise DataError(f"{files[0]}: split {split!r} is empty; the shards hold no image")
    twice = _first_twice(image.name for image in images)
    if twice is not None:
        raise DataError(f"{files[0].parent}: image {twice!r} comes twice in {split}; names are unique")
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


def _first_twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _scan_shard(file: Path, with_boxes: bool) -> list[_Image]:
    images: dict[str, _Image] = {}
    size, end = file.stat().st_size, 0
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                where = f"{file}, member {member.name!r}"
                relative_path(member.name, where)
                if not 0 <= member.size <= size - member.offset_data:
                    raise DataError(f"{where}: is cut off; get the shard again")
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(f"{where}: is a link, a device or a pipe; only files are taken")
                _add(images, tar, member, where, with_boxes)
            # The block of zeros that ends an archive: without it, members may be missing.
            tar.fileobj.seek(end)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise DataError(f"{file}: is cut off; get the shard again")
    except (tarfile.TarError, EOFError, ValueError) as error:
        advice = (
            "compressed shards cannot be read in any order: unpack them" if file.suffix != ".tar" else "get it again"
        )
        raise DataError(f"{file}: damaged, or not a plain tar file ({error}); {advice}") from error
    for key, image in images.items():
        if not image.bytes:
            raise DataError(f"{file}, {key}: no image, or an empty one, beside its label")
        if image.label is None:
            raise DataError(f"{file}, {key}: no label; it is the text of {key}.cls, or 'label' in {key}.json")
    return list(images.values())


def _add(images: dict[str, _Image], tar: tarfile.TarFile, member: tarfile.TarInfo, where: str, boxes: bool) -> None:
    split = _NAME.fullmatch(member.name)
    if split is None:
        return
    key, suffix = split[1], split[2].lower()
    if suffix in _IMAGE_SUFFIXES:
        image = images.setdefault(key, _Image())
        if image.bytes:
            raise DataError(f"{where}: {key} has two images")
        image.place, image.bytes = member.offset_data, member.size
        image.name = image.name or member.name
        image.note.setdefault("boxes", [])
        image.note.setdefault("size", (0, 0))
    elif suffix == _MASK:
        image = images.setdefault(key, _Image())
        image.mask_place, image.mask_bytes = member.offset_data, member.size
    elif suffix == "cls":
        images.setdefault(key, _Image()).label = _label(_note(tar, member, where).strip(), where)
    elif suffix == "json":
        _read_json(images.setdefault(key, _Image()), _note(tar, member, where), where, boxes)


def _note(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> str:
    if member.size > _MAX_NOTE_BYTES:
        raise DataError(f"{where}: {member.size} bytes are no label and no annotation")
    content = tar.extractfile(member)
    assert content is not None  # it is a file
    try:
        return content.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not text ({error})") from None


def _label(value: object, where: str) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or len(text) > 9:
        raise DataError(f"{where}: a label is a whole number from 0, got {text[:40]!r}")
    return int(text)


def _read_json(image: _Image, text: str, where: str, with_boxes: bool) -> None:
    try:
        note = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({type(error).__name__})") from None
    if not isinstance(note, dict):
        raise DataError(f"{where}: expected an object with label, boxes, width, height")
    if "label" in note:
        image.label = _label(note["label"], where)
    image_id = note.get("image_id")
    if image_id is not None:
        if not isinstance(image_id, str) or not image_id.isprintable() or not image_id:
            raise DataError(f"{where}: image_id is a text, got {str(image_id)[:40]!r}")
        image.name = image_id
    image.note = {
        "boxes": check_boxes(note.get("boxes") or [], where) if with_boxes else [],
        "size": _size(note, where),
    }


def _size(note: dict, where: str) -> tuple[int, int]:
    if "width" not in note or "height" not in note:
        return (0, 0)
    size = note["width"], note["height"]
    if not all(type(side) is int and 0 < side < 1 << 24 for side in size):
        raise DataError(f"{where}: width and height are positive whole numbers, got {str(size)[:80]}")
    return size


SPEC = SourceSpec(open_source, layout=LAYOUT, index=_index_split)
