"""A data set's images, labels, boxes and masks written as shards, see :mod:`wsolfast.data.sources.shards`."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from wsolfast.data._files import FileSource
from wsolfast.data._packed import PackedSource, format_of
from wsolfast.data._source import SPLITS, Source
from wsolfast.data._spec import Task, silent
from wsolfast.data.atomic import write_bytes
from wsolfast.data.errors import DataError, SplitMissingError
from wsolfast.data.metadata import FOLDERS
from wsolfast.data.sources import open_source
from wsolfast.data.sources.shards import CLASS_IDS, CLASSES
from wsolfast.data.tools._claim import claim

_SETTINGS = "wsolfast-pack.json"
_VERSION = 1
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif"}


@dataclass(frozen=True)
class PackSummary:
    """Outcome of :func:`wsolfast.data.pack`."""

    root: Path  # of the shards
    images: dict[str, int]  # of each split
    shards: int  # of all splits
    written: int  # by this call; the others were there


def pack(
    name: str,
    root: str | Path | None,
    output: str | Path,
    *,
    per_shard: int = 1000,
    task: Task | None = None,
    workers: int | None = None,
    **options: Any,
) -> PackSummary:
    """Write every split of a data set as tar files, which ``open_dataset("shards", output, ...)`` and others read.

    Files of images are copied byte for byte, rendered images are PNG. Called again it writes what is missing.

    Args:
        name: one of ``NAMES``.
        root: the data set's folder; None for ``synthetic``.
        output: a new or empty folder, or one of an earlier call with the same settings.
        per_shard: images in a shard.
        task: makes a progress display from a title and a number of images.
        workers: threads; by the number of cores unless told.
        options: the data set's own, as for :func:`wsolfast.data.open_dataset`.

    Returns:
        PackSummary: how much is there, and how much of it is new.

    Raises:
        DataError: if there is no split, a split or an image cannot be read, the splits number their classes in
            different ways, or ``output`` holds anything else.
        ValueError: for an unknown name or option, or a number out of range.
    """
    if per_shard < 1:
        raise ValueError(f"per_shard: expected at least 1, got {per_shard}")
    sources, refused = {}, []
    for split in SPLITS:
        try:
            sources[split] = open_source(name, root, split, **options)
        except SplitMissingError as error:
            refused.append(error)
    if not sources:
        raise refused[0]
    split, *others = sources
    odd = next((each for each in others if list(sources[each].class_names) != list(sources[split].class_names)), None)
    if odd is not None:
        raise DataError(f"{root}: {odd} and {split} have other classes, or other orders of them; shards have one list")
    output, task = Path(output), task or silent
    counts = {split: len(source.image_ids) for split, source in sources.items()}
    settings = {"version": _VERSION, "per_shard": per_shard, "images": counts, "options": options}
    settings["data"] = [name, None if root is None else str(Path(root).resolve())]
    # Shards that are there keep their labels, so a list of classes that has changed would name them wrongly.
    labelled = [[list(one.class_names), list(one.image_ids), one.labels.tolist()] for one in sources.values()]
    settings["labels"] = hashlib.sha256(json.dumps(labelled).encode()).hexdigest()
    claim(output, _SETTINGS, settings)
    jobs = [
        (split, number, range(start, min(start + per_shard, counts[split])))
        for split in sources
        for number, start in enumerate(range(0, counts[split], per_shard))
    ]

    def write(job: tuple[str, int, range]) -> bool:
        split, number, part = job
        file = output / f"{FOLDERS[split]}-{number:06d}.tar"
        missing = not file.exists()
        if missing:
            write_bytes(file, lambda stream: _write_shard(stream, sources[split], part, split != "train_weaksup"))
        advance(len(part))
        return missing

    with task("pack", sum(counts.values())) as advance, ThreadPoolExecutor(workers) as pool:
        written = sum(pool.map(write, jobs))
    names = next(iter(sources.values())).class_names
    text = "".join(f"{' '.join(name.split()) or f'class {label}'}\n" for label, name in enumerate(names))
    write_bytes(output / CLASSES, lambda stream: stream.write(text.encode()))
    ids = next(iter(sources.values())).class_ids
    if ids is not None and list(ids) != list(range(len(ids))):
        lines = "".join(f"{class_id}\n" for class_id in ids)
        write_bytes(output / CLASS_IDS, lambda stream: stream.write(lines.encode()))
    return PackSummary(output, counts, len(jobs), written)


def _write_shard(stream: BinaryIO, source: Source, part: range, annotated: bool) -> None:
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index in part:
            for suffix, content in _members(source, index, annotated):
                member = tarfile.TarInfo(f"{index:08d}.{suffix}")
                member.size = len(content)
                member.mode = 0o644
                tar.addfile(member, io.BytesIO(content))


def _members(source: Source, index: int, annotated: bool) -> Iterator[tuple[str, bytes]]:
    content = _image(source, index)
    kind = format_of(content, source.describe(index))
    suffix = _SUFFIXES.get(kind or "")
    if suffix is None:
        raise DataError(f"{source.describe(index)}: {kind} is not an image format of shards")
    label = int(source.labels[index])
    note: dict[str, object] = {"image_id": source.image_ids[index], "label": label}
    mask = source.mask(index) if annotated else None
    if annotated:
        annotation = source.annotation(index)
        note |= {"boxes": annotation.boxes.tolist(), "width": annotation.size[0], "height": annotation.size[1]}
    yield suffix, content
    yield "cls", str(label).encode()
    yield "json", json.dumps(note).encode()
    if mask is not None:
        # 2 is what marks ignored pixels without doubt: alone, 255 would be the object of a black and white mask.
        yield "mask.png", _png(np.where(mask == 255, np.uint8(2), mask))


def _image(source: Source, index: int) -> bytes:
    if isinstance(source, FileSource):
        # Looked at as a whole before it is copied: what cannot be read is told now.
        source.read(index)
        return source.path(index).read_bytes()
    if isinstance(source, PackedSource):
        return source.content(index).content
    return _png(source.read(index))


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
