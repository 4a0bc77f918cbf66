"""Masks and score maps as grey PNGs."""

from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from torch import Tensor

from wsolfast.engine.run.errors import UsageError
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import write_bytes
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
        UsageError: if an image_id leads out of the folder, or two would share a file.
    """
    written: list[Path] = []
    taken: set[PurePosixPath] = set()
    with (progress or Progress(quiet=True)).task("masks", len(findings)) as advance:
        for finding in findings:
            name = PurePosixPath(finding.image_id).with_suffix(".png")
            if name.is_absolute() or ".." in name.parts or name in taken:
                raise UsageError(f"masks: image {finding.image_id!r} has no file name of its own below {folder}")
            taken.add(name)
            _write(folder / "masks" / name, finding.mask * 255)
            _write(folder / "scores" / name, (finding.score_map.clamp(0, 1) * 255).round())
            written.append(folder / "masks" / name)
            advance()
    return written


def _write(file: Path, grey: Tensor) -> None:
    picture = Image.fromarray(grey.numpy().astype(np.uint8))
    write_bytes(file, lambda stream: picture.save(stream, format="PNG"))
