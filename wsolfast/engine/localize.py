"""Localisation of image files: overlays to look at, boxes to compute with."""

from collections.abc import Sequence
from pathlib import Path

from wsolfast import data
from wsolfast.engine.given_images import find_images
from wsolfast.engine.localizer import Localizer, Located
from wsolfast.engine.run.outputs import LIST, Outputs
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import LocalizedClass, LocalizedImage, LocalizeResults, UnreadableImage
from wsolfast.engine.run.run_folder import RunFolder, to_json

_DIGITS = 6


def localize(
    run: RunFolder,
    files: Sequence[str | Path],
    output: str | Path,
    *,
    class_name: str | int | None = None,
    topk: int = 1,
    threshold: float | None = None,
    device: str | None = None,
    post: str | None = None,
    bits: int | None = None,
    overlays: bool = True,
    progress: Progress | None = None,
) -> LocalizeResults:
    """Write ``<name>.png`` (boxes, and the score map if there is one, over the image) and one ``boxes.json`` for all.

    A score map that has one value everywhere shows nothing: no box is cut from it. A box that covers the picture is
    marked as not localised, and dashed. A method that gives boxes has no map, and its box stands over the plain image.

    Only files of an earlier call are replaced. Where another file has an overlay's name, the overlay is
    ``<name>-2.png``.

    Args:
        run: a trained run, or what :func:`wsolfast.engine.pretrained.adopt` makes of a network as it is.
        files: images, folders and patterns, see :func:`wsolfast.engine.given_images.find_images`; images that cannot be
            read are listed under ``failed``.
        output: folder, made where it is missing.
        class_name: name or number of the class to localise; None takes each image's most likely classes.
        topk: how many of these; the overlay shows the first.
        threshold, device, post, bits: as for :class:`wsolfast.engine.localizer.Localizer`.
        overlays: write the PNG files; without them only ``boxes.json`` is written.
        progress: where to show how far it is.

    Returns:
        The content of ``boxes.json``.

    Raises:
        UsageError: if the run knows no such class, a threshold is given to a method that gives boxes, or
            ``boxes.json`` is there and of another program.
        MissingError: if none of the files exists, the run is not finished, or nothing tells its classes.
    """
    folder, progress = Path(output), progress or Progress(quiet=True)
    with run.starting():
        paths = find_images(files, leave_out=_own_overlays(folder))
        outputs = Outputs(folder, reads=paths)
        outputs.check(folder / "boxes.json")
        localizer = Localizer(run, threshold=threshold, device=device, post=post, bits=bits, progress=progress)
        located = localizer.stream(paths, class_name=class_name, topk=topk)
    found, failed = [], []
    taken: set[Path] = set()
    with progress.task("images", len(paths)) as advance:
        for file, one in zip(paths, located, strict=True):
            if isinstance(one, data.DataError):
                # A data set's advice is for its own commands.
                told = f"{one.fault}; repair it, or give other files" if one.advice else str(one)
                failed.append(UnreadableImage(str(file), told))
                progress.log(f"skipped: {told}")
            elif overlays:
                png = outputs.free(folder / f"{file.stem}.png", taken)
                taken.add(png)
                picture = one.overlay()
                outputs.write(png, lambda stream, picture=picture: picture.save(stream, format="PNG"))
                found.append(_record(one, str(png)))
            else:
                found.append(_record(one, None))
            advance()
    results = LocalizeResults(
        str(run.path),
        localizer.protocol.name,
        localizer.threshold,
        localizer.threshold_source,
        localizer.map,
        found,
        failed,
    )
    outputs.write_text(folder / "boxes.json", to_json(results.to_json()))
    return results


def _own_overlays(folder: Path) -> list[Path]:
    """List the files that an earlier call left in the output's folder, which no folder or pattern asks for."""
    if not (folder / LIST).is_file():
        return []
    outputs = Outputs(folder)
    return [file for file in folder.glob("*.png") if outputs.may_write(file)]


def _record(one: Located, png: str | None) -> LocalizedImage:
    first, *others = [
        LocalizedClass(
            class_id=one.class_ids[rank],
            class_name=one.class_names[rank],
            score=round(one.scores[rank], _DIGITS),
            boxes=[[round(value, 2) for value in box] for box in one.boxes[rank].tolist()],
            localized=one.localized[rank],
        )
        for rank in range(len(one.class_ids))
    ]
    return LocalizedImage(one.name, list(one.size), **vars(first), others=others or None, overlay=png)
