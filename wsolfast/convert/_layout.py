"""Layouts: published names of tensors, and ours for them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """One network of one code base.

    Where a name is in ``modules`` and in ``dead``, the checkpoint may lack it.

    Attributes:
        network: what it is, for people.
        recipes: our recipe by the number of classes; the first one for any other number.
        modules: path of a module or tensor of our method -> its path in the checkpoint; of several that fit the longest
            counts.
        dead: start of a name in the checkpoint -> why nothing reads what begins so.
        marks: starts of names that the checkpoint has besides those of ``modules``.
        rows: name of a tensor -> its number of rows, where networks of other sizes have the same names.
        pool: our tensor that the code base keeps in a file of its own, beside the checkpoint.
        output: our module with one row of weights per class.
        stage: what the recipes call the network, if they have several.
        classless: its one output tells objects from background, so that its recipe is the first one.
    """

    network: str
    recipes: Mapping[int, str]
    modules: Mapping[str, str]
    dead: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    pool: str | None = None
    output: str = "classifier"
    stage: str | None = None
    classless: bool = False

    def name_of(self, key: str) -> str | None:
        """Return the checkpoint's name of our tensor ``key``; None if it has no such tensor."""
        path = _longest(key, self.modules)
        return None if path is None else self.modules[path] + key[len(path) :]

    def count_outputs(self, found: Mapping[str, Tensor]) -> int | None:
        """Return the number of rows of the output module's weight; None if the checkpoint lacks it."""
        name = self.name_of(f"{self.output}.weight")
        weight = None if name is None else found.get(name)
        return None if weight is None or not weight.dim() else len(weight)

    def misfits(self, found: Mapping[str, Tensor]) -> int:
        """Return how many tensors of ``rows`` have another number of rows in the checkpoint."""
        return sum(name in found and found[name].shape[:1] != (rows,) for name, rows in self.rows.items())

    def cause_of_death(self, name: str) -> str | None:
        """Return the reason that nothing reads the checkpoint's tensor ``name``; None if something does."""
        start = _longest(name, self.dead)
        return None if start is None else self.dead[start]

    def absent(self, names: Iterable[str]) -> list[str]:
        """Return the modules of this layout that a checkpoint with tensors ``names`` does not have."""
        starts = {f"{name}."[:at] for name in names for at, sign in enumerate(f"{name}.") if sign == "."}
        needed = (*self.marks, *(path for path in self.modules.values() if self.cause_of_death(f"{path}.") is None))
        return [path for path in needed if path not in starts]

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Return the tensors among ``names`` that this layout does not have."""
        theirs = tuple(self.modules.values())
        return [name for name in names if _longest(name, theirs) is None and _longest(name, self.dead) is None]


def _longest(name: str, paths: Iterable[str]) -> str | None:
    return max((path for path in paths if name == path or name.startswith(f"{path}.")), key=len, default=None)
