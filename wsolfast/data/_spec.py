"""What a file of ``wsolfast/data/sources`` tells of its data set."""

import contextlib
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from wsolfast.data._base import Source

# Makes a progress display from a title and a number of images.
Task = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


def silent(title: str, total: int) -> AbstractContextManager[Callable[..., None]]:
    """Show nothing: the :data:`Task` of whoever gives none."""
    return contextlib.nullcontext(lambda steps=1, note="": None)


@dataclass(frozen=True)
class IndexSummary:
    """Outcome of :func:`wsolfast.data.index`."""

    path: Path  # of the index
    images: dict[str, int]  # of each split
    unreadable: tuple[str, ...]  # one message per image
    built: bool  # False if the index that was there still holds


@dataclass(frozen=True)
class SourceSpec:
    """A data set by name: the ``SPEC`` of its file.

    Attributes:
        open_source: opens the folder ``root`` and the split; its keyword-only parameters are the options of the data
            set.
        layout: an example of a right tree, which ``data check`` shows.
        required: splits without which a tree is not whole.
        rendered: there is no folder; ``root`` is None.
        consulted: lists, for the same arguments, the files that decide what ``open_source`` finds besides the images;
            the index of the data set depends on them.
        index: builds an index that ``open_source`` itself looks for.
    """

    open_source: Callable[..., Source]
    layout: str
    required: tuple[str, ...] = ()
    rendered: bool = False
    consulted: Callable[..., list[Path]] | None = None
    index: Callable[..., IndexSummary] | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options of the data set."""
        parameters = inspect.signature(self.open_source).parameters.values()
        return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
