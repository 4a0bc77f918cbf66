"""The folder is the registry: ``sources/<name>.py`` is the data set ``<name>``, and its ``SPEC`` describes it."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wsolfast.data._base import SPLITS, Source
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import DataError


def list_names() -> tuple[str, ...]:
    """Names of all data sets, sorted; none of them is imported."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def get_spec(name: str) -> SourceSpec:
    """The description of the data set ``name``.

    Raises:
        ValueError: if there is no such data set; the message lists them and names the nearest one.
    """
    if name not in list_names():
        known = list_names()
        raise ValueError(f"data set: expected one of {', '.join(known)}, got {name!r}{nearest(name, known)}")
    return importlib.import_module(f"{__name__}.{name}").SPEC


def open_source(name: str, root: str | Path | None, split: str, **options: Any) -> Source:
    """Open one split: its ids, labels, annotations and pixels, which :func:`wsolfast.data.open_dataset` looks at.

    They come from the data set's index, see :func:`wsolfast.data.index`, if there is one that still holds.
    """
    spec, folder = _asked_for(name, root, split, options)
    indexed = spec.open_indexed and spec.open_indexed(folder, split, **options)
    return indexed or spec.open_source(folder, split, **options)


def open_files(name: str, root: str | Path | None, split: str, **options: Any) -> Source:
    """Open one split as :func:`open_source` does, without its index."""
    spec, folder = _asked_for(name, root, split, options)
    return spec.open_source(folder, split, **options)


def check_options(name: str, options: dict[str, Any]) -> None:
    """Refuse options that the data set does not have.

    Raises:
        ValueError: at the first one; the message lists the options and names the nearest one.
    """
    known = get_spec(name).options
    for option in options:
        if option not in known:
            hint = nearest(option, known)
            raise ValueError(f"data set {name!r} has no option {option!r}; it has {', '.join(known)}{hint}")


def existing_folder(name: str, root: str | Path | None) -> Path:
    """The folder of a data set that has one.

    Raises:
        DataError: if it is not given, or not there.
    """
    if root is None:
        raise DataError(f"data set {name!r} needs its folder: give root (data.root=DIR)")
    if not Path(root).is_dir():
        raise DataError(f"{root}: no such folder; {name!r} data is read from it")
    return Path(root)


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of a message that names the word that is most like ``word``, if one is."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _asked_for(
    name: str, root: str | Path | None, split: str, options: dict[str, Any]
) -> tuple[SourceSpec, Path | None]:
    spec = get_spec(name)
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}{nearest(split, SPLITS)}")
    check_options(name, options)
    return spec, None if spec.rendered else existing_folder(name, root)
