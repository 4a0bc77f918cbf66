"""Tables for a spreadsheet: ``<stage>-train.csv`` and ``<stage>-validation.csv``, and ``evaluation.csv``."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsolfast.engine.loggers.logger import Logger, measured, numbers_of
from wsolfast.engine.run.observers import EpochEnd
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder, write_text


class CSVFiles(Logger):
    """Writer of tables, each whole at the end of every epoch.

    Args:
        run: the run.
    """

    def __init__(self, run: RunFolder):
        super().__init__(run)
        self._tables: dict[str, list[dict[str, Any]]] = {}

    def begin(self, stage: str, step: int) -> None:
        for kind in ("train", "validation"):
            rows = _read(self._file(f"{stage}-{kind}"))
            self._tables[f"{stage}-{kind}"] = [row for row in rows if int(row["step"]) <= step]

    def on_event(self, event: Mapping[str, Any]) -> None:
        kind = "validation" if "validation" in event else "train"
        numbers = {name.partition("/")[2]: value for name, value in numbers_of(event).items()}
        self._tables[f"{event['stage']}-{kind}"].append({"epoch": event["epoch"], "step": event["step"]} | numbers)

    def on_epoch(self, end: EpochEnd) -> None:
        self._write()

    def on_evaluation(self, results: EvalResults) -> None:
        rows = [
            {"evaluation": name.split("/")[1], "metric": name.split("/")[2], "percent": value}
            for name, value in measured(results).items()
        ]
        again = {row["evaluation"] for row in rows}
        kept = [row for row in _read(self._file("evaluation")) if row["evaluation"] not in again]
        self._tables["evaluation"] = kept + rows
        self._write()

    def close(self, *, failed: bool) -> None:
        self._write()

    def _file(self, name: str) -> Path:
        return self.folder / "csv" / f"{name}.csv"

    def _write(self) -> None:
        for name, rows in self._tables.items():
            if rows:
                text = io.StringIO()
                columns = list(dict.fromkeys(key for row in rows for key in row))
                writer = csv.DictWriter(text, columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
                write_text(self._file(name), text.getvalue())


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
