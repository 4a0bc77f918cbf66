"""Options that commands share, and how they print and refuse."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsolfast.recipe import RecipeError

if TYPE_CHECKING:
    from wsolfast.engine.run.progress import Progress

Device = Annotated[str | None, typer.Option(help="Run on this device: auto, cpu, cuda, cuda:N or mps.")]
Amp = Annotated[
    str | None,
    typer.Option(
        help="Compute in mixed precision (bf16, fp16) or in float32 (none). auto takes bf16 if it is fast there."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Load images with this many processes, or threads in an evaluation. -1 chooses the number."),
]
Decoder = Annotated[
    str | None,
    typer.Option(
        help="Decode JPEG by auto, pil or simplejpeg, which give the same pixels. cuda decodes on the GPU, only in "
        "evaluations, and gives other pixels."
    ),
]
CacheGb = Annotated[
    float | None,
    typer.Option(min=0, help="Keep at most this many GB of decoded images on disk. runtime.cache_dir is the folder."),
]
Runs = Annotated[Path, typer.Option(help="Look for runs in this folder, and write new ones there.")]
Name = Annotated[str | None, typer.Option(help="Give the run's folder this name. The default is the recipe's name.")]
ExistOk = Annotated[bool, typer.Option("--exist-ok", help="If the run exists, start it again and replace its results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out unreadable images and print their names, and do not stop.")
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Use this file of weights: those of a network, or model.safetensors of a trained run."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Post = Annotated[
    str | None, typer.Option(help="Refine maps by scg, sem, grad_cam, ..., or not (none). The default is the recipe's.")
]
Protocol = Annotated[str | None, typer.Option(help="Evaluate by this protocol. The default is the recipe's.")]


def refuse_company(command: str) -> None:
    """Refuse several processes for work that is not shared: each would do all of it, in one folder.

    Args:
        command: the name of that work.

    Raises:
        RecipeError: if there are several.
    """
    from wsolfast.engine.run.distributed import find_rank

    count = find_rank().world_size
    if count > 1:
        raise RecipeError(f"{command}: work for one process, {count} were started; give it without torchrun or srun")


def echo(text: str = "") -> None:
    """Print a line on standard output."""
    sys.stdout.write(f"{text}\n")


def show_progress(quiet: bool) -> "Progress":
    """Return a display on standard error, which shows nothing if ``quiet``."""
    from wsolfast.engine.run.progress import Progress

    return Progress(quiet=quiet)


def runtime_overrides(**values: object) -> list[str]:
    """Return a recipe's overrides of ``runtime``; values that are None were not given."""
    return [f"runtime.{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def decoder_override(decoder: str | None) -> list[str]:
    """Return a recipe's override of ``data.decoder``; None was not given."""
    return [] if decoder is None else [f"data.decoder={json.dumps(decoder)}"]
