"""Commands that make several runs, or one of a checkpoint: convert, demo, reproduce."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsolfast.cli._options import (
    Amp,
    Device,
    ExistOk,
    Name,
    Quiet,
    Runs,
    Workers,
    echo,
    refuse_company,
    runtime_overrides,
    show_progress,
)
from wsolfast.cli._tables import print_comparison
from wsolfast.recipe import RecipeError, load_recipe

if TYPE_CHECKING:
    from wsolfast.convert import Conversion

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast convert cub_epoch_100.pth.tar data.root=/data/CUB_200_2011\n\n"
    "  wsolfast convert net_train_vgg16_cub.pth --pool mask_train_vgg16_cub.pth --dry-run\n\n"
    "  wsolfast convert model-32 --source spol",
)
def convert(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE [KEY=VALUE]...", help="Convert this published checkpoint, with these changes of its recipe."
        ),
    ],
    source: Annotated[
        str | None, typer.Option(help="Read the tensors as those of this code base. By default, their names decide.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Convert for this recipe. By default, the tensors decide.")] = None,
    pool: Annotated[
        str | None,
        typer.Option(help="Take CI-CAM's context pool from this file, or none. The default is a file beside FILE."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print where every tensor goes, and write nothing.")
    ] = False,
    name: Name = None,
    runs: Runs = Path("runs"),
    exist_ok: ExistOk = False,
    quiet: Quiet = False,
) -> None:
    """Turn a checkpoint of the authors' code into a finished run for eval and localize. None of their code runs."""
    from wsolfast import convert as converter
    from wsolfast.engine.targets import run_path

    refuse_company("convert")
    file, *overrides = what
    found = converter.read_checkpoint(Path(file), source=source, recipe=recipe, pool=pool, overrides=overrides)
    if dry_run:
        _print_mapping(found)
    else:
        run = converter.write_run(found, run_path(runs, name, f"{found.recipe.name}-published"), exist_ok=exist_ok)
    if quiet:
        return
    echo(f"{found.network} of {found.origin}: {len(found.tensors)} tensors for recipe {found.recipe.name}")
    echo(_dropped(found.dropped))
    if not dry_run:
        needs = " data.root=DIR" * (not found.recipe.data.root) + " evaluate.classifier=RUN" * found.classless
        echo(f"run: {run.path}\nmeasure it: wsolfast eval {run.path}{needs}")


def _print_mapping(found: "Conversion") -> None:
    width = max(map(len, found.tensors))
    for key, tensor in found.tensors.items():
        echo(f"{key:<{width}}  <-  {found.names[key]}  {list(tensor.shape)}")
    for key, reason in found.dropped.items():
        echo(f"{'dropped':<{width}}  <-  {key}  ({reason})")


def _dropped(dropped: dict[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for key, reason in dropped.items():
        by_reason.setdefault(reason, []).append(key)
    parts = [f"{', '.join(keys[:3])}{' ...' * (len(keys) > 3)} ({reason})" for reason, keys in by_reason.items()]
    return f"dropped {len(dropped)} tensors" + (f": {'; '.join(parts)}" if parts else "")


@app.command(epilog="Examples:\n\n  wsolfast demo\n\n  wsolfast demo --minutes 1 --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Write runs and report into this folder.")] = Path("runs/demo"),
    seed: Annotated[
        int, typer.Option(help="Use this seed for the weights, the order of images and the augmentation.")
    ] = 0,
    minutes: Annotated[float, typer.Option(min=0.01, help="Train for about this many minutes, on two cores.")] = 3.0,
    baselines: Annotated[bool, typer.Option("--baselines", help="Also train HaS, CutMix, ADL, ACoL and SPG.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train and measure every demo method on rendered images, and write a report. It needs no data, GPU or network.

    Under torchrun or srun, processes share every run.
    """
    from wsolfast.engine.demo import demo as run_demo
    from wsolfast.engine.demo import demo_recipes
    from wsolfast.engine.run.distributed import is_first, processes

    runtime = load_recipe(demo_recipes(baselines=False)[0]).runtime
    with processes(runtime.device, runtime.timeout_minutes):
        results, page = run_demo(out, seed=seed, minutes=minutes, baselines=baselines, progress=show_progress(quiet))
        first = is_first()
    if first:
        print_comparison(results)
        echo(f"report: {page}")


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast reproduce --data /data/CUB_200_2011 --recipes 'spa_cub_*' --seeds 0,1,2\n\n"
    "  wsolfast reproduce --data cub=/data/CUB_200_2011 --data ilsvrc=/data/ILSVRC --list\n\n"
    "  wsolfast reproduce --recipes 'demo/*' --seeds 0,1",
)
def reproduce(
    what: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]DIR", help="Read the data set NAME, such as cub or ilsvrc, from this folder."),
    ] = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Run these recipes, by name or file. The default is every published row."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Train with each of these seeds, separated by commas.")] = "0",
    output: Annotated[Path, typer.Option(help="Write runs and reproduce.md into this folder.")] = Path(
        "runs/reproduce"
    ),
    list_only: Annotated[bool, typer.Option("--list", help="Show the list, and run nothing.")] = False,
    device: Device = None,
    amp: Amp = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate recipes over seeds, and write a table of the papers' numbers beside the measured ones.

    Finished runs are kept, and interrupted runs continue. A failed run is a row with its reason. Under torchrun or
    srun, processes share every run, and the first run that fails ends the list.
    """
    from wsolfast.engine import reproduce as reproducing
    from wsolfast.engine.run.distributed import find_rank, processes

    overrides = [*(what or []), *runtime_overrides(device=device, amp=amp, workers=workers)]
    folders = dict(word.partition("=")[::2] if "=" in word else ("", word) for word in data or [])
    jobs, left_out = reproducing.plan(
        output, patterns=recipes or (), seeds=_seeds(seeds), data=folders, overrides=overrides
    )
    first = find_rank().rank == 0
    quiet = quiet or not first
    if list_only and first:
        for job in jobs:
            echo(f"{job.state():<8}  {job.path}")
    if left_out and not quiet:
        echo(f"left out, --data NAME=DIR is not given: {', '.join(left_out)}")
    if list_only:
        return
    if not jobs:
        raise RecipeError("nothing to run: give --data DIR, or --data NAME=DIR for each data set")
    runtime = jobs[0].recipe.runtime
    with processes(runtime.device, runtime.timeout_minutes):
        summary = reproducing.reproduce(jobs, output, show_progress(quiet))
    if not quiet:
        echo(reproducing.to_markdown(summary))
        echo(f"table: {output / 'reproduce.md'}")
    reproducing.check(summary)


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise RecipeError(f"--seeds: expected numbers with commas between, such as 0,1,2, got {text!r}") from None
