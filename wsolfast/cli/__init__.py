"""The ``wsolfast`` command. Torch is imported inside the commands, so that help is instant."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from wsolfast.cli import about, bench, data, evaluate, export, init, localize, report, runs, train
from wsolfast.cli._options import echo

app = typer.Typer(
    name="wsolfast",
    help=(
        "Weakly supervised object localization: train on image labels, measure the boxes, and look at them.\n\n"
        "Start with [bold]wsolfast demo[/bold]: no data, no GPU, no network needed."
    ),
    epilog="Exit codes: 0 ok, 1 run failed, 2 usage, 3 data or weights missing, 4 device unavailable, 5 check failed, "
    "130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (init, train, evaluate, localize, report, runs, export, about):
    app.registered_commands += part.app.registered_commands
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        from wsolfast import __version__

        compiled = Path(__file__).parents[1].joinpath("_C.so").exists()
        echo(f"wsolfast {__version__}" + ("" if compiled else " (pure Python: the kernels were not compiled)"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line; user errors become one line on stderr and an exit code."""
    _let_waiting_threads_sleep()
    try:
        # The boxes that typer draws around its own errors are for terminals: elsewhere they would be cut at any width.
        sys.exit(app() if sys.stderr.isatty() else app(standalone_mode=False))
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        message = " ".join(_message(error).split("\n")).strip()
        # A group without a command has shown its help, and there is no more to say.
        sys.stderr.write(f"error: {message}\n" if message else "")
        sys.exit(code)


def _let_waiting_threads_sleep() -> None:
    """Shorten the time that OpenMP's threads spin before they sleep, unless the user says how they wait.

    Between two small operations they would spin for milliseconds, on cores that others could use. 20000 rounds are a
    fifteenth of GNU OpenMP's default. It reads the environment when torch loads it.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ["GOMP_SPINCOUNT"] = "20000"


def _exit_code(error: Exception) -> int | None:
    """Return the exit code of an error; None for one that nobody foresaw, whose traceback is wanted."""
    if _in_the_way(error) is not None:
        return 2
    if isinstance(error, OSError) or type(error).__name__ == "OutOfMemoryError":
        return 1
    if isinstance(error, ImportError) and "pip install" in str(error):
        return 4
    return getattr(error, "exit_code", None)


def _message(error: Exception) -> str:
    format_message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if format_message is not None:
        text = format_message().strip().removesuffix(".")
        return f"{text}; see {context.command_path} --help" if text and context is not None else text
    file = _in_the_way(error)
    return str(error) if file is None else f"{file} is a file, and a folder is needed there; name another place"


def _in_the_way(error: Exception) -> Path | None:
    """Return the file that stands where a folder was to be made, if that is the error."""
    if not isinstance(error, FileExistsError | NotADirectoryError) or not isinstance(error.filename, str):
        return None
    path = Path(error.filename)
    return next((place for place in (path, *path.parents) if place.is_file()), None)
