"""The index of a data set: what its files say of every image, written once."""

from pathlib import Path
from typing import Any

from wsolfast.data._index import build_index
from wsolfast.data._spec import IndexSummary, Task, silent
from wsolfast.data.sources import check_options, existing_folder, get_spec


def index(
    name: str,
    root: str | Path,
    *,
    task: Task | None = None,
    workers: int | None = None,
    force: bool = False,
    **options: Any,
) -> IndexSummary:
    """Write what a data set's files say into one file, which :func:`open_dataset` then opens instead.

    Args:
        name: of the data set.
        root: the data set's folder; the index lies in ``.wsolfast`` below it.
        task: makes a progress display from a title and a number of images, see ``engine.progress``.
        workers: threads; by the number of cores unless told.
        force: build it even if the one that is there still holds.
        options: the data set's own; other options are another index.

    Returns:
        IndexSummary: where it lies and what it holds.

    Raises:
        DataError: if no split can be opened, or the tree changes while it is read.
        ValueError: for an unknown name or option.
    """
    spec, task = get_spec(name), task or silent
    if spec.index is None and spec.consulted is None:
        raise ValueError(f"data set {name!r} opens as fast from its files: there is nothing to index")
    check_options(name, options)
    root = existing_folder(name, root)
    if spec.index is not None:
        return spec.index(root, task=task, workers=workers, force=force, **options)
    return build_index(name, spec, root, options, task=task, workers=workers, force=force)
