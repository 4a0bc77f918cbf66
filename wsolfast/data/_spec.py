"""Description of a data set, which its file in ``wsolfast/data/sources`` ends with."""

import contextlib
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from wsolfast.data._source import Source

# Makes a progress display from a title and a number of images.
Task = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


def silent(title: str, total: int) -> AbstractContextManager[Callable[..., None]]:
    """Show nothing: the :data:`Task` of whoever gives none."""
    return contextlib.nullcontext(lambda steps=1, note="": None)


@dataclass(frozen=True)
class IndexedSplit:
    """Outcome of :attr:`SourceSpec.index`."""

    images: int
    unreadable: tuple[str, ...] = ()  # one message per image
    built: bool = True  # False if the index that was there still holds


@dataclass(frozen=True)
class SourceSpec:
    """A data set by name: the ``SPEC`` of its file.

    Attributes:
        open_source: opens the folder ``root`` and the split; its keyword-only parameters are the options of the data
            set.
        layout: an example of a right tree, which ``data check`` shows.
        title: how people write its name, in reports; its own name if empty.
        layout_for: the layout under the options that are given, where they change it.
        required: splits without which a tree is not whole.
        rendered: there is no folder; ``root`` is None.
        index: for a data set whose files tell slowly: writes the index of a split, called with the folder, the split,
            ``task``, ``workers``, ``force`` and the options; None if the split is not there.
        open_indexed: opens a split from that index; None if there is none that holds. Without it ``open_source`` looks
            for the index itself.
        hierarchy: the shipped table of the levels above its classes, which is used unless another one is asked for.
    """

    open_source: Callable[..., Source]
    layout: str
    title: str = ""
    layout_for: Callable[..., str] | None = None
    required: tuple[str, ...] = ()
    rendered: bool = False
    index: Callable[..., IndexedSplit | None] | None = None
    open_indexed: Callable[..., Source | None] | None = None
    hierarchy: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Options of the data set by name, with their annotations."""
        parameters = inspect.signature(self.open_source, eval_str=True).parameters.values()
        return {each.name: each.annotation for each in parameters if each.kind is each.KEYWORD_ONLY}
