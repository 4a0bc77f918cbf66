"""Masks and score maps as grey PNGs."""

from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from torch import Tensor

from wsolfast.engine.run.errors import UsageError
from wsolfast.engine.run.outputs import Outputs
from wsolfast.engine.run.progress import Progress
from wsolfast.export.findings import Findings


def write_masks(findings: Findings, folder: Path, progress: Progress | None = None) -> list[Path]:
    """Write ``masks/<image_id>.png`` (0 or 255) and ``scores/<image_id>.png`` (0 to 255) at the images' sizes.

    Args:
        findings: of an evaluation.
        folder: where to.
        progress: where to show how far it is.

    Returns:
        The masks' files.

    Raises:
        UsageError: if the method gives boxes and no masks, an image_id leads out of the folder, two would share a file,
            or a file is there and of another program; nothing is written then.
    """
    if findings.threshold is None:
        raise UsageError("masks: the method gives boxes and no maps, so there are no masks; export to coco instead")
    outputs, written = Outputs(folder), list[Path]()
    names = _file_names(findings, folder)
    outputs.check(*(folder / kind / name for name in names.values() for kind in ("masks", "scores")))
    with (progress or Progress(quiet=True)).task("masks", len(findings)) as advance:
        for finding in findings:
            name = names[finding.image_id]
            assert finding.mask is not None  # it was cut at the threshold
            assert finding.score_map is not None
            _write(outputs, folder / "masks" / name, finding.mask * 255)
            _write(outputs, folder / "scores" / name, (finding.score_map.clamp(0, 1) * 255).round())
            written.append(folder / "masks" / name)
            advance()
    return written


def _file_names(findings: Findings, folder: Path) -> dict[str, PurePosixPath]:
    taken: dict[PurePosixPath, str] = {}
    for image_id in findings.image_ids:
        name = PurePosixPath(image_id).with_suffix(".png")
        if name.is_absolute() or ".." in name.parts or name in taken:
            raise UsageError(f"masks: image {image_id!r} has no file name of its own below {folder}")
        taken[name] = image_id
    return {image_id: name for name, image_id in taken.items()}


def _write(outputs: Outputs, file: Path, grey: Tensor) -> None:
    picture = Image.fromarray(grey.numpy().astype(np.uint8))
    outputs.write(file, lambda stream: picture.save(stream, format="PNG"))
