"""Classes by name: one numbering for every split of a data set, and for the run that is trained on it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsolfast.data.errors import DataError, Faults

# Labels of formats that say a class by its position: no data set has so many, so a larger one is something else.
MAX_POSITION = 1 << 20


def renumber(names: Sequence[str], known: Sequence[str], ids: Sequence[int] | None = None) -> np.ndarray:
    """Return the position of each name in ``known``, -1 where it has none.

    Args:
        names: one per class.
        known: the classes of another numbering.
        ids: what the annotations number the classes by, where that is not their position.

    Returns:
        int64 array. A name that comes several times on either side keeps its own number, if that fits.
    """
    if ids is None and tuple(names) == tuple(known):
        return np.arange(len(names))
    places: dict[str, list[int]] = {}
    for place, name in enumerate(known):
        places.setdefault(name, []).append(place)
    repeated = {name for name, count in _counts(names).items() if count > 1}
    found = np.full(len(names), -1, np.int64)
    for label, name in enumerate(names):
        there = places.get(name, [])
        own = label if ids is None else ids[label]
        if len(there) == 1 and name not in repeated:
            found[label] = there[0]
        elif own in there:
            found[label] = own
    return found


def _counts(names: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


class ClassTable:
    """Classes that annotations name and number, each by one id and one name."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._ids: dict[str, int] = {}

    def add(self, class_id: int, name: str, where: str) -> None:
        """Add a class.

        Args:
            class_id: its number in the annotations.
            name: empty where the annotations have none.
            where: the place in a file.

        Raises:
            DataError: if the id has another name, or the name another id, already.
        """
        known = self.names.setdefault(class_id, name)
        if known != name:
            raise DataError(f"{where}: class {class_id} is {name!r} here and {known!r} above")
        other = self._ids.setdefault(name, class_id) if name else class_id
        if other != class_id:
            raise DataError(f"{where}: class {name!r} has the id {class_id} here and {other} above")

    def add_name(self, name: str) -> int:
        """Return the id of a class that has none in the annotations."""
        class_id = self._ids.setdefault(name, len(self._ids))
        self.names[class_id] = name
        return class_id

    def name(self, class_id: int) -> str:
        """Return the name of a class; "class 7" where the annotations have none."""
        return self.names[class_id] or f"class {class_id}"

    @property
    def ids(self) -> list[int]:
        """All ids in order."""
        return sorted(self.names)

    @property
    def class_names(self) -> list[str]:
        """The name of each class, in the order of the ids."""
        return [self.name(class_id) for class_id in self.ids]


def check_positions(
    labels: Sequence[int] | np.ndarray, image_ids: Sequence[str], names: Sequence[str], file: Path
) -> None:
    """Refuse labels that have no name.

    Args:
        labels: class of each image, from 0.
        image_ids: one per image.
        names: one per class.
        file: has the labels, or the names.

    Raises:
        DataError: names the images.
    """
    faults, count = Faults(), len(names)
    for index in np.flatnonzero(np.asarray(labels, np.int64) >= count).tolist():
        faults.add(f"{file}: {image_ids[index]} is of class {labels[index]}, and there are {count} classes from 0")
    faults.raise_any()


def occurring(labels: Sequence[np.ndarray]) -> list[int]:
    """Return the labels that occur in any split, in order."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *labels])).tolist()
