"""Base of the loggers that a recipe names: what they share of reading events, and of going on with what they began."""

import tomllib
from collections.abc import Mapping
from typing import Any

from wsolfast.engine.run.observers import Observer
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder, write_text
from wsolfast.recipe import dump_recipe

_PLACE = ("stage", "epoch", "step", "time")


class Logger(Observer):
    """Observer that hands everything on to another program.

    Args:
        run: the run; files go to ``loggers/`` in its folder.
    """

    def __init__(self, run: RunFolder):
        self.run = run
        self.folder = run.path / "loggers"
        self.folder.mkdir(exist_ok=True)

    def begin(self, stage: str, step: int) -> None:
        """Hear that a stage begins, or goes on after its first ``step`` steps: later ones are taken again."""

    def close(self, *, failed: bool) -> None:
        """Write what is left to write.

        Args:
            failed: the run ends with an error, or was stopped.
        """

    def kept_id(self, name: str) -> str | None:
        """Return what :meth:`keep_id` kept; None if nothing was."""
        file = self.folder / f"{name}.id"
        return file.read_text(encoding="utf-8").strip() if file.is_file() else None

    def keep_id(self, name: str, value: str) -> None:
        """Keep the name that another program has for this run, so that the run goes on there when it is resumed."""
        write_text(self.folder / f"{name}.id", f"{value}\n")


def numbers_of(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an event, named ``train/loss`` or ``validation/loss``, without those that say where it is.

    A number that was not finite is left out.
    """
    if "validation" in event:
        named = {f"validation/{name}": value for name, value in event["validation"].items()}
    else:
        named = {f"train/{name}": value for name, value in event.items() if name not in _PLACE}
    return {name: float(value) for name, value in named.items() if isinstance(value, (int, float))}


def measured(results: EvalResults) -> dict[str, float]:
    """Return the numbers of an evaluation, named ``evaluation/test/gt_known_loc`` for instance, in percent."""
    parts = [results.split, results.variant, "" if results.post == "none" else results.post]
    where = "-".join(filter(None, parts))
    return {f"evaluation/{where}/{name}": float(value) for name, value in results.measured.items()}


def recipe_table(run: RunFolder) -> dict[str, Any]:
    """Return the recipe of a run as a table of plain values."""
    return tomllib.loads(dump_recipe(run.recipe))
