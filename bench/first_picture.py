"""Thresholds and refinements for ImageNet networks as they are: what the first picture of ``localize`` shows.

``python -m wsolfast.bench.first_picture DATA --out JSON`` takes networks of 1,000 classes over photos of three sets
below DATA. At every threshold it counts the photos whose box overlaps a true box by half ("right"), whose box covers
the picture ("whole"), and whose box is right and does not cover the picture ("useful"): a whole-picture box may be
right, and says nothing. The even half of ILSVRC-400 and CUB-50 choose by the most useful boxes, in the mean of both.
The odd half and Pets-3 are shown. ILSVRC-400 alone chooses 0.3, which cuts too much away from birds and pets.

On ILSVRC-400 the map is that of the true class (GT-known), elsewhere that of the most likely one: the breeds and
species are no classes of these networks.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import wsolfast
from wsolfast.api import Localizer, Located
from wsolfast.bench.measure import environment
from wsolfast.engine.localizer import DEFAULT_THRESHOLD, WHOLE_PICTURE
from wsolfast.metrics import is_constant
from wsolfast.metrics.functional import box_iou, predicted_boxes

THRESHOLDS = [round(0.1 + 0.025 * step, 3) for step in range(25)]
# The CAM paper's, which localize took for every network before anything was measured.
BEFORE = 0.2
CHOICE = ("ILSVRC-400, even", "cub50_256")
SETS = {"ilsvrc_val400_227": 400, "cub50_256": 300, "pets3_256": 300}
SCG = ["evaluate.post=scg", "evaluate.scg.variant=head", "evaluate.scg.fo_th=0.2", "evaluate.scg.so_th=0.2"]
SCG += ["evaluate.scg.so_weight=1.0", "evaluate.scg.delta_h=0.5", "evaluate.scg.delta_l=0.05"]
SCG += ["evaluate.scg.resize_roundtrip=true"]
MOBILENET = ["stage.backbone.name=mobilenet_v2", "stage.backbone.layout=tf_stride32"]
NETWORKS = {
    "SqueezeNet 1.1": ("imagenet/squeezenet", "squeezenet1_1_imagenet.pt", [], []),
    "MobileNetV2": (
        "imagenet/resnet50",
        "mobilenet_v2_imagenet_tf2_ptq_dequant.pt",
        MOBILENET,
        ['evaluate.scg.layers=["conv5"]'],
    ),
}


@dataclass
class Photo:
    """A photo with its true boxes."""

    file: Path
    class_id: int
    boxes: list[list[float]] = field(default_factory=list)


def read_photos(root: Path, limit: int) -> list[Photo]:
    """Read the test photos of a folder, evenly spread."""
    photos: dict[str, Photo] = {}
    with (root / "annotations.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["split"] == "test":
                photo = photos.setdefault(row["image"], Photo(root / row["image"], int(row["class_id"])))
                photo.boxes.append([float(row[key]) for key in ("x0", "y0", "x1", "y1")])
    found, count = list(photos.values()), min(limit, len(photos))
    return [found[k * len(found) // count] for k in range(count)]


def localized(localizer: Localizer, photos: list[Photo], *, given: bool) -> Iterator[Located]:
    """Localise photos: the true class of each, or its most likely one."""
    if not given:
        yield from localizer([photo.file for photo in photos])
        return
    for photo in photos:
        yield from localizer(photo.file, class_name=photo.class_id)


def judge(one: Located, photo: Photo, localizer: Localizer) -> Tensor:
    """Return whether the box is right and whether it covers the picture, at every threshold: bool [T, 2]."""
    assert one.maps is not None
    width, height = one.size
    rows = []
    for threshold in THRESHOLDS:
        (boxes,) = predicted_boxes(one.maps, torch.tensor([one.size]), localizer.protocol, threshold)
        boxes = boxes[:0] if is_constant(one.maps)[0] else boxes
        truth = torch.tensor(photo.boxes, dtype=torch.float64)
        right = bool((box_iou(boxes, truth) >= 0.5).any())
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        rows.append([right, bool((area >= WHOLE_PICTURE * width * height).any())])
    return torch.tensor(rows)


def shares(found: Tensor) -> dict[str, list[float]]:
    """Return percentages by threshold of ``found`` (bool [N, T, 2])."""
    right, whole = found.unbind(-1)
    kinds = {"right": right, "whole": whole, "useful": right & ~whole}
    return {name: [round(100 * value, 2) for value in kind.double().mean(0).tolist()] for name, kind in kinds.items()}


def measure(data: Path) -> dict:
    """Measure every network with and without the refinement on every set."""
    sets = {name: read_photos(data / name, limit) for name, limit in SETS.items()}
    rows: dict[str, dict] = {}
    for network, (recipe, weights, overrides, layers) in NETWORKS.items():
        for post, words in (("none", ["evaluate.post=none"]), ("scg", [*SCG, *layers])):
            file = data / "weights" / weights
            localizer = wsolfast.load(recipe, *overrides, *words, weights=file, device="cpu", quiet=True)
            row = rows.setdefault(f"{network}, {post}", {})
            for name, photos in sets.items():
                given = name.startswith("ilsvrc")
                judged = [
                    judge(one, photo, localizer)
                    for one, photo in zip(localized(localizer, photos, given=given), photos, strict=True)
                ]
                found = torch.stack(judged)
                parts = {CHOICE[0]: found[::2], "ILSVRC-400, odd": found[1::2]} if given else {name: found}
                row |= {part: {"photos": len(one), **shares(one)} for part, one in parts.items()}
    return rows


def choose(rows: dict[str, dict]) -> dict[str, float]:
    """Return the threshold with the most useful boxes on the photos that choose: of each row, of the networks' mean."""
    useful = {name: torch.tensor([row[one]["useful"] for one in CHOICE]).mean(0) for name, row in rows.items()}
    plain = torch.stack([one for name, one in useful.items() if name.endswith(", none")]).mean(0)
    return {name: THRESHOLDS[int(one.argmax())] for name, one in (useful | {"every network": plain}).items()}


def main() -> None:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = measure(arguments.data)
    content = {
        "thresholds": THRESHOLDS,
        "before": BEFORE,
        "whole_picture": WHOLE_PICTURE,
        "default_threshold": DEFAULT_THRESHOLD,
        "chosen": choose(rows),
        "rows": rows,
        "environment": environment("cpu", torch.get_num_threads()),
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content["chosen"], indent=1))


if __name__ == "__main__":
    main()
