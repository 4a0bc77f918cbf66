"""Results as Markdown: a row per case, and beside the numbers where they come from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wsolfast.bench import plots
from wsolfast.bench.rows import KEYS, OURS, Key, Results, ratios
from wsolfast.engine.run.outputs import Outputs

Notes = Callable[[Key, dict[str, dict]], list[str]]


@dataclass(frozen=True)
class Output:
    """Files that results go to besides the terminal: rows, table, picture."""

    json: Path | None = None
    md: Path | None = None
    plot: Path | None = None

    def __post_init__(self):
        for file in filter(None, (self.md, self.plot)):
            Outputs(file.parent).check(file)
        if self.plot is not None:
            plots.check_plot(self.plot)


def present(results: Results, notes: Notes, output: Output) -> None:
    """Print the table and write table and picture.

    Raises:
        CheckError: instead, if any of the results is wrong.
    """
    results.refuse_wrong()
    if not results.cases:
        return
    text = to_markdown(results, notes)
    print(text, end="")
    if output.md is not None:
        Outputs(output.md.parent).write_text(output.md, text)
    if output.plot is not None:
        plots.draw(results, output.plot)


def to_markdown(results: Results, notes: Notes) -> str:
    """Return where and how it was measured, and a table.

    Args:
        results: in which nothing is wrong.
        notes: more about a case, of its key and its rows by contender.
    """
    columns = (*KEYS[results.bench], "ours, ms: p50 [p20 p80]", "others, and how many times ours they take", "notes")
    rows = [
        (*key, _times(rows[OURS]), _others(rows), "; ".join(notes(key, rows))) for key, rows in results.cases.items()
    ]
    return f"# wsolfast bench {results.bench}\n\n{provenance(results.environment)}\n\n{table(columns, rows)}\n"


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def provenance(environment: dict) -> str:
    """Machine, versions, commit and command, as a list."""
    facts = dict(environment)
    packages = facts.pop("packages", {})
    versions = {name: facts.pop(name, None) for name in ("python", "torch", "triton", "cuda", "driver")} | packages
    cores = f" of {facts['cores']} cores" if facts.get("cores") else ""
    threads = f", {facts['threads']} thread{'s' * (facts['threads'] > 1)}{cores}" if facts.get("threads") else ""
    load = f", load {facts['load_average']:.1f}" if facts.get("load_average") is not None else ""
    told = {
        "machine": f"{facts.get('device')}{threads}{load}",
        "clock": facts.get("clock"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "commit": facts.get("commit"),
        "command": f"`{facts['command']}`" if facts.get("command") else None,
        "date": facts.get("date"),
    }
    return "\n".join(f"- {name}: {text}" for name, text in told.items() if text)


def _times(row: dict) -> str:
    return "{p50:.4g} [{p20:.4g} {p80:.4g}]".format(**row["ms"])


def _others(rows: dict[str, dict]) -> str:
    told = [f"{name} {ratio:.3g}x" for name, ratio in ratios(rows).items()]
    return "; ".join(told + [f"{name}: {row['status']}" for name, row in rows.items() if row["status"] != "ok"])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
