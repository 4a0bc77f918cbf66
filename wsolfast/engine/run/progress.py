"""Progress of long work: a bar on a terminal, elsewhere a line now and then; both say how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from wsolfast.engine.run.words import duration

_SECONDS_BETWEEN_LINES = 20.0


class Progress:
    """Display of how far the work is.

    Args:
        console: where to show it; standard error if not given. A terminal gets bars.
        quiet: show nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False):
        self.console = console or Console(stderr=True)
        self.quiet = quiet

    def log(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """Show work of ``total`` steps, of which ``done`` are done, while entered; yields ``advance(steps, note)``."""
        if self.quiet:
            yield lambda steps=1, note="": None
        elif self.console.is_terminal:
            with self._bar() as bar:
                task = bar.add_task(what, total=total, completed=done, note="")
                yield lambda steps=1, note="": bar.update(task, advance=steps, note=note)
        else:
            yield _Lines(self.log, what, total, done).advance

    @contextmanager
    def inner_task(self, what: str, total: int) -> Iterator[Callable[..., None]]:
        """Show work inside of a task as :meth:`task` does, by lines alone: a terminal has one bar."""
        yield (lambda steps=1, note="": None) if self.quiet else _Lines(self.log, what, total, 0).advance

    def _bar(self) -> RichProgress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        return RichProgress(*columns, console=self.console, transient=True)


class _Lines:
    def __init__(self, log: Callable[[str], None], what: str, total: int, done: int):
        self.log, self.what, self.total, self.done = log, what, total, done
        self.logged_at = self.started_at = time.monotonic()
        # Done in an earlier call, which says nothing of the speed of this one.
        self.before = done

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.logged_at >= _SECONDS_BETWEEN_LINES:
            self.logged_at = now
            left = (now - self.started_at) / (self.done - self.before) * (self.total - self.done)
            self.log("  ".join(filter(None, [f"{self.what} {self.done}/{self.total}", note, f"{duration(left)} left"])))
