"""The folder is the registry: ``sources/<name>.py`` is the data set ``<name>``, and its ``SPEC`` describes it."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from wsolfast._choices import check_choices, check_types
from wsolfast._nearest import nearest
from wsolfast.data._files import relative_path
from wsolfast.data._source import SPLITS, Source
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import DataError
from wsolfast.data.hierarchies import list_hierarchies, read_hierarchy, shipped

# The option that every data set has: where the levels above its classes stand.
HIERARCHY = "hierarchy"


def list_names() -> tuple[str, ...]:
    """Return the names of all data sets, sorted; none of them is imported."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def get_spec(name: str) -> SourceSpec:
    """Return the description of the data set ``name``.

    Raises:
        ValueError: if there is no such data set; the message names the nearest one.
    """
    if name not in list_names():
        raise ValueError(f"no data set named {name!r}; {nearest(name, list_names())}")
    return importlib.import_module(f"{__name__}.{name}").SPEC


def open_source(name: str, root: str | Path | None, split: str, **options: Any) -> Source:
    """Open one split: its ids, labels, annotations and pixels, which :func:`wsolfast.data.open_dataset` looks at.

    They come from the data set's index, see :func:`wsolfast.data.index`, if there is one that still holds.
    """
    spec, folder = _asked_for(name, root, split, options)
    own = own_options(options)
    indexed = spec.open_indexed and spec.open_indexed(folder, split, **own)
    return _with_hierarchy(indexed or spec.open_source(folder, split, **own), spec, folder, options)


def open_files(name: str, root: str | Path | None, split: str, **options: Any) -> Source:
    """Open one split as :func:`open_source` does, without its index."""
    spec, folder = _asked_for(name, root, split, options)
    return _with_hierarchy(spec.open_source(folder, split, **own_options(options)), spec, folder, options)


def own_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that ``open_source`` of a data set's file takes: all but those that every data set has."""
    return {name: value for name, value in options.items() if name != HIERARCHY}


def check_options(name: str, options: dict[str, Any]) -> None:
    """Refuse options that the data set does not have, and values that their annotation does not have.

    Raises:
        ValueError: at the first one; the message names the nearest option, the choices, or what was expected.
    """
    spec = get_spec(name)
    for option in own_options(options):
        if option not in spec.options:
            raise ValueError(
                f"data set {name!r} has no option {option!r}; {nearest(option, [*spec.options, HIERARCHY])}"
            )
    check_choices("", spec.open_source, options)
    check_types(spec.open_source, options)


def existing_folder(name: str, root: str | Path | None) -> Path:
    """Return the folder of a data set that has one.

    Raises:
        DataError: if it is not given, or not there.
    """
    if root is None:
        raise DataError(f"data set {name!r} needs its folder: give root (data.root=DIR)")
    if not Path(root).is_dir():
        raise DataError(f"{root}: no such folder; {name!r} data is read from it")
    return Path(root)


def _asked_for(
    name: str, root: str | Path | None, split: str, options: dict[str, Any]
) -> tuple[SourceSpec, Path | None]:
    spec = get_spec(name)
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    check_options(name, options)
    return spec, None if spec.rendered else existing_folder(name, root)


def _with_hierarchy(source: Source, spec: SourceSpec, folder: Path | None, options: dict[str, Any]) -> Source:
    chosen = options.get(HIERARCHY, spec.hierarchy)
    if chosen in list_hierarchies():
        source.hierarchy = shipped(chosen)
    elif isinstance(chosen, str) and chosen.endswith(".csv") and folder is not None:
        source.hierarchy = read_hierarchy(folder / relative_path(chosen, HIERARCHY))
    elif chosen is not None:
        known = ", ".join(list_hierarchies())
        raise ValueError(f"{HIERARCHY}: expected {known} or a .csv file below the data folder, got {chosen!r}")
    return source
