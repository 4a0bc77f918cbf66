"""The runs below a folder: how far each is, what it reached, and how old that is."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsolfast._system import UnsupportedSystemError, lock_file
from wsolfast.engine.run.errors import MissingError
from wsolfast.engine.run.results import Record
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.run_records import read_evaluations
from wsolfast.recipe import RecipeError

# Folders inside of a run, in which there is no other run.
_INSIDE = {"checkpoints", "eval", "report", "stages", "loggers", "localized"}
_UNITS = (("d", 86400), ("h", 3600), ("min", 60))


@dataclass(frozen=True)
class ListedRun(Record):
    """A row of ``wsolfast ls``."""

    run: str  # folder
    state: str  # "running", "evaluated", "trained", "interrupted", "new" or "damaged"
    recipe: str  # its name; empty if it cannot be read
    method: str  # as its paper spells it
    seed: int | None  # of the recipe
    evaluation: str | None  # folder below eval/; None without any
    numbers: dict[str, float]  # percent by name
    age: float  # seconds since the newest of its files was written


def list_runs(folder: Path) -> list[ListedRun]:
    """Read the runs below a folder, a row for each of their evaluations.

    Args:
        folder: holds them, at any depth, or is one.

    Returns:
        list[ListedRun]: those that were written last come last.

    Raises:
        MissingError: if there is no such folder.
    """
    if not folder.is_dir():
        raise MissingError(f"{folder}: no such folder; name the one that --runs named")
    now = time.time()
    found = [row for path in _run_folders(folder) for row in _rows(path, now)]
    return sorted(found, key=lambda row: (-row.age, row.run))


def in_words(seconds: float) -> str:
    """Return an age in its largest unit: ``3 min``, ``2 h``, ``5 d``."""
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def _run_folders(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        is_run = "recipe.toml" in files and "env.json" in files
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not (is_run and name in _INSIDE))
        if is_run:
            yield Path(place)


def _rows(path: Path, now: float) -> list[ListedRun]:
    age = round(now - _written(path), 1)
    try:
        run = RunFolder(path)
        records = read_evaluations(path)
    except (MissingError, RecipeError):
        return [ListedRun(str(path), "damaged", "", "", None, None, {}, age)]
    rows = []
    for record in records:
        evaluated = record.results is not None
        state = "running" if _held(path) else "evaluated" if evaluated else _trained(run)
        name = record.evaluation.name if evaluated else None
        seed = run.recipe.seed
        rows.append(ListedRun(str(path), state, run.recipe.name, record.label, seed, name, record.measured, age))
    return rows


def _trained(run: RunFolder) -> str:
    stages = run.recipe.stage
    if all(not one.epochs or run.weights_path(one.name, best=one.takes_best).is_file() for one in stages):
        return "trained"
    return "interrupted" if any(run.path.rglob("checkpoints/*")) else "new"


def _written(path: Path) -> float:
    files = [path / "recipe.toml", path / "metrics.jsonl", *path.glob("eval/*/results.json")]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=path.stat().st_mtime)


def _held(path: Path) -> bool:
    """Return whether a process works in a run's folder."""
    try:
        with (path / ".lock").open("rb") as stream:
            lock_file(stream, shared=True, wait=False)
    except FileNotFoundError:
        return False
    except UnsupportedSystemError:
        return False
    except OSError:
        return True
    return False
