"""The ``wsolfast data`` commands."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from wsolfast.cli._options import Quiet, echo, show_progress
from wsolfast.recipe import RecipeError, override_value

app = typer.Typer(help="Look after data sets on disk.", no_args_is_help=True)


@app.command(
    epilog="Examples:\n\n  wsolfast data check cub /data/CUB_200_2011 --decode\n\n"
    "  wsolfast data check openimages /data/OpenImages metadata=/data/metadata/OpenImages"
)
def check(
    name: Annotated[str, typer.Argument(help="cub, ilsvrc, openimages, folder, shards, parquet or synthetic.")],
    root: Annotated[Path | None, typer.Argument(help="The data set's folder.", show_default=False)] = None,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="data.options of a recipe.")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every image.")] = False,
) -> None:
    """Check a data set on disk and say what is missing; nothing is downloaded."""
    from wsolfast import data

    try:
        report = data.check(name, root, decode=decode, **_data_options(options or []))
    except ValueError as error:
        raise RecipeError(str(error)) from error
    echo(str(report))
    if not report.ok:
        raise typer.Exit(3)


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast data index ilsvrc /data/ILSVRC\n\n"
    "  wsolfast data index shards /data/bird-shards 'shards=birds-{split}-*.tar' --force",
)
def index(
    what: Annotated[
        list[str],
        typer.Argument(metavar="NAME ROOT [OPTION=VALUE]...", help="ilsvrc or shards."),
    ],
    force: Annotated[bool, typer.Option("--force", help="Build it even if nothing seems to have changed.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; by the number of cores if not given.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write what thousands of files tell of the images into a few files, which opening the data set then reads instead.

    ImageNet has an XML file for every validation image, and shards have a head for every member. The index lies in
    ROOT/.wsolfast and is used without being asked for. When a folder of images, a list or a shard has changed, it is
    not used until this command is given again, and a line says so. All other data sets open as fast from their files.
    """
    from wsolfast import data

    if len(what) < 2:
        raise RecipeError("expected NAME ROOT [OPTION=VALUE]..., such as: ilsvrc /data/ILSVRC")
    name, root, *words = what
    options = _data_options(words)
    try:
        summary = data.index(name, root, task=show_progress(quiet).task, workers=workers, force=force, **options)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    for message in summary.unreadable:
        sys.stderr.write(f"unreadable: {message}\n")
    if not quiet:
        counts = ", ".join(f"{split} {count}" for split, count in summary.images.items())
        echo(f"{'index' if summary.built else 'still holds'}: {summary.path} ({counts})")


def _data_options(words: list[str]) -> dict[str, object]:
    """``OPTION=VALUE`` words as options of a data set."""
    for word in words:
        if "=" not in word:
            raise RecipeError(f"{word!r}: expected OPTION=VALUE, such as metadata=/data/metadata/CUB")
    return {key: override_value(text) for key, _, text in (word.partition("=") for word in words)}


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast data pack cub /data/CUB_200_2011 /data/cub-shards\n\n"
    "  wsolfast data pack parquet /data/hf-birds /data/bird-shards box_format=xywh\n\n"
    "  wsolfast train spa_cub_vgg16 data.name=shards data.root=/data/cub-shards",
)
def pack(
    what: Annotated[list[str], typer.Argument(metavar="NAME ROOT DIR [OPTION=VALUE]...", show_default=False)],
    per_shard: Annotated[int, typer.Option(min=1, help="Images in a tar file.")] = 1000,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; by the number of cores if not given.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write a data set as tar files, which data.name=shards and WebDataset read; images are copied byte for byte.

    Interrupted, it is finished by giving the same command again. OPTION=VALUE are the data.options of a recipe.
    """
    from wsolfast import data

    if len(what) < 3 or any("=" not in word for word in what[3:]):
        raise RecipeError("expected NAME ROOT DIR [OPTION=VALUE]..., such as: cub /data/CUB_200_2011 /data/cub-shards")
    name, root, output, *words = what
    options = {key: override_value(text) for key, _, text in (word.partition("=") for word in words)}
    try:
        summary = data.pack(
            name, root, output, per_shard=per_shard, task=show_progress(quiet).task, workers=workers, **options
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if not quiet:
        counts = ", ".join(f"{split} {count}" for split, count in summary.images.items())
        echo(f"{summary.root}: {summary.shards} shards, {summary.written} of them new ({counts})")


@app.command(
    name="synth-imagenet",
    epilog="Examples:\n\n"
    "  wsolfast data synth-imagenet runs/imagenet --images 5000\n\n"
    "  wsolfast data check ilsvrc runs/imagenet\n\n"
    "  wsolfast data index ilsvrc runs/imagenet",
)
def synth_imagenet(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or one that this command began.")],
    images: Annotated[int, typer.Option(min=1, help="Images of the validation set, with boxes.")] = 5000,
    train_images: Annotated[int, typer.Option(min=0, help="Images of the training set.")] = 64,
    classes: Annotated[int, typer.Option(min=2, max=32, help="Classes.")] = 32,
    size: Annotated[int, typer.Option(min=32, help="Side of the images in pixels.")] = 96,
    seed: Annotated[int, typer.Option(help="Of the images.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads; if not given two for images of 200 pixels or more, else one.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write rendered images in ImageNet's layout (JPEG, XML boxes, lists), to try large runs without ImageNet.

    Interrupted, it is finished by giving the same command again. The same options give the same annotations, to the
    byte.
    """
    from wsolfast import data

    summary = data.synth_imagenet(
        root,
        images=images,
        train_images=train_images,
        classes=classes,
        size=size,
        world=seed,
        task=show_progress(quiet).task,
        workers=workers,
    )
    if not quiet:
        echo(f"{summary.root}: {summary.images} images, {summary.written} of them new")


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast data fetch cub\n\n"
    "  wsolfast data fetch cub --accept-licence --output /data\n\n"
    "  wsolfast data fetch cub --accept-licence --output /data --url http://mirror/CUB_200_2011.tgz",
)
def fetch(
    name: Annotated[str, typer.Argument(help="cub.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read the terms and keep to them.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where the data set's folder is made.")] = Path("."),
    url: Annotated[str | None, typer.Option(help="A mirror; the bytes must be the same.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Of what is at --url, if those are other bytes.")] = None,
    quiet: Quiet = False,
) -> None:
    """Download a data set; without --accept-licence, say where it is and on which terms, and exit with 2.

    Interrupted, the same command continues. The archive's SHA-256 is looked at before anything is unpacked; links,
    devices and paths that lead out of the folder are refused. ImageNet is not here: it is given on registration only.
    """
    from wsolfast import data

    try:
        folder = data.fetch(
            name, output, accept_licence=accept_licence, url=url, sha256=sha256, task=show_progress(quiet).task
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if not quiet:
        echo(f"data: {folder}\nlook it through: wsolfast data check {name} {folder}")
