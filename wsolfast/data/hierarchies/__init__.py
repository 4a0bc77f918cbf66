"""Levels above the classes of a data set, by name: each species has a family, each family an order.

The folder is the registry: ``hierarchies/<name>.py`` is the shipped table ``<name>``. ``LEVELS`` there names the
levels, ``ANCESTORS`` maps each class to its ancestors. One's own hierarchy is a CSV file, see :func:`read_hierarchy`.
"""

import csv
import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsolfast._nearest import nearest
from wsolfast.data.errors import DataError, Faults

_CLASS = "class"


@dataclass(frozen=True)
class Hierarchy:
    """Ancestors of classes by name, so that they hold however a data set numbers its classes.

    Attributes:
        where: the file or table, for messages.
        levels: names of the levels above the classes, from the bottom to the top.
        ancestors: class -> its ancestor at each level.

    Raises:
        DataError: if an ancestor has two parents.
    """

    where: str
    levels: tuple[str, ...]
    ancestors: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        faults = Faults()
        for level, (low, high) in enumerate(zip(self.levels, self.levels[1:], strict=False)):
            parents: dict[str, str] = {}
            for found in self.ancestors.values():
                child, parent = found[level : level + 2]
                if parents.setdefault(child, parent) != parent:
                    faults.add(
                        f"{self.where}: the {low} {child!r} is of the {high} {parents[child]!r} and of {parent!r}"
                    )
        faults.raise_any()

    def ancestors_of(self, class_name: str) -> tuple[str, ...] | None:
        """Return a class's ancestors from the bottom to the top; None if there is no such class.

        A number before the name, as CUB's ``001.Black_footed_Albatross`` has, need not be in the table.
        """
        plain = re.sub(r"^\d+\.", "", class_name)
        return self.ancestors.get(class_name) or self.ancestors.get(plain)

    def missing(self, class_names: Sequence[str]) -> list[str]:
        """Return what is wrong with each class that has no ancestors, one line each."""
        hint = f"give it a row with its {' and '.join(self.levels)}"
        return [
            f"{self.where}: the class {name!r} has no {self.levels[0]}; {nearest(name, self.ancestors, hint)}"
            for name in class_names
            if self.ancestors_of(name) is None
        ]

    def names(self, class_names: Sequence[str]) -> list[list[str]]:
        """Return the names of each level, of the ancestors that these classes have, in the order of their numbers.

        Raises:
            DataError: if a class has no ancestors; the message names it.
        """
        return [sorted(set(level)) for level in zip(*self._all(class_names), strict=True)]

    def parents(self, class_names: Sequence[str]) -> np.ndarray:
        """Return the number of each class's ancestor at each level.

        Args:
            class_names: in the order of their labels.

        Returns:
            int64 [L, K]: row l has the ancestors at ``levels[l]``, numbered in the order of their names among those
            that occur.

        Raises:
            DataError: if a class has no ancestors; the message names it.
        """
        rows = zip(self.names(class_names), zip(*self._all(class_names), strict=True), strict=True)
        return np.array([[known.index(name) for name in level] for known, level in rows], np.int64)

    def _all(self, class_names: Sequence[str]) -> list[tuple[str, ...]]:
        faults = Faults()
        for message in self.missing(class_names):
            faults.add(message)
        faults.raise_any()
        return [found for found in map(self.ancestors_of, class_names) if found is not None]


def list_hierarchies() -> list[str]:
    """Return the names of the shipped tables, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def shipped(name: str) -> Hierarchy:
    """Return the shipped table ``name``, one of :func:`list_hierarchies`."""
    module = importlib.import_module(f"{__name__}.{name}")
    return Hierarchy(f"hierarchy {name!r}", module.LEVELS, module.ANCESTORS)


def read_hierarchy(file: Path) -> Hierarchy:
    """Read a CSV file with one row per class.

    Args:
        file: its header is ``class`` and then the names of the levels from the bottom to the top, for instance
            ``class,family,order``.

    Raises:
        DataError: if the file is missing or no such CSV, a class comes twice, or an ancestor has two parents.
    """
    faults, ancestors = Faults(), dict[str, tuple[str, ...]]()
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            if header[:1] != [_CLASS] or len(set(header)) < max(2, len(header)) or not all(header):
                wanted = f"{_CLASS} and then one name for each level, such as class,family,order"
                raise DataError(f"{file}: the header is {','.join(header)!r}; expected {wanted}")
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if row and (len(row) != len(header) or not all(row)):
                    faults.add(f"{where}: expected {len(header)} values ({', '.join(header)}), got {row}")
                elif row and row[0] in ancestors:
                    faults.add(f"{where}: the class {row[0]!r} is listed already; remove one of the rows")
                elif row:
                    ancestors[row[0]] = tuple(row[1:])
    except FileNotFoundError:
        raise DataError(f"{file}: missing; it is to hold the hierarchy of the classes (class,family,order)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as CSV ({error})") from error
    faults.raise_any()
    return Hierarchy(str(file), tuple(header[1:]), ancestors)
