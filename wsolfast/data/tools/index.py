"""The index of a data set: what its files tell slowly, written once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsolfast.data._index import FOLDER
from wsolfast.data._source import SPLITS
from wsolfast.data._spec import Task, silent
from wsolfast.data.errors import DataError
from wsolfast.data.sources import check_options, existing_folder, get_spec, own_options


@dataclass(frozen=True)
class IndexSummary:
    """Outcome of :func:`wsolfast.data.index`."""

    path: Path  # the folder of the index
    images: dict[str, int]  # of each split
    unreadable: tuple[str, ...]  # one message per image whose annotation cannot be read
    built: bool  # False if the index that was there still holds


def index(
    name: str,
    root: str | Path,
    *,
    task: Task | None = None,
    workers: int | None = None,
    force: bool = False,
    **options: Any,
) -> IndexSummary:
    """Write what the files of a data set tell slowly into files that ``open_dataset`` then reads instead.

    Args:
        name: ``ilsvrc``, ``voc`` or ``shards``; all others open as fast from their files.
        root: its folder; the index lies in ``.wsolfast`` below it.
        task: makes a progress display from a title and a number of images, see ``engine.progress``.
        workers: threads; by the number of cores unless told.
        force: build it even if the one that is there still holds.
        options: the data set's own.

    Returns:
        IndexSummary: where it lies and what it holds.

    Raises:
        DataError: if there is no split, or one cannot be read, or the tree changes while it is read.
        ValueError: for an unknown name or option, or a data set that needs no index.
    """
    spec = get_spec(name)
    if spec.index is None:
        raise ValueError(f"data set {name!r} opens as fast from its files: there is nothing to index")
    check_options(name, options)
    folder = existing_folder(name, root)
    found = {}
    for split in SPLITS:
        own = own_options(options)
        indexed = spec.index(folder, split, task=task or silent, workers=workers, force=force, **own)
        if indexed is not None:
            found[split] = indexed
    if not found:
        raise DataError(f"{folder}: no split is there; expected\n{spec.layout}")
    return IndexSummary(
        folder / FOLDER,
        {split: indexed.images for split, indexed in found.items()},
        tuple(message for indexed in found.values() for message in indexed.unreadable),
        any(indexed.built for indexed in found.values()),
    )
