"""Runs as a table for papers and spreadsheets: a row per recipe and evaluation, means and intervals over seeds."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from wsolfast.engine.run.errors import MissingError
from wsolfast.engine.run.run_records import RunRecord, read_evaluations

COLUMNS = {
    "top1_cls": "Top-1 Cls",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "gt_known_loc": "GT-known Loc",
    "max_box_acc": "MaxBoxAcc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "px_ap": "PxAP",
    "p_iou": "pIoU",
    "peak_iou": "Peak-IoU",
}

# What differs between seeds of a recipe, or says nothing of its numbers.
_OF_A_RUN = ("seed", "runtime", "name", "summary", "paper", "variant")
# Student's t at 97.5 %, by degrees of freedom from 1 on; with more than 30 the last one is on the safe side.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Interval:
    """Mean over seeds, and half of its 95 % confidence interval: both in percent."""

    mean: float
    half: float | None  # None of a single seed


@dataclass(frozen=True)
class TableRow:
    """A recipe as one evaluation measures it."""

    label: str
    seeds: list[int]
    numbers: dict[str, Interval]  # by name


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of a metric over seeds and half of its 95 % interval, by Student's t.

    Args:
        values: one per seed, at least one.

    Returns:
        Interval: without a half where there is one seed.
    """
    if len(values) < 2:
        return Interval(values[0], None)
    t = _T[min(len(values) - 1, len(_T)) - 1]
    return Interval(fmean(values), t * stdev(values) / math.sqrt(len(values)))


def table_rows(runs: Sequence[Path]) -> list[TableRow]:
    """Read runs and gather those that differ in their seed alone.

    Args:
        runs: run folders.

    Returns:
        list[TableRow]: in the order of the runs, one for each evaluation; a metric that a seed lacks is left out.

    Raises:
        MissingError: if a folder holds no run, or no run was evaluated.
    """
    groups: dict[str, list[RunRecord]] = {}
    for record in (record for run in runs for record in read_evaluations(run) if record.results is not None):
        groups.setdefault(_key(record), []).append(record)
    if not groups:
        raise MissingError(f"{runs[0]}: not evaluated yet; wsolfast eval {runs[0]}")
    labels = _labels([records[0] for records in groups.values()])
    rows = []
    for label, records in zip(labels, groups.values(), strict=True):
        shared = [name for name in COLUMNS if all(name in record.measured for record in records)]
        numbers = {name: interval([record.measured[name] for record in records]) for name in shared}
        rows.append(TableRow(label, [int(record.recipe.get("seed", 0)) for record in records], numbers))
    return rows


def _labels(records: Sequence[RunRecord]) -> list[str]:
    """Name rows by their method; where several share it by their recipe, too, or by the folder of their first run."""
    methods = [record.label for record in records]
    recipes = [f"{one.label} ({one.recipe.get('name') or one.path.name})" for one in records]
    folders = [f"{record.label} ({record.path.name})" for record in records]
    found = []
    for names in zip(methods, recipes, folders, strict=True):
        shared = (methods.count(names[0]) > 1, recipes.count(names[1]) > 1)
        found.append(names[sum(shared)])
    return found


def _key(record: RunRecord) -> str:
    recipe = {name: value for name, value in record.recipe.items() if name not in _OF_A_RUN}
    recipe["data"] = {name: value for name, value in recipe.get("data", {}).items() if name != "root"}
    return json.dumps([recipe, record.evaluation.name], sort_keys=True)


def to_markdown(rows: Sequence[TableRow]) -> str:
    """Return rows as a Markdown table."""
    columns = _columns(rows)
    lines = ["| method | seeds | " + " | ".join(COLUMNS[name] for name in columns) + " |"]
    lines.append("|---|---:" + "|---:" * len(columns) + "|")
    for row in rows:
        label = row.label.replace("|", "\\|")
        lines.append(f"| {label} | {len(row.seeds)} | {' | '.join(_cells(row, columns, '±', '–'))} |")
    return "\n".join(lines) + "\n"


def to_latex(rows: Sequence[TableRow]) -> str:
    """Return rows as a LaTeX table, for the package booktabs."""
    columns = _columns(rows)
    lines = [r"\begin{tabular}{lr" + "r" * len(columns) + "}", r"\toprule"]
    lines += [" & ".join(["Method", "Seeds", *(COLUMNS[name] for name in columns)]) + r" \\", r"\midrule"]
    for row in rows:
        cells = [f"${cell}$" if cell != "--" else cell for cell in _cells(row, columns, r"\pm", "--")]
        lines.append(" & ".join([_escaped(row.label), str(len(row.seeds)), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_csv(rows: Sequence[TableRow]) -> str:
    """Return rows as CSV: a column for each metric, and one for half of its interval, empty of a single seed."""
    columns, stream = _columns(rows), io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", "seeds", *(head for name in columns for head in (name, f"{name}_ci95"))])
    for row in rows:
        cells: list[str] = []
        for name in columns:
            found = row.numbers.get(name)
            cells += (
                ["", ""] if found is None else [f"{found.mean:.4f}", "" if found.half is None else f"{found.half:.4f}"]
            )
        writer.writerow([row.label, len(row.seeds), *cells])
    return stream.getvalue()


FORMATS: dict[str, Callable[[Sequence[TableRow]], str]] = {"md": to_markdown, "csv": to_csv, "latex": to_latex}
"""Tables by the name that ``--table`` has for them."""


def _columns(rows: Sequence[TableRow]) -> list[str]:
    return [name for name in COLUMNS if any(name in row.numbers for row in rows)]


def _cells(row: TableRow, columns: Sequence[str], sign: str, absent: str) -> list[str]:
    found = (row.numbers.get(name) for name in columns)
    return [
        absent if one is None else f"{one.mean:.1f}" + ("" if one.half is None else f" {sign} {one.half:.1f}")
        for one in found
    ]


def _escaped(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text
