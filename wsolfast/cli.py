"""The ``wsolfast`` command. Torch is imported inside the commands, so that help is instant."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from wsolfast.recipe import RecipeError, dump_recipe, list_recipes, load_recipe, parse_recipe, recipe_path

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
data_app = typer.Typer(help="Look after data sets on disk.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Amp = Annotated[str | None, typer.Option(help="none, or bf16 for mixed precision.")]
Workers = Annotated[int | None, typer.Option(help="Image loading processes; -1 chooses.")]
Runs = Annotated[Path, typer.Option(help="Folder of all runs.")]
Name = Annotated[str | None, typer.Option(help="Name of the run's folder; the recipe's name if not given.")]
ExistOk = Annotated[bool, typer.Option("--exist-ok", help="Start a run that exists over, replacing its results.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Protocol = Annotated[str | None, typer.Option(help="Evaluation protocol; the recipe's if not given.")]


def main() -> None:
    """Run the command line; user errors become one line on stderr and an exit code."""
    try:
        app()
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        _complain(error)
        sys.exit(code)


def _complain(error: Exception) -> None:
    sys.stderr.write(f"error: {error}\n")


def _say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")


def _progress(quiet: bool):
    from wsolfast.engine.progress import Progress

    return Progress(quiet=quiet)


def _runtime_overrides(**values: object) -> list[str]:
    return [f"runtime.{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast train demo/spa\n\n"
    "  wsolfast train spa_cub_vgg16 data.root=/data/CUB_200_2011 --device cuda --amp bf16\n\n"
    "  wsolfast train cub50/cam data.root=DIR stage.backbone.weights=FILE stage.optim.lr=0.01 --name try2\n\n"
    "  wsolfast train --resume runs/try2",
)
def train(
    what: Annotated[list[str] | None, typer.Argument(metavar="RECIPE [KEY=VALUE]...", show_default=False)] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run from its last checkpoint.")] = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    exist_ok: ExistOk = False,
    device: Device = None,
    amp: Amp = None,
    channels_last: Annotated[bool | None, typer.Option(help="Keep images as [N, H, W, C] in memory.")] = None,
    workers: Workers = None,
    seed: Annotated[int | None, typer.Option(help="Of the weights, the order and the augmentation.")] = None,
    save_every: Annotated[
        str | None, typer.Option(help="Checkpoint also every so many steps (500) or minutes (10m).")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe's method on image labels; interrupt it at any time and continue with --resume."""
    words = what or []
    recipe_name = words.pop(0) if words and "=" not in words[0] else None
    overrides = words + _runtime_overrides(
        device=device, amp=amp, channels_last=channels_last, workers=workers, **_save_every(save_every)
    )
    if seed is not None:
        overrides.append(f"seed={seed}")
    if (recipe_name is None) == (resume is None):
        raise RecipeError("give a recipe (wsolfast recipes lists them) or --resume RUN, one of the two")

    from wsolfast.engine.run_folder import RunFolder
    from wsolfast.engine.train import train as train_run

    if resume is not None:
        run = RunFolder(resume)
        run.replace_recipe(parse_recipe(dump_recipe(run.recipe), run.recipe.name, overrides))
    else:
        recipe = load_recipe(recipe_name, overrides)
        run = RunFolder.create(_run_path(runs, name, recipe.name), recipe, exist_ok=exist_ok)
    train_run(run, _progress(quiet))
    if not quiet:
        _say(f"trained: {run.path}\nmeasure it: wsolfast eval {run.path}")


def _save_every(text: str | None) -> dict[str, object]:
    if text is None:
        return {}
    number = text.removesuffix("m")
    try:
        return {"save_every_minutes": float(number)} if text.endswith("m") else {"save_every_steps": int(number)}
    except ValueError:
        raise RecipeError(f"--save-every: expected a number of steps (500) or minutes (10m), got {text!r}") from None


def _run_path(runs: Path, name: str | None, recipe_name: str) -> Path:
    name = name or recipe_name.replace("/", "-")
    if "/" in name or name in (".", ".."):
        raise RecipeError(f"--name: expected the name of a folder below --runs, got {name!r}")
    return runs / name


@app.command(epilog="Examples:\n\n  wsolfast recipes\n\n  wsolfast recipes spa_cub_vgg16")
def recipes(name: Annotated[str | None, typer.Argument(help="Show this one.")] = None) -> None:
    """List the recipes with the numbers of their papers, or show one with the source of every value."""
    if name is not None:
        _say(recipe_path(name).read_text(encoding="utf-8").rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, caption="Published accuracies in percent; '-' where nothing is published.")
    for column in ("recipe", "summary"):
        table.add_column(column)
    for column in ("Top-1 Loc", "Top-5 Loc", "GT-known"):
        table.add_column(column, justify="right")
    for recipe in map(load_recipe, list_recipes()):
        numbers = recipe.paper.numbers() if recipe.paper else {}
        cells = [f"{numbers[key]:.2f}" if key in numbers else "-" for key in ("top1_loc", "top5_loc", "gt_known_loc")]
        table.add_row(recipe.name, recipe.summary, *cells)
    Console().print(table)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what this installation can do: versions, devices, who serves each op, optional packages."""
    from wsolfast.engine.doctor import examine

    state = examine()
    if as_json:
        _say(json.dumps(state, indent=2))
        return
    for key, value in state.items():
        if key == "ops":
            width = max(map(len, value))
            _say(f"{'ops':<17}{'':<{width}}  cpu        cuda")
            for op, serves in value.items():
                _say(f"{'':<17}{op:<{width}}  {serves['cpu']:<9}  {serves['cuda']}")
        elif isinstance(value, dict):
            for i, (name, text) in enumerate(value.items()):
                _say(f"{key if i == 0 else '':<17}{name}: {text}")
        elif isinstance(value, list):
            _say(f"{key:<17}{', '.join(value)}")
        else:
            _say(f"{key.replace('_', ' '):<17}{value}")
