"""Run folders as a reader finds them: recipe, environment, losses, results. Values that are absent stay empty."""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from wsolfast.engine.run.errors import MissingError, UsageError
from wsolfast.engine.run.results import Curves, EvalResults, ImageRow, ImageTable
from wsolfast.engine.run.run_folder import require_run
from wsolfast.methods import display_name, list_methods


@dataclass(frozen=True)
class RunRecord:
    """A run and the evaluation of one of its splits, as read from its folder."""

    path: Path
    label: str
    recipe: dict
    recipe_text: str
    env: dict
    history: list[dict]  # the lines of metrics.jsonl that carry a loss
    validations: list[dict]  # those that carry a validation
    evaluation: Path  # folder of the evaluation, which may be missing
    results: EvalResults | None  # None: not evaluated
    curves: Curves | None  # None: no boxes, boxes without a threshold, or no file
    table: ImageTable | None

    @cached_property
    def measured(self) -> dict[str, float]:
        """Percentages by metric; empty for a run that was not evaluated."""
        return {} if self.results is None else self.results.measured

    @cached_property
    def images(self) -> dict[str, ImageRow]:
        """Per-image rows by image_id, in data set order."""
        return {} if self.table is None else {row.image_id: row for row in self.table.images}

    def class_name(self, label: int) -> str:
        """Return the name of a class without the numbering and the underscores of folder names."""
        names = [] if self.table is None else self.table.class_names
        if not 0 <= label < len(names):
            return f"class {label}"
        return re.sub(r"^\d+\.", "", names[label]).replace("_", " ").strip() or names[label]


def _environment(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MissingError(f"{path} is not valid JSON ({error})") from error


def _history(path: Path) -> tuple[list[dict], list[dict]]:
    """Return the lines of metrics.jsonl that carry a loss, and those that carry a validation, one per stage and step.

    A killed run may leave its last line torn; a resumed one logs the steps since its checkpoint again, and these count.
    """
    rows: dict[tuple, dict] = {}
    validations: dict[tuple, dict] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("loss"), int | float):
            rows[row.get("stage"), row.get("step", len(rows))] = row
        elif isinstance(row, dict) and isinstance(row.get("validation"), dict):
            validations[row.get("stage"), row.get("step", len(validations))] = row
    return list(rows.values()), list(validations.values())


def _evaluated(path: Path) -> list[str]:
    return sorted(file.parent.name for file in path.glob("eval/*/results.json"))


def _label(method: str, added: Sequence[str]) -> str:
    """Name a run after its method, as the paper spells it, and how its maps were refined."""
    known = method.partition(".")[0] in list_methods()
    name = display_name(method) if known else method.rpartition(":")[2]
    return " + ".join([name, *(one.replace("_", "-").upper() for one in dict.fromkeys(filter(None, added)))])


def _mark(results: EvalResults | None) -> str:
    """Return what stands behind the name of a run wherever it is named, where its numbers rest on something unusual."""
    return "" if results is None else "".join(f" ({mark})" for mark in results.marks)


def _read_run(path: Path, evaluation: str | None = None) -> RunRecord:
    recipe_file = path / "recipe.toml"
    require_run(path)
    text = recipe_file.read_text(encoding="utf-8")
    try:
        recipe = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MissingError(f"{recipe_file} is not valid TOML ({error})") from error
    evaluated = _evaluated(path)
    folder = path / "eval" / (evaluation or ("test" if "test" in evaluated else next(iter(evaluated), "test")))
    results, curves, table = (folder / f"{name}.json" for name in ("results", "curves", "per_image"))
    found = EvalResults.read(results) if results.is_file() else None
    swept = found is not None and "iou50" in found.metrics and not found.gives_boxes
    method = (recipe.get("stage") or [{}])[-1].get("method") or path.name if found is None else found.method
    added = [] if found is None else [found.variant, found.post.replace("none", "")]
    history, validations = _history(path / "metrics.jsonl")
    return RunRecord(
        path=path,
        label=_label(str(method), added) + _mark(found),
        recipe=recipe,
        recipe_text=text,
        env=_environment(path / "env.json"),
        history=history,
        validations=validations,
        evaluation=folder,
        results=found,
        curves=Curves.read(curves) if swept and curves.is_file() else None,
        table=ImageTable.read(table) if found is not None and table.is_file() else None,
    )


def read_evaluations(path: Path) -> list[RunRecord]:
    """Read a record of every evaluation of a run, its variants for instance.

    Raises:
        MissingError: if the folder holds no run, or one of its files is damaged.
    """
    return [_read_run(path, evaluation) for evaluation in _evaluated(path) or (None,)]


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read run folders. Runs go by their method, or by their folder where two share a method.

    Raises:
        UsageError: if there are none.
        MissingError: if a folder holds no run, or one of its files is damaged.
    """
    if not paths:
        raise UsageError("a report needs at least one run folder, got none")
    runs = [_read_run(Path(path)) for path in paths]
    count = Counter(run.label for run in runs)
    return [replace(run, label=run.path.name + _mark(run.results)) if count[run.label] > 1 else run for run in runs]
