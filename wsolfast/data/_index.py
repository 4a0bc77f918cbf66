"""The index of a data set: every image's path, size, label and boxes in one file, so that opening looks at no image.

``ROOT/.wsolfast/index-<data set>.safetensors`` holds, for each split, arrays and a JSON header that share one SHA-256;
another set of options is another file. Opening then asks the file system for folders and annotation files alone, never
for anything per image: a split is used if its *fingerprint* is that of the day the index was built, namely

- the time of the last change of every folder that holds its images, and of those above up to the one where image paths
  start, which changes when a file is added, removed, renamed or replaced in it,
- the SHA-256 of every annotation file (for ILSVRC's many XML files: the time of their folder's last change),
- the absence of those that may be there and are not.

An image or an XML file that is overwritten in place leaves no trace in that; ``wsolfast data index --force`` then
builds the index anew. An index that is stale, damaged or of another version is said in one line and left aside.
"""

import contextlib
import hashlib
import inspect
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsolfast.data._base import SPLITS, Annotation, BoxTable, Source, boxes_of
from wsolfast.data._files import FileSource
from wsolfast.data._spec import IndexSummary, SourceSpec, Task
from wsolfast.data.atomic import write_bytes
from wsolfast.data.errors import DataError
from wsolfast.data.images.masks import InstanceMasks

VERSION = 1
_IMAGES_PER_JOB = 128
# Which image bytes become which pixels; not part of what is indexed.
_DECODING = ("decoder",)

_log = logging.getLogger(__name__)


class IndexedSource(FileSource):
    """A split as its index has it.

    An image that could not be read when the index was built is looked for again in the files themselves, when it is
    asked for, and is then missed by name as without an index.
    """

    def __init__(self, *arguments: Any, sizes: np.ndarray, reopen: Callable[[], Source], **options: Any):
        super().__init__(*arguments, **options)
        self._size_table = sizes
        self._reopen = reopen

    def annotation(self, index: int) -> Annotation:
        width, height = self._size_table[index].tolist()
        if not width:
            return self._reopen().annotation(index)
        return Annotation((width, height), boxes_of(self._boxes, index), self.mask_path(index))


def index_path(name: str, root: Path, options: dict[str, object]) -> Path:
    """Where the index of a data set with these options lies."""
    key = ""
    if options:
        key = "-" + hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return root / ".wsolfast" / f"index-{name}{key}.safetensors"


def build_index(
    name: str,
    spec: SourceSpec,
    root: Path,
    options: dict,
    *,
    task: Task,
    workers: int | None = None,
    force: bool = False,
) -> IndexSummary:
    """Write the index of a data set, unless the one that is there still holds.

    Args:
        name: of the data set.
        spec: its own.
        root: its folder.
        options: its own, as for :func:`wsolfast.data.open_dataset`.
        task: makes a progress display from a title and a number of images.
        workers: threads that read headers and annotations; by the number of cores unless told.
        force: build it even so.

    Raises:
        DataError: if no split can be opened, or the tree changes all the while.
    """
    assert spec.consulted is not None
    indexed_by = _indexed_options(spec, options)
    path = index_path(name, root, indexed_by)
    # Made before anything is looked at, because it changes the time of the root.
    path.parent.mkdir(exist_ok=True)
    if not force:
        held = _still_held(path, spec, root, indexed_by)
        if held is not None:
            return IndexSummary(path, held, (), built=False)
    tensors: dict[str, np.ndarray] = {}
    metadata = {"format": f"wsolfast index {VERSION}"}
    refused: list[DataError] = []
    images: dict[str, int] = {}
    unreadable: list[str] = []
    for split in SPLITS:
        started = time.time_ns()
        before = _states(root, spec.consulted(root, split, **options))
        try:
            source = spec.open_source(root, split, **options)
        except DataError as error:
            refused.append(error)
            continue
        assert isinstance(source, FileSource)
        before |= _states(root, _folders(source))
        with task(f"index {split}", len(source.image_ids)) as advance:
            arrays, header, complaints = _index_split(source, split, root, advance, workers)
        header["fingerprint"] = before
        changed = _changed(root, before, since=started)
        if changed is not None:
            raise DataError(f"{changed}: changed while it was indexed; give the command again")
        text = json.dumps(header)
        tensors |= {f"{split}.{key}": array for key, array in arrays.items()}
        metadata |= {split: text, f"{split}.sha256": digest_of(text, arrays)}
        images[split] = len(source.image_ids)
        unreadable += complaints
    if not images:
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        raise refused[0]
    write_index(path, tensors, metadata)
    return IndexSummary(path, images, tuple(unreadable), built=True)


def open_indexed(name: str, spec: SourceSpec, root: Path, split: str, options: dict) -> IndexedSource | None:
    """The split from its index; None if there is none, it lacks the split, or it does not hold any more (then said)."""
    path = index_path(name, root, _indexed_options(spec, options))
    if not path.exists():
        return None
    try:
        found = read_split(path, split)
        if found is None:
            return None
        header, arrays = found
        changed = _changed(root, header["fingerprint"])
    except Unusable as error:
        _log.warning("%s: %s; the files are read instead. Renew it: %s", path, error, _command(name, root))
        return None
    if changed is not None:
        _log.warning(
            "%s: stale, %s has changed; the files are read instead. Renew it: %s", path, changed, _command(name, root)
        )
        return None
    return _source(spec, root, split, options, header, arrays)


class Unusable(Exception):
    """Why an index cannot be used."""


def _command(name: str, root: Path) -> str:
    return f"wsolfast data index {name} {root}"


def _indexed_options(spec: SourceSpec, options: dict) -> dict[str, object]:
    """The options that differ from what they are unless told, without those that only concern pixels."""
    usual = {name: parameter.default for name, parameter in inspect.signature(spec.open_source).parameters.items()}
    return {key: value for key, value in options.items() if value != usual[key] and key not in _DECODING}


def _still_held(path: Path, spec: SourceSpec, root: Path, options: dict) -> dict[str, int] | None:
    """The number of images of each split, if the index holds for all it has and has all that can be opened."""
    images = {}
    try:
        for split in SPLITS:
            found = read_split(path, split) if path.exists() else None
            if found is None:
                try:
                    spec.open_source(root, split, **options)
                except DataError:
                    continue
                return None
            if _changed(root, found[0]["fingerprint"]) is not None:
                return None
            images[split] = len(found[1]["labels"])
    except Unusable:
        return None
    return images or None


def _index_split(
    source: FileSource, split: str, root: Path, advance: Callable[..., None], workers: int | None
) -> tuple[dict[str, np.ndarray], dict, list[str]]:
    count = len(source.image_ids)

    def look(start: int) -> list[Annotation | DataError]:
        found = [_look(source, index, split) for index in range(start, min(start + _IMAGES_PER_JOB, count))]
        advance(len(found))
        return found

    with ThreadPoolExecutor(workers) as pool:
        found = [each for part in pool.map(look, range(0, count, _IMAGES_PER_JOB)) for each in part]
    there = [each if isinstance(each, Annotation) else None for each in found]
    boxes = BoxTable.from_lists([each.boxes.tolist() if each else [] for each in there])
    arrays = {
        "image_ids": pack_texts(source.image_ids),
        "labels": source.labels,
        "sizes": np.array([each.size if each else (0, 0) for each in there], np.int32),
        "boxes": boxes.boxes,
        "offsets": boxes.offsets,
    }
    if source.has_masks:
        arrays["masks"] = pack_texts(_mask_text(source.mask_names(index)) for index in range(count))
    header = {
        "folder": _stored(source.folder, root),
        "mask_folder": _stored(source.mask_folder, root),
        "instance_masks": not source.masks_fit,
        "class_names": list(source.class_names),
    }
    return arrays, header, [str(each) for each in found if isinstance(each, DataError)]


def _look(source: FileSource, index: int, split: str) -> Annotation | DataError:
    try:
        if split == "train_weaksup":
            # Boxes of the training images are not even stored.
            return Annotation(source.header_size(index), torch.zeros((0, 4)))
        return source.annotation(index)
    except DataError as error:
        return error


def _source(
    spec: SourceSpec, root: Path, split: str, options: dict, header: dict, arrays: dict[str, np.ndarray]
) -> IndexedSource:
    texts = unpack_texts(arrays["masks"]) if "masks" in arrays else ()
    named = _instance_masks if header.get("instance_masks") else str
    return IndexedSource(
        root / header["folder"],
        unpack_texts(arrays["image_ids"]),
        arrays["labels"],
        header["class_names"],
        boxes=BoxTable(arrays["boxes"], arrays["offsets"]),
        masks={index: named(text) for index, text in enumerate(texts) if text},
        mask_folder=root / header["mask_folder"],
        sizes=arrays["sizes"],
        reopen=partial(spec.open_source, root, split, **options),
        **{key: options[key] for key in ("decoder", "orient") if key in options},
    )


def _folders(source: FileSource) -> set[Path]:
    """Folders of the images and masks, and those above them below the source's own."""
    folders = set()
    for parent in {os.path.dirname(image_id) for image_id in source.image_ids}:
        folders.add(source.folder / parent)
        while parent := os.path.dirname(parent):
            folders.add(source.folder / parent)
    return folders | {path.parent for path in source.mask_paths()}


def _mask_text(names: str | InstanceMasks | None) -> str:
    """Names of mask files in one text; those of several objects come from lines and hold no line break."""
    if isinstance(names, InstanceMasks):
        return "\n".join([names.ignored or "", *names.objects])
    return names or ""


def _instance_masks(text: str) -> InstanceMasks:
    ignored, *objects = text.split("\n")
    return InstanceMasks(tuple(objects), ignored or None)


def _states(root: Path, paths: Iterable[Path]) -> dict[str, str | int | None]:
    """What each file or folder is like now, by its path as stored."""
    return {_stored(path, root): _state(path) for path in paths}


def _state(path: Path) -> str | int | None:
    """SHA-256 of a file, time of the last change of a folder in ns, None for neither."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except IsADirectoryError:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


def _changed(root: Path, fingerprint: dict[str, str | int | None], since: float = math.inf) -> Path | None:
    """The first file or folder that is not as it was, or folder that changed at ``since`` (ns) or later."""
    for path, state in fingerprint.items():
        if _state(root / path) != state or (isinstance(state, int) and state >= since):
            return root / path
    return None


def _stored(path: Path, root: Path) -> str:
    """Below the root relative to it, so that the tree can move; absolute elsewhere."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path.absolute())


def pack_texts(texts: Iterable[str]) -> np.ndarray:
    # Every text is closed by a zero, which no path has: so no text at all and one empty text differ.
    return np.frombuffer("".join(f"{text}\0" for text in texts).encode(errors="surrogateescape"), np.uint8)


def unpack_texts(packed: np.ndarray) -> list[str]:
    return packed.tobytes().decode(errors="surrogateescape").split("\0")[:-1]


def write_index(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    import safetensors.numpy

    content = safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in tensors.items()}, metadata)
    write_bytes(path, lambda stream: stream.write(content))


def read_split(path: Path, split: str) -> tuple[dict, dict[str, np.ndarray]] | None:
    """Header and arrays of a split; None if the index has none of it.

    Raises:
        Unusable: if the file is damaged or of another version.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np") as opened:
            about = opened.metadata() or {}
            keys = [key for key in opened.keys() if key.startswith(f"{split}.")]  # noqa: SIM118
            arrays = {key.partition(".")[2]: opened.get_tensor(key) for key in keys}
    except (OSError, safetensors.SafetensorError) as error:
        raise Unusable(f"damaged ({error})") from None
    if about.get("format") != f"wsolfast index {VERSION}":
        raise Unusable(f"of another version ({about.get('format')})")
    if split not in about and not arrays:
        return None
    if about.get(f"{split}.sha256") != digest_of(about.get(split, ""), arrays):
        raise Unusable(f"damaged (the SHA-256 of {split} does not match)")
    return json.loads(about[split]), arrays


def digest_of(header: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(header.encode())
    for key in sorted(arrays):
        part = np.ascontiguousarray(arrays[key])
        digest.update(f"\n{key} {part.dtype.str} {part.shape}\n".encode())
        digest.update(part.data)
    return digest.hexdigest()
