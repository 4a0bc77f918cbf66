"""What commands have in common: options, and what is said and refused."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsolfast.recipe import RecipeError

if TYPE_CHECKING:
    from wsolfast.engine.run.progress import Progress

Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Amp = Annotated[str | None, typer.Option(help="none, or bf16 for mixed precision.")]
Workers = Annotated[int | None, typer.Option(help="Image loading processes, in evaluation threads; -1 chooses.")]
Decoder = Annotated[
    str | None, typer.Option(help="What decodes JPEG: auto, pil or simplejpeg; all give the same pixels.")
]
CacheGb = Annotated[
    float | None, typer.Option(min=0, help="Keep decoded images on disk, so many GB at most; see runtime.cache_dir.")
]
Runs = Annotated[Path, typer.Option(help="Folder of all runs.")]
Name = Annotated[str | None, typer.Option(help="Name of the run's folder; the recipe's name if not given.")]
ExistOk = Annotated[bool, typer.Option("--exist-ok", help="Start a run that exists over, replacing its results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave unreadable images out and say which, instead of stopping.")
]
Weights = Annotated[
    Path | None, typer.Option(help="For a recipe: a network's weights, or a trained run's model.safetensors.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Post = Annotated[str | None, typer.Option(help="How maps are refined: none, or scg; the recipe's if not given.")]
Protocol = Annotated[str | None, typer.Option(help="Evaluation protocol; the recipe's if not given.")]


def refuse_company(command: str) -> None:
    """Some work is not shared: several processes would do all of it each, in one folder."""
    from wsolfast.engine.run.distributed import find_rank

    count = find_rank().world_size
    if count > 1:
        raise RecipeError(f"{command}: work for one process, {count} were started; give it without torchrun or srun")


def echo(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")


def show_progress(quiet: bool) -> "Progress":
    from wsolfast.engine.run.progress import Progress

    return Progress(quiet=quiet)


def runtime_overrides(**values: object) -> list[str]:
    return [f"runtime.{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def decoder_override(decoder: str | None) -> list[str]:
    return [] if decoder is None else [f"data.decoder={json.dumps(decoder)}"]


def run_path(runs: Path, name: str | None, recipe_name: str) -> Path:
    name = name or recipe_name.replace("/", "-")
    if "/" in name or name in (".", ".."):
        raise RecipeError(f"--name: expected the name of a folder below --runs, got {name!r}")
    return runs / name
