"""The ``wsolfast`` command. Torch is imported inside the commands, so that help is instant."""

import sys

import typer

from wsolfast.cli import about, bench, data, evaluate, export, runs, train

app = typer.Typer(
    name="wsolfast",
    help=(
        "Weakly supervised object localization: train on image labels, measure the boxes, look at them.\n\n"
        "Start with [bold]wsolfast demo[/bold]: no data, no GPU, no network needed."
    ),
    epilog="Exit codes: 0 ok, 1 run failed, 2 usage, 3 data or weights missing, 4 device unavailable, 5 check failed, "
    "130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (train, evaluate, runs, export, about):
    app.registered_commands += part.app.registered_commands
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command line; user errors become one line on stderr and an exit code."""
    try:
        app()
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        sys.stderr.write(f"error: {error}\n".replace("\n", " ").rstrip() + "\n")
        sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    """What the error asks for; None for one that nobody foresaw, whose traceback is wanted."""
    if isinstance(error, OSError) or type(error).__name__ == "OutOfMemoryError":
        return 1
    if isinstance(error, ImportError) and "pip install" in str(error):
        return 4
    return getattr(error, "exit_code", None)
