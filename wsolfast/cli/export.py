"""Commands that write a run's findings, or weights: export, fold."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsolfast.cli._options import Quiet, echo, show_progress

app = typer.Typer()


class Format(StrEnum):
    """Formats of an export."""

    coco = "coco"
    masks = "masks"
    onnx = "onnx"
    torch = "torch"


@app.command()
def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Export this trained run. The formats coco and masks need an evaluated one."
        ),
    ],
    to: Annotated[
        Format, typer.Option(help="Write COCO detections, PNG masks and score maps, or the network as a graph.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write this file, or this folder of masks. The default is below RUN/export.")
    ] = None,
    split: Annotated[str, typer.Option(help="Read this folder below RUN/eval (coco, masks).")] = "test",
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Cut maps at this value (coco, masks). The default is the one that eval chose."
        ),
    ] = None,
    topk: Annotated[
        int, typer.Option(min=0, help="Make maps of this many classes, or of all with 0 (onnx, torch).")
    ] = 1,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Take this many images per call (onnx, torch). The default is any number.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the results of a run, or its network, for other tools."""
    from wsolfast import export as exporter
    from wsolfast.engine.run.run_folder import RunFolder
    from wsolfast.engine.run.words import count

    folder, progress = RunFolder(run), show_progress(quiet)
    if to in (Format.onnx, Format.torch):
        out = out or run / "export" / ("model.onnx" if to is Format.onnx else "model.pt2")
        said = exporter.write_network(folder, out, onnx=to is Format.onnx, topk=topk, batch=batch)
    else:
        findings = exporter.read_findings(folder, split, threshold)
        cut = "with boxes as they are given" if findings.threshold is None else f"at threshold {findings.threshold:g}"
        said = f"{count(len(findings), 'image')} {cut}"
        if to is Format.coco:
            out = out or run / "export" / f"{split}.json"
            exporter.write_coco(findings, out, progress)
        else:
            out = out or run / "export" / split
            exporter.write_masks(findings, out, progress)
    if not quiet:
        echo(f"{said}\nwritten: {out}")


@app.command(
    epilog="Examples:\n\n  wsolfast fold mobilenet_v2 MobileNet_V2_Weights.IMAGENET1K_V1 "
    "/data/weights/mobilenet_v2_backbone_torchvision_folded.pt"
)
def fold(
    backbone: Annotated[str, typer.Argument(help="The network, such as mobilenet_v2.")],
    weights: Annotated[
        str, typer.Argument(help="Its weights: a file, or a name of torchvision, which is downloaded once.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Write this file, .pt or .safetensors.")],
    quiet: Quiet = False,
) -> None:
    """Write pretrained weights with their batch norms folded into the convolutions.

    The network gives the same features. The recipes cub50/* and pets3/* were measured with such weights of MobileNetV2.
    """
    from wsolfast.engine.fold_weights import fold_weights

    tensors = fold_weights(backbone, weights, file)
    if not quiet:
        echo(f"written: {file} ({tensors} tensors)")
