"""COCO's detection format."""

from itertools import groupby
from pathlib import Path

from torch import Tensor

from wsolfast.engine.run.outputs import Outputs
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import to_json
from wsolfast.export.findings import Finding, Findings


def write_coco(findings: Findings, file: Path, progress: Progress | None = None) -> dict:
    """Write images, categories and annotations; the data set ``folder`` and pycocotools read the file.

    ``bbox`` is x, y, width, height in pixels of the original; ``score`` the probability of the category, which is the
    image's label. ``segmentation`` is COCO's uncompressed run lengths of the mask, on an image's first box: the mask is
    of the image, not of a box. A method that gives boxes has none. Ids start at 1.

    Args:
        findings: of an evaluation.
        file: where to.
        progress: where to show how far it is.

    Returns:
        The content of the file.

    Raises:
        UsageError: if the file is there and of another program.
    """
    outputs = Outputs(file.parent)
    outputs.check(file)
    images: list[dict] = []
    annotations: list[dict] = []
    with (progress or Progress(quiet=True)).task("images", len(findings)) as advance:
        for number, finding in enumerate(findings, start=1):
            width, height = finding.size
            images.append({"id": number, "file_name": finding.image_id, "width": width, "height": height})
            annotations += _annotations(finding, number, len(annotations) + 1)
            advance()
    content = {
        "info": {"description": "wsolfast", "cam_threshold": findings.threshold},
        "images": images,
        "categories": [{"id": k, "name": name} for k, name in enumerate(findings.class_names, start=1)],
        "annotations": annotations,
    }
    outputs.write_text(file, to_json(content, indent=None))
    return content


def _annotations(finding: Finding, image: int, first: int) -> list[dict]:
    rows = []
    for k, (x0, y0, x1, y1) in enumerate(finding.boxes.tolist()):
        masked = finding.mask if k == 0 else None
        row = {
            "id": first + k,
            "image_id": image,
            "category_id": finding.label + 1,
            "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
            "area": round((x1 - x0) * (y1 - y0), 2) if masked is None else int(masked.sum()),
            "iscrowd": 0,
            "score": round(finding.score, 6),
        }
        rows.append(row | ({} if masked is None else {"segmentation": run_lengths(masked)}))
    return rows


def run_lengths(mask: Tensor) -> dict[str, list[int]]:
    """Return COCO's uncompressed RLE of a mask [H, W]: lengths of runs down the columns, background first."""
    runs = [(value, sum(1 for _ in run)) for value, run in groupby(mask.T.flatten().tolist())]
    counts = [length for _, length in runs]
    return {"size": list(mask.shape), "counts": [0, *counts] if runs and runs[0][0] else counts}
