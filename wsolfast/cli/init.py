"""Command ``wsolfast init``."""

from pathlib import Path
from typing import Annotated

import typer

from wsolfast.cli._options import Quiet, echo, refuse_company

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n  wsolfast init /data/birds\n\n"
    "  wsolfast init /data/birds --backbone resnet50 --out birds.toml\n\n  wsolfast init /data/birds --weights none"
)
def init(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the recipe into this file. The default is the folder's name.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Take this network, such as resnet50 or timm:resnet18. The default is mobilenet_v2."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Start from this file, from published weights, or from none. The default is torchvision's or timm's."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Look at a folder of your own images, write a recipe for it, and print the next commands.

    The folder may hold class folders, ImageFolder's train and val, a CSV table, COCO, Pascal VOC, XML files beside
    images, CUB or ImageNet. Nothing is downloaded and no file of yours is changed. Without boxes or masks, a fifth of
    the images is held out to validate the classes.
    """
    from wsolfast.engine.own_images import first_steps

    refuse_company("init")
    steps = first_steps(root, out, backbone=backbone, weights=weights)
    if not quiet:
        echo("\n".join([*steps.lines, "next:", *(f"  {command}" for command in steps.commands)]))
