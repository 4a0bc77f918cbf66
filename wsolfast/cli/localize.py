"""Command ``wsolfast localize``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsolfast.cli._options import Device, Name, Post, Quiet, Runs, Weights, echo, refuse_company, show_progress

if TYPE_CHECKING:
    from wsolfast.engine.run.results import LocalizedClass, LocalizedImage, LocalizeResults

app = typer.Typer()

_SOURCES = {
    "given": "as asked for",
    "evaluation": "as the run's evaluation chose",
    "recipe": "as the recipe says",
    "default": "the default; measure the run to choose a better one",
}


@app.command(
    epilog="Examples:\n\n"
    "  wsolfast localize runs/demo/spa photo.jpg\n\n"
    "  wsolfast localize runs/birds photos/ 'more/*.jpg' --class Bobolink --out boxes/\n\n"
    "  wsolfast localize imagenet/resnet50 photo.jpg --topk 3\n\n"
    "  wsolfast localize imagenet/squeezenet photo.jpg --weights squeezenet1_1.pt\n\n"
    "  wsolfast localize timm:deit_small_patch16_224 photos/ --no-overlays --json - | jq .images",
)
def localize(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|RECIPE|timm:NAME",
            help="Localise with this trained run, or with the network of this recipe or of timm without training.",
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMG...", help="Localise the object in these image files, folders and glob patterns."),
    ],
    out: Annotated[Path | None, typer.Option(help="Write into this folder. The default is RUN/localized.")] = None,
    weights: Weights = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    class_: Annotated[
        str | None,
        typer.Option("--class", help="Localise the class of this name or number. The default is the most likely one."),
    ] = None,
    topk: Annotated[int, typer.Option(min=1, help="Localise each image's K most likely classes.")] = 1,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Cut the map at this value. The default is that of the evaluation or of the recipe."
        ),
    ] = None,
    post: Post = None,
    bits: Annotated[
        int | None,
        typer.Option(
            help="Read 16-bit files as 10, 12, 14 or 16 bits. By default, files that use at most 12 are refused."
        ),
    ] = None,
    overlays: Annotated[
        bool, typer.Option("--overlays/--no-overlays", help="Write a picture with the map and the box for each image.")
    ] = True,
    json_: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE|-", help="Also write boxes.json to this file, or to standard output (-)."),
    ] = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Localise the object in image files. Write an overlay PNG for each file and one boxes.json for all.

    The recipes imagenet/* and timm:NAME take ImageNet classifiers that torchvision and timm have trained, so you need
    no data and no training. A folder is searched for images at any depth.
    """
    from wsolfast.engine.given_images import find_images
    from wsolfast.engine.localize import localize as localize_files
    from wsolfast.engine.run.outputs import Outputs
    from wsolfast.engine.run.run_folder import to_json
    from wsolfast.engine.targets import open_target

    refuse_company("localize")
    # Before a network is loaded.
    find_images(images)
    if json_ not in (None, "-"):
        Outputs(Path(json_).parent).check(Path(json_))
    run = open_target(target, weights=weights, runs=runs, name=name)
    output = out or run.path / "localized"
    found = localize_files(
        run,
        images,
        output,
        class_name=class_,
        topk=topk,
        threshold=threshold,
        device=device,
        post=post,
        bits=bits,
        overlays=overlays,
        progress=show_progress(quiet),
    )
    text = to_json(found.to_json())
    if json_ == "-":
        sys.stdout.write(text)
    elif json_ is not None:
        Outputs(Path(json_).parent).write_text(Path(json_), text)
    if not quiet and json_ != "-":
        _print(found, output)
    if found.failed:
        sys.stderr.write("".join(f"error: {image.error}\n" for image in found.failed))
        raise typer.Exit(1)


def _print(found: "LocalizeResults", output: Path) -> None:
    if found.map is not None:
        echo(f"map: {found.map}")
    for image in found.images:
        echo(f"{image.file}: {_told(image)}")
        for other in image.others or ():
            echo(f"{' ' * len(image.file)}  {_told(other)}")
    if found.threshold is not None:
        echo(f"maps cut at {found.threshold:.3g} of their maximum ({_SOURCES[found.threshold_source]})")
    echo(f"written: {output}/boxes.json")


def _told(one: "LocalizedImage | LocalizedClass") -> str:
    boxes = " ".join(str([round(value) for value in box]) for box in one.boxes)
    boxes = boxes or "no box: its score map has one value everywhere"
    if one.boxes and not one.localized:
        boxes = f"not localised: the box {boxes} covers the picture"
    return f"{one.class_name or one.class_id} ({one.score:.2f}) {boxes}"
