"""Command ``wsolfast train``."""

from pathlib import Path
from typing import Annotated

import typer

from wsolfast.cli._options import (
    Amp,
    CacheGb,
    Decoder,
    Device,
    ExistOk,
    Name,
    Quiet,
    Runs,
    SkipBad,
    Workers,
    decoder_override,
    echo,
    runtime_overrides,
)
from wsolfast.recipe import RecipeError

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast train demo/spa\n\n"
    "  wsolfast train spa_cub_vgg16 data.root=/data/CUB_200_2011 --amp auto\n\n"
    "  wsolfast train cub50/cam data.root=DIR stage.backbone.weights=FILE stage.optim.lr=0.01 --name try2\n\n"
    "  wsolfast train --resume runs/try2\n\n"
    "  torchrun --nproc-per-node 8 -m wsolfast train spa_ilsvrc_vgg16 data.root=/data/ilsvrc",
)
def train(
    what: Annotated[list[str] | None, typer.Argument(metavar="RECIPE [KEY=VALUE]...", show_default=False)] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run from its last checkpoint.")] = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    exist_ok: ExistOk = False,
    device: Device = None,
    amp: Amp = None,
    channels_last: Annotated[
        bool | None, typer.Option(help="Keep images and features as [N, H, W, C] in memory.")
    ] = None,
    workers: Workers = None,
    decoder: Decoder = None,
    cache_gb: CacheGb = None,
    seed: Annotated[
        int | None, typer.Option(help="Use this seed for the weights, the order of images and the augmentation.")
    ] = None,
    skip_bad: SkipBad = False,
    skip_nonfinite: Annotated[
        int | None,
        typer.Option(min=0, help="Leave out at most this many steps whose loss or gradient is not finite."),
    ] = None,
    deterministic: Annotated[
        bool | None, typer.Option(help="Compute the same bits every time. On a GPU this is slower.")
    ] = None,
    save_every: Annotated[
        str | None, typer.Option(help="Also write a checkpoint after this many steps (500) or minutes (10m).")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe's method on image labels. Interrupt it at any time and continue with --resume.

    Under torchrun or srun, several processes share each batch of the recipe.
    """
    words = what or []
    recipe_name = words.pop(0) if words and "=" not in words[0] else None
    overrides = words + runtime_overrides(
        device=device,
        amp=amp,
        channels_last=channels_last,
        workers=workers,
        skip_nonfinite=skip_nonfinite,
        deterministic=deterministic,
        cache_gb=cache_gb,
        **_save_every(save_every),
    )
    overrides += decoder_override(decoder)
    if seed is not None:
        overrides.append(f"seed={seed}")
    if skip_bad:
        overrides.append("data.skip_bad=true")
    from wsolfast.api import train as train_recipe
    from wsolfast.engine.run.distributed import find_rank

    run = train_recipe(recipe_name, *overrides, resume=resume, name=name, runs=runs, exist_ok=exist_ok, quiet=quiet)
    if not quiet and find_rank().rank == 0:
        echo(f"trained: {run.path}\nmeasure it, if the test images have boxes or masks: wsolfast eval {run.path}")
        echo(f"look at it: wsolfast localize {run.path} PHOTO.jpg")


def _save_every(text: str | None) -> dict[str, object]:
    if text is None:
        return {}
    number = text.removesuffix("m")
    try:
        return {"save_every_minutes": float(number)} if text.endswith("m") else {"save_every_steps": int(number)}
    except ValueError:
        raise RecipeError(f"--save-every: expected a number of steps (500) or minutes (10m), got {text!r}") from None
