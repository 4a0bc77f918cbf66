"""Commands that show runs: ls, report."""

import json
from pathlib import Path
from typing import Annotated

import typer

from wsolfast.cli._options import AsJson, echo, refuse_company
from wsolfast.cli._tables import print_runs
from wsolfast.recipe import RecipeError

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast report runs/cub-cam runs/cub-spa --out cub.html\n\n"
    "  wsolfast report runs/spa-seed* --table latex --out table.tex"
)
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Show these evaluated runs. Give the baseline first.")
    ],
    images: Annotated[int, typer.Option(min=0, help="Show at most this many images in the gallery.")] = 48,
    out: Annotated[
        Path | None, typer.Option(help="Write this page or table. The default is report/index.html in the last run.")
    ] = None,
    sheets: Annotated[
        bool,
        typer.Option(
            "--sheets",
            help="Also draw the worst, median and best images of every run, and its training curves.",
        ),
    ] = False,
    table: Annotated[
        str | None,
        typer.Option(
            metavar="md|csv|latex",
            help="Print a table instead. Runs that differ only in their seed are one row, with their mean and half of "
            "its 95 % interval.",
        ),
    ] = None,
) -> None:
    """Write one self-contained page about runs: numbers, maps and boxes, curves, and worst cases."""
    if table is not None:
        _table(runs, table, out)
        return
    from wsolfast.engine.report.report import write_report

    refuse_company("report")
    page = write_report(runs, out or runs[-1] / "report" / "index.html", images=images)
    echo(f"report: {page}")
    if sheets:
        from wsolfast.engine.report.contact_sheet import write_sheets

        files, notes = write_sheets(runs, page.parent / "sheets")
        for note in notes:
            echo(note)
        echo(f"sheets: {', '.join(map(str, files))}")


def _table(runs: list[Path], kind: str, out: Path | None) -> None:
    from wsolfast.engine.report.tables import FORMATS, table_rows
    from wsolfast.engine.run.outputs import Outputs

    if kind not in FORMATS:
        raise RecipeError(f"--table: expected one of {', '.join(FORMATS)}, got {kind!r}")
    refuse_company("report")
    text = FORMATS[kind](table_rows(runs))
    if out is None:
        echo(text.rstrip("\n"))
        return
    Outputs(out.parent).write_text(out, text)
    echo(f"table: {out}")


@app.command(name="ls", epilog="Examples:\n\n  wsolfast ls\n\n  wsolfast ls /data/runs --json")
def list_(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="List the runs below this folder.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs with their state, their numbers and their age; the newest comes last.

    The states are: running, if a process works on the run; trained or evaluated, if that is done; interrupted, if
    train --resume can continue it; new, if nothing was trained yet; damaged, if its recipe or a result cannot be read.
    """
    from wsolfast.engine.run.run_list import list_runs

    refuse_company("ls")
    found = list_runs(folder)
    if as_json:
        echo(json.dumps([row.to_json() for row in found], indent=2))
    elif found:
        print_runs(found)
    else:
        echo(f"no runs below {folder}; wsolfast train makes one")
