"""Results of every bench in rows of one form: who did which case, in how many milliseconds.

A results file is ``{"bench": NAME, "environment": {...}, "rows": [...]}``. A row has the fields of :data:`KEYS`, the
``contender``, and a ``status``: "ok", "wrong: ..." where ours is not right, or why there are no times. With "ok" come
``ms`` (``p20``, ``p50`` and ``p80``, of one call or of one image) and whatever else the bench knows.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wsolfast.bench.measure import read_json, write_json
from wsolfast.engine.run.errors import CheckError, MissingError, UsageError

# What tells one case from another.
KEYS = {
    "ops": ("op", "case", "dtype", "mode"),
    "eval": ("case", "task"),
    "loader": ("images", "decoder", "cache", "threads"),
    "e2e": ("case", "work", "source"),
    "cams": ("case",),
}
OURS = "ours"
# Rows of another one of these are not kept.
SAME = ("device", "sources", "torch", "threads")

Key = tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """Content of a file: rows by case and contender."""

    bench: str
    environment: dict
    cases: dict[Key, dict[str, dict]]

    @classmethod
    def of_rows(cls, bench: str, environment: dict, rows: Iterable[dict]) -> "Results":
        results = cls(bench, environment, {})
        for row in rows:
            results.cases.setdefault(results.key(row), {})[row["contender"]] = row
        return results

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Results of a file.

        Raises:
            MissingError: if there is none.
            UsageError: if it is not a results file.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            return cls.of_rows(value["bench"], value["environment"], value["rows"])
        except FileNotFoundError:
            raise MissingError(f"{path}: no such results file; wsolfast bench ... --json {path} writes one") from None
        except (OSError, KeyError, TypeError, ValueError):
            raise UsageError(f"{path}: not a results file; expected what wsolfast bench ... --json writes") from None

    def key(self, row: dict) -> Key:
        return tuple(str(row[name]) for name in KEYS[self.bench])

    def wrong(self) -> dict[Key, str]:
        """Return what differs, of the cases where ours is not right."""
        mine = {key: row[OURS]["status"] for key, row in self.cases.items() if OURS in row}
        return {key: status for key, status in mine.items() if status != "ok"}

    def refuse_wrong(self) -> None:
        """Nothing is shown of results of which some are wrong.

        Raises:
            CheckError: naming each case that is wrong, and by how much.
        """
        if wrong := self.wrong():
            told = "; ".join(f"{' '.join(key)}: {' '.join(status.split())}" for key, status in wrong.items())
            raise CheckError(f"{len(wrong)} of {len(self.cases)} cases are not right, no times are shown: {told}")


class Recorder:
    """Results that grow, written after each row; those that the file holds of the same machine and code are kept.

    Raises:
        UsageError: if the file is not of this bench.
    """

    def __init__(self, bench: str, path: Path | None, environment: dict):
        self.path = path
        before = {}
        if path is not None and path.exists():
            if Results.read(path).bench != bench:
                raise UsageError(f"{path}: results of another bench, which are not replaced; choose another file")
            before = read_json(path)
        facts = before.get("environment", {})
        same = before.get("bench") == bench and all(facts.get(name) == environment.get(name) for name in SAME)
        self.results = Results.of_rows(bench, environment, before["rows"] if same else ())

    def add(self, row: dict) -> None:
        results = self.results
        results.cases.setdefault(results.key(row), {})[row["contender"]] = row
        if self.path is not None:
            rows = [row for case in results.cases.values() for row in case.values()]
            write_json(self.path, {"bench": results.bench, "environment": results.environment, "rows": rows})

    def of(self, **key: object) -> dict[str, dict]:
        """Rows of a case by contender."""
        return self.results.cases.get(self.results.key(key), {})

    def restricted(self, keys: Iterable[Key]) -> Results:
        """Some of the cases, in this order; those whose ours is not there yet are left out."""
        results = self.results
        kept = {key: results.cases[key] for key in dict.fromkeys(keys) if OURS in results.cases.get(key, ())}
        return Results(results.bench, results.environment, kept)


def ratios(rows: dict[str, dict]) -> dict[str, float]:
    """Times of the others over ours: above 1, ours is faster. A row's own ``ratio`` goes before that of the medians."""
    mine = rows[OURS]["ms"]["p50"]
    return {
        name: row.get("ratio") or row["ms"]["p50"] / mine
        for name, row in rows.items()
        if name != OURS and row["status"] == "ok"
    }


def strongest(rows: dict[str, dict]) -> tuple[str, float] | None:
    """The fastest of the peers and its ratio. What does a part of the work only, ``partial``, is none."""
    found = {name: ratio for name, ratio in ratios(rows).items() if not rows[name].get("partial")}
    return min(found.items(), key=lambda pair: pair[1]) if found else None
