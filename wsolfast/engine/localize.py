"""Localisation of any image files with a trained run: overlays to look at, boxes to compute with."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import torch
from PIL import Image

from wsolfast import data, refinements
from wsolfast._nearest import nearest
from wsolfast.data.images.decode import Bits, decode
from wsolfast.engine.assembly.build import classifier_view, eval_protocol, eval_view
from wsolfast.engine.assembly.network import Network
from wsolfast.engine.assembly.stage_refs import classifier_of, localizer_of, method_class
from wsolfast.engine.evaluation.eval_split import eval_name
from wsolfast.engine.report.pictures import draw_boxes, overlay
from wsolfast.engine.run.determinism import deterministic_algorithms
from wsolfast.engine.run.errors import MissingError, UsageError
from wsolfast.engine.run.outputs import Outputs
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import EvalResults, LocalizedImage, LocalizeResults, UnreadableImage
from wsolfast.engine.run.run_folder import RunFolder, to_json
from wsolfast.methods import display_name, method_of
from wsolfast.metrics import GivenBoxes, is_constant
from wsolfast.metrics.functional import predicted_boxes
from wsolfast.recipe import Recipe, dump_recipe, parse_recipe

# Share of the maximum where nothing was measured that would say better: the CAM paper's.
_DEFAULT_THRESHOLD = 0.2


def localize(
    run: RunFolder,
    files: Sequence[str | Path],
    output: str | Path,
    *,
    class_name: str | None = None,
    threshold: float | None = None,
    device: str | None = None,
    post: str | None = None,
    bits: int | None = None,
    progress: Progress | None = None,
) -> LocalizeResults:
    """Write ``<name>.png`` (boxes, and the score map if there is one, over the image) and one ``boxes.json`` for all.

    A score map that has one value everywhere shows nothing: no box is cut from it. A method that gives boxes has no
    map, and its box stands over the plain image.

    Only files of an earlier call are replaced. Where another file has an overlay's name, the overlay is
    ``<name>-2.png``.

    Args:
        run: a trained run, or what :func:`wsolfast.engine.pretrained.adopt` makes of a network as it is.
        files: images; those that cannot be read are listed under ``failed``.
        output: folder, made where it is missing.
        class_name: name or number of the class to localise; None takes each image's most likely class.
        threshold: where the score map is cut; None takes the one that the run's evaluation chose.
        device: where the networks run; None does what the run's recipe says.
        post: the refinement of the maps, or ``"none"``; None does what the run's recipe says.
        bits: how many bits the values of 16-bit files have, see :func:`wsolfast.data.images.decode.decode`; None does
            what the run's recipe says of its data, if it does.
        progress: where to show how far it is.

    Returns:
        The content of ``boxes.json``.

    Raises:
        UsageError: if the run knows no such class, a threshold is given to a method that gives boxes, or
            ``boxes.json`` is there and of another program.
        MissingError: if none of the files exists, the run is not finished, or nothing tells its classes.
    """
    paths, folder = [Path(file) for file in files], Path(output)
    progress, names = progress or Progress(quiet=True), run.shown_class_names()
    with run.starting():
        require_any(paths)
        bits = _known_bits(run.recipe.data.options.get("bits") if bits is None else bits)
        outputs = Outputs(folder, reads=paths)
        outputs.check(folder / "boxes.json")
        recipe = _recipe(run, len(names), device, post)
        label = None if class_name is None else _find_class(class_name, names)
        protocol, view, second_view = eval_protocol(recipe), eval_view(recipe), classifier_view(recipe)
        network = Network(run, recipe, len(names), progress.log)
        if not network.gives_boxes:
            threshold = threshold if threshold is not None else _measured_threshold(run, recipe)
        elif threshold is not None:
            method = network.localizer.stage.method
            raise UsageError(f"--threshold: {method} gives boxes and no maps, nothing is cut; leave it out")
        predictor, target = network.predictor, network.device
    wanted = None if label is None else torch.tensor([label], device=target)
    found, failed = [], []
    taken: set[Path] = set()
    with progress.task("images", len(paths)) as advance, deterministic_algorithms(recipe.runtime.deterministic):
        for file in paths:
            try:
                pixels = decode(file, orient=bool(recipe.data.options.get("orient", True)), bits=bits)
                image = view(pixels, [], str(file))[0][None].to(target)
                wide = None if second_view is None else second_view(pixels, [], str(file))[0][None].to(target)
            except data.DataError as error:
                # A data set's advice is for its own commands.
                told = f"{error.fault}; repair it, or give other files" if error.advice else str(error)
                failed.append(UnreadableImage(str(file), told))
                progress.log(f"skipped: {told}")
                advance()
                continue
            places, classes, scores = (one.cpu() for one in predictor(image, wide, wanted))
            shown = int(classes[0, 0]) if label is None else label
            extent = torch.tensor([[pixels.shape[1], pixels.shape[0]]])
            picture = Image.fromarray(pixels)
            if threshold is None:
                boxes = GivenBoxes(places, torch.tensor([image.shape[:1:-1]]), extent).in_images(protocol)
            else:
                boxes = predicted_boxes(places, extent, protocol, threshold)[0]
                boxes = boxes[:0] if is_constant(places)[0] else boxes
                picture = overlay(picture, places[0])
            picture = draw_boxes(picture, boxes)
            png = outputs.free(folder / f"{file.stem}.png", taken)
            taken.add(png)
            outputs.write(png, lambda stream, picture=picture: picture.save(stream, format="PNG"))
            found.append(
                LocalizedImage(
                    file=str(file),
                    size=extent[0].tolist(),
                    class_id=shown,
                    class_name=names[shown] if shown < len(names) else None,
                    score=round(float(scores[classes == shown]), 6),
                    boxes=[[round(value, 2) for value in box] for box in boxes.tolist()],
                    overlay=str(png),
                )
            )
            advance()
    results = LocalizeResults(str(run.path), protocol.name, threshold, _name_map(network), found, failed)
    outputs.write_text(folder / "boxes.json", to_json(results.to_json()))
    return results


def _recipe(run: RunFolder, named_classes: int, device: str | None, post: str | None) -> Recipe:
    """Return the run's recipe for single images, with a probability for every class.

    Raises:
        MissingError: if nothing tells how many classes there are.
    """
    recipe = run.recipe
    if post is not None:
        recipe = parse_recipe(dump_recipe(recipe), recipe.name, [f"evaluate.post={post}"])
    known = (classifier_of(recipe) or localizer_of(recipe)).stage.num_classes or named_classes
    if not known:
        raise MissingError(f"{run.path} does not know its classes yet; wsolfast eval {run.path}")
    # Compiling and recording take longer than the images that are given here, which may differ in size.
    runtime = replace(recipe.runtime, device=device or recipe.runtime.device, compile=False, cuda_graphs=None)
    return replace(recipe, evaluate=replace(recipe.evaluate, topk=known), runtime=runtime)


def _name_map(network: Network) -> str | None:
    """Return what the maps are, such as ``"CAM, refined by SCG"``; None of boxes."""
    stage, post, method = network.localizer.stage, network.recipe.evaluate.post, network.predictor.method
    if network.gives_boxes:
        return None
    refinement = "" if post == "none" else refinements.display_name(post)
    if method_class(stage).gives_maps:
        title = method_of(stage.method) if ":" in stage.method else display_name(stage.method)
        title += f", refined by {refinement}" if refinement else ""
    else:
        title = f"{refinement} at {method.last_stage}"
    return f"{title}: {method.map_note}" if method.map_note else title


def _known_bits(bits: object) -> int | None:
    known = get_args(Bits)
    if bits is not None and bits not in known:
        raise UsageError(f"bits: expected one of {', '.join(map(str, known))}, got {bits!r}")
    return cast("int | None", bits)


def require_any(files: Sequence[Path]) -> None:
    """Check that there is something to localise, before a network is loaded.

    Raises:
        MissingError: if there is no file at any of these paths.
    """
    if not any(file.is_file() for file in files):
        raise MissingError(f"no image at {', '.join(map(str, files[:3]))}; give the paths of existing files")


def _find_class(wanted: str, names: Sequence[str]) -> int:
    if wanted in names:
        return list(names).index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    hint = nearest(wanted, names, f"give a name or a number below {len(names)}")
    raise UsageError(f"--class {wanted!r}: the run knows no such class; {hint}")


def _measured_threshold(run: RunFolder, recipe: Recipe) -> float:
    file = run.eval_path(eval_name(run, recipe, "test")) / "results.json"
    if file.is_file():
        results = EvalResults.read(file)
        if results.protocol == run.recipe.evaluate.protocol and results.cam_threshold is not None:
            return results.cam_threshold
    return _DEFAULT_THRESHOLD
