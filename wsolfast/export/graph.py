"""A network and its localization map, or its boxes, as one graph, without this library: ``torch.export`` and ONNX."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from wsolfast import ops
from wsolfast.engine.assembly.build import eval_view
from wsolfast.engine.assembly.network import load_localizer
from wsolfast.engine.assembly.stage_refs import localizer_of
from wsolfast.engine.run.errors import MissingError, RunError, UsageError
from wsolfast.engine.run.outputs import Outputs
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.methods import Method

_LARGEST_BATCH = 4096


class _Graph(nn.Module):
    def __init__(self, method: Method, topk: int):
        super().__init__()
        self.method, self.topk = method, topk

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.method.localize(image, topk=self.topk)
        places = found.localization_map if found.boxes is None else found.boxes
        assert places is not None  # Localization has one of them
        return (places,) if found.logits is None else (found.logits, found.classes, places)


def output_names(method: Method) -> list[str]:
    """Return the names of the outputs of a method's graph, in order."""
    places = "boxes" if method.gives_boxes else "localization_map"
    return ["logits", "classes", places] if method.classifies else [places]


def export_program(
    method: Method, size: tuple[int, int], *, topk: int = 1, batch: int | None = None
) -> ExportedProgram:
    """Export a method: image in; logits, classes and maps or boxes out, as ``method.localize`` gives them.

    The library's own ops are replaced by their PyTorch references, so that the program runs wherever PyTorch does.

    Args:
        method: on the CPU; put into eval mode.
        size: (H, W) of the images, which the graph is fixed to.
        topk: most likely classes that get a map; the number of classes for all.
        batch: images per call; None takes any number up to 4096.

    Returns:
        A program of ``image``, uint8 [N, 3, H, W] RGB, to (``logits`` [N, K], ``classes`` int64 [N, topk],
        ``localization_map`` [N, topk, h, w]), or to (``localization_map`` [N, 1, h, w],) where a method does not
        classify. A method that gives boxes has ``boxes``, [N, topk, 4] or [N, 1, 4] in pixels of ``image``, instead.

    Raises:
        RunError: if the method cannot be written as a graph.
    """
    image = torch.zeros(2 if batch is None else batch, 3, *size, dtype=torch.uint8)
    shapes = {"image": {0: Dim("batch", min=1, max=_LARGEST_BATCH)}} if batch is None else None
    graph = _Graph(method, topk).eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(graph, (image,), dynamic_shapes=shapes, strict=False)
            return program.run_decompositions(ops.references())
    except Exception as error:
        raise _refused(method, "torch.export", error) from error


def write_program(program: ExportedProgram, file: Path) -> None:
    """Write ``program``, which :func:`export_program` made, to ``file``.

    ``torch.export.load(file).module()`` runs it without this library.
    """
    Outputs(file.parent).write(file, lambda stream: torch.export.save(program, stream))


def write_onnx(program: ExportedProgram, file: Path, outputs: Sequence[str], **metadata: object) -> None:
    """Write a program that :func:`export_program` made as ONNX.

    Args:
        program: of a method.
        file: where to.
        outputs: their names, see :func:`output_names`.
        **metadata: kept in the model as JSON, by name.

    Raises:
        ImportError: if onnx or onnxscript is not installed.
        RunError: if ONNX lacks an operator.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError("ONNX needs onnx and onnxscript; pip install 'wsolfast[export]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["image"],
                output_names=list(outputs),
                custom_translation_table={torch.ops.aten.sort.stable: _sort},
                verbose=False,
                # It takes the additions of small numbers, which divisions by zero are kept off with, for nothing.
                optimize=False,
            )
    except Exception as error:
        raise RunError(f"onnx: this graph cannot be written as ONNX: {_first_line(error)}") from error
    if made is None:
        raise RunError("onnx: torch.onnx.export gave no model")
    made.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    Outputs(file.parent).write(file, lambda stream: stream.write(made.model_proto.SerializeToString()))


def write_network(run: RunFolder, file: Path, *, onnx: bool, topk: int = 1, batch: int | None = None) -> str:
    """Write the localiser of a run, at the size that its evaluation shows it.

    Args:
        run: a finished run.
        file: where to.
        onnx: ONNX, with the class names in its metadata; otherwise a program of ``torch.export``.
        topk, batch: of :func:`export_program`; ``topk`` 0 gives the maps of all classes.

    Returns:
        A line that says what the graph takes and gives.

    Raises:
        MissingError: if the run is not finished, or nothing tells its classes.
        UsageError: if the recipe does not fix the size of its images, or the file is there and of another program.
    """
    Outputs(file.parent).check(file)
    names, recipe = run.class_names(), run.recipe
    if not names and localizer_of(recipe).stage.num_classes is None:
        raise MissingError(f"{run.path} does not know its classes yet; wsolfast eval {run.path}")
    view = eval_view(recipe)
    side = view.crop or view.resize
    if side is None:
        raise UsageError(f"{run.path}: its recipe evaluates images at their own sizes; a graph needs data.resize")
    size = (side, side) if isinstance(side, int) else side
    method = load_localizer(run, recipe, len(names))
    program = export_program(method, size, topk=topk or len(names), batch=batch)
    outputs = output_names(method)
    if onnx:
        write_onnx(program, file, outputs, class_names=names, recipe=recipe.name)
    else:
        write_program(program, file)
    return f"image uint8 [{batch or 'N'}, 3, {size[0]}, {size[1]}] -> {', '.join(outputs)}"


def _sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    from onnxscript import opset18

    # ONNX has no sort; its TopK puts the lower index first among equals, so it is stable.
    sizes, axis = opset18.Shape(values), opset18.Constant(value_ints=[dim])
    count = opset18.Gather(sizes, axis)  # type: ignore[type-var]  # a constant's type follows from its value
    return opset18.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


def _refused(method: Method, what: str, error: Exception) -> RunError:
    return RunError(f"{what}: {type(method).__name__} cannot be written as a graph: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
