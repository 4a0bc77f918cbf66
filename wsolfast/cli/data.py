"""The ``wsolfast data`` commands."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsolfast.cli._options import Quiet, echo, show_progress
from wsolfast.recipe import RecipeError, override_value

app = typer.Typer(help="Check, index, convert and download data sets.", no_args_is_help=True)

_OPTIONS = typer.Argument(
    metavar="[OPTION=VALUE]...", help="Options of the data set, the same as data.options of a recipe."
)
_WORKERS = typer.Option(min=1, help="Number of threads. By default the number of cores decides.")


@contextmanager
def _wrong_usage() -> Iterator[None]:
    """Turn a value that cannot be meant into an error of usage."""
    try:
        yield
    except ValueError as error:
        raise RecipeError(str(error)) from error


@app.command(
    epilog="Examples:\n\n  wsolfast data check cub /data/CUB_200_2011 --decode\n\n"
    "  wsolfast data check openimages /data/OpenImages metadata=/data/metadata/OpenImages"
)
def check(
    name: Annotated[str, typer.Argument(help="The name of the data set, such as cub or folder.")],
    root: Annotated[Path | None, typer.Argument(help="The folder of the data set.", show_default=False)] = None,
    options: Annotated[list[str] | None, _OPTIONS] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image, not only its header.")] = False,
) -> None:
    """Check a data set on disk and say what is missing. Nothing is downloaded."""
    from wsolfast import data

    with _wrong_usage():
        report = data.check(name, root, decode=decode, **_data_options(options or []))
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
        typer.Argument(metavar="NAME ROOT [OPTION=VALUE]...", help="The data set is ilsvrc, voc or shards."),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Build the index even if nothing seems to have changed.")
    ] = False,
    workers: Annotated[int | None, _WORKERS] = None,
    quiet: Quiet = False,
) -> None:
    """Write an index of a data set: a few files with what thousands of files say about the images.

    ImageNet has an XML file for every validation image. Pascal VOC has one for every image. Shards have a head for
    every member. The index is in ROOT/.wsolfast and is used automatically, so the data set opens faster. If a folder of
    images, a list or a shard has changed, the index is not used until you give this command again, and a line says
    this. All other data sets open as fast from their files.
    """
    from wsolfast import data

    if len(what) < 2:
        raise RecipeError("expected NAME ROOT [OPTION=VALUE]..., such as: ilsvrc /data/ILSVRC")
    name, root, *words = what
    options = _data_options(words)
    with _wrong_usage():
        summary = data.index(name, root, task=show_progress(quiet).task, workers=workers, force=force, **options)
    for message in summary.unreadable:
        sys.stderr.write(f"unreadable: {message}\n")
    if not quiet:
        counts = ", ".join(f"{split} {count}" for split, count in summary.images.items())
        echo(f"{'index' if summary.built else 'still holds'}: {summary.path} ({counts})")


def _data_options(words: list[str]) -> dict[str, object]:
    """Read ``OPTION=VALUE`` words as options of a data set."""
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
    per_shard: Annotated[int, typer.Option(min=1, help="Number of images in a tar file.")] = 1000,
    workers: Annotated[int | None, _WORKERS] = None,
    quiet: Quiet = False,
) -> None:
    """Write a data set as tar files, which data.name=shards and WebDataset read. Images are copied byte for byte.

    If the command is interrupted, give it again and it continues. OPTION=VALUE are the data.options of a recipe.
    """
    from wsolfast import data

    if len(what) < 3:
        raise RecipeError("expected NAME ROOT DIR [OPTION=VALUE]..., such as: cub /data/CUB_200_2011 /data/cub-shards")
    name, root, output, *words = what
    options = _data_options(words)
    with _wrong_usage():
        summary = data.pack(
            name, root, output, per_shard=per_shard, task=show_progress(quiet).task, workers=workers, **options
        )
    if not quiet:
        counts = ", ".join(f"{split} {count}" for split, count in summary.images.items())
        echo(f"{summary.root}: {summary.shards} shards, {summary.written} of them new ({counts})")


@app.command(
    name="import",
    epilog="Examples:\n\n  wsolfast data import /data/birds\n\n"
    "  wsolfast train cub50/cam data.root=/data/birds data.name=folder",
)
def import_csv(
    root: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder of images with their classes, in one of the layouts below.")
    ],
    quiet: Quiet = False,
) -> None:
    """Write DIR/annotations.csv from another layout. data.name=folder reads it. No file is overwritten or moved.

    Layouts are class folders, ImageFolder, Pascal VOC, XML files beside images, COCO, CUB, ImageNet, and tables with a
    column for the image and one for its class. If images have boxes and no split, a tenth of each class becomes val and
    a fifth becomes test.
    """
    from wsolfast import data

    summary = data.to_csv(root)
    for remark in summary.remarks:
        sys.stderr.write(f"note: {remark}\n")
    if not quiet:
        counts = ", ".join(f"{split} {count}" for split, count in summary.images.items())
        echo(f"{summary.kind}: {counts}; {summary.classes} classes, {summary.boxes} boxes")
        folder = shlex.quote(str(summary.file.parent))
        echo(f"written: {summary.file}\nlook it through: wsolfast data check folder {folder}")


@app.command(
    epilog="Examples:\n\n  wsolfast data subset cub50 /data/CUB_200_2011 /data/cub50\n\n"
    "  wsolfast data subset ilsvrc400 /data/ILSVRC /data/ilsvrc400\n\n"
    "  wsolfast data subset pets3 /data/oxford-iiit-pet /data/pets3\n\n"
    "  wsolfast train cub50/cam data.root=/data/cub50",
)
def subset(
    name: Annotated[str, typer.Argument(help="The small set: cub50, ilsvrc400 or pets3.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder of the public set, as it is distributed.")],
    output: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or one that this command has begun.")],
    workers: Annotated[int | None, _WORKERS] = None,
    quiet: Quiet = False,
) -> None:
    """Make one of the small real sets of the zoo from the public set that it is a part of.

    The images, the splits and the boxes are those that the zoo was measured on. The recipes cub50/*, ilsvrc400/* and
    pets3/* read the sets. If the command is interrupted, give it again and it continues.
    """
    from wsolfast import data

    with _wrong_usage():
        summary = data.subset(name, root, output, task=show_progress(quiet).task, workers=workers)
    if not quiet:
        counts = ", ".join(f"{split} {count}" for split, count in summary.images.items())
        echo(f"{summary.root}: {counts}; {summary.written} images of them new")


class ImageLayout(StrEnum):
    """Layouts of rendered images."""

    classes = "classes"
    voc = "voc"
    coco = "coco"


@app.command(
    name="render-images",
    epilog="Examples:\n\n  wsolfast data render-images animals\n\n"
    "  wsolfast data render-images animals-voc --layout voc\n\n  wsolfast init animals",
)
def render_images(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or one that this command has begun.")],
    layout: Annotated[
        ImageLayout, typer.Option(help="A folder per class, Pascal VOC or COCO. The latter two have boxes.")
    ] = ImageLayout.classes,
    images: Annotated[int, typer.Option(min=1, help="Number of images.")] = 40,
    classes: Annotated[int, typer.Option(min=2, max=32, help="Number of classes.")] = 4,
    size: Annotated[int, typer.Option(min=32, help="Side of the square images in pixels.")] = 96,
    seed: Annotated[int, typer.Option(help="Seed of the images.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Write a few rendered images in a usual layout, to try wsolfast init without images of your own."""
    from wsolfast import data

    with _wrong_usage():
        count = data.render_images(root, layout=layout.value, images=images, classes=classes, size=size, world=seed)
    if not quiet:
        echo(f"{root}: {count} images")


@app.command(
    name="synth-imagenet",
    epilog="Examples:\n\n"
    "  wsolfast data synth-imagenet runs/imagenet --images 5000\n\n"
    "  wsolfast data check ilsvrc runs/imagenet\n\n"
    "  wsolfast data index ilsvrc runs/imagenet",
)
def synth_imagenet(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or one that this command has begun.")],
    images: Annotated[int, typer.Option(min=1, help="Number of validation images, which have boxes.")] = 5000,
    train_images: Annotated[int, typer.Option(min=0, help="Number of training images.")] = 64,
    classes: Annotated[int, typer.Option(min=2, max=32, help="Number of classes.")] = 32,
    size: Annotated[int, typer.Option(min=32, help="Side of the square images in pixels.")] = 96,
    seed: Annotated[int, typer.Option(help="Seed of the images.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of threads. By default 2 for images of 200 pixels or more, else 1."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write rendered images in ImageNet's layout (JPEG, XML boxes, lists), to try large runs without ImageNet.

    If the command is interrupted, give it again and it continues. The same options give the same annotations, byte for
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
    name: Annotated[str, typer.Argument(help="The name of the data set. Only cub can be downloaded.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Confirm that you have read the terms and accept them.")
    ] = False,
    output: Annotated[Path, typer.Option(help="The folder in which the folder of the data set is made.")] = Path("."),
    url: Annotated[str | None, typer.Option(help="The address of a mirror. Its file must have the same bytes.")] = None,
    sha256: Annotated[str | None, typer.Option(help="SHA-256 of the file at --url, if it has other bytes.")] = None,
    quiet: Quiet = False,
) -> None:
    """Download a data set. Without --accept-licence, print its address and its terms, and exit with 2.

    If the command is interrupted, give it again and it continues. The SHA-256 of the archive is checked before anything
    is unpacked. Links, devices and paths that lead out of the folder are refused. ImageNet cannot be downloaded here,
    because it needs a registration.
    """
    from wsolfast import data

    with _wrong_usage():
        folder = data.fetch(
            name, output, accept_licence=accept_licence, url=url, sha256=sha256, task=show_progress(quiet).task
        )
    if not quiet:
        echo(f"data: {folder}\nlook it through: wsolfast data check {name} {folder}")
