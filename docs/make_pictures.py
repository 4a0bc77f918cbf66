"""The pictures of concepts.md and of README's example: ``python docs/make_pictures.py``.

The demo's CAM and SPA are trained and drawn. On one thread the runs, and so the pictures, are the same every time;
runs that are there are used as they are.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from wsolfast import data
from wsolfast.engine.assembly.build import open_eval_data
from wsolfast.engine.assembly.network import load_localizer
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.report.pictures import PREDICTED, TRUE, colorize, contact_sheet, draw_boxes, overlay, resize_map
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.metrics import center_box, get_protocol
from wsolfast.metrics.functional import best_overlaps, given_box_hits, predicted_boxes
from wsolfast.recipe import load_recipe

_LEGEND = ((PREDICTED, "predicted"), (TRUE, "true"))
_PROTOCOL = get_protocol("wsolevaluation")
_NAMES = {"cam": "CAM", "spa": "SPA"}


class Shown:
    """A run's test images with their maps and what its evaluation says of them."""

    def __init__(self, run: RunFolder):
        self.results, table, self.curves = (
            json.loads((run.path / "eval" / "test" / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("results", "per_image", "curves")
        )
        self.rows = table["images"]
        self.threshold = self.results["cam_threshold"]
        self.dataset = open_eval_data(run.recipe, "test")
        method = load_localizer(run, run.recipe, len(self.dataset.class_names)).eval()
        batch = data.collate([self.dataset[i] for i in range(len(self.rows))])
        with torch.no_grad():
            self.maps = method.localize(batch.image, batch.label, topk=0).localization_map[:, 0]

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.dataset[index].image.permute(1, 2, 0).numpy())

    def true_box(self, index: int) -> torch.Tensor:
        return torch.tensor(self.rows[index]["gt_boxes"], dtype=torch.float64)

    def box(self, index: int, threshold: float) -> torch.Tensor:
        sizes = torch.tensor([self.rows[index]["size"]])
        return predicted_boxes(self.maps[index : index + 1], sizes, _PROTOCOL, threshold)[0]

    def overlap(self, index: int, threshold: float) -> float:
        sizes = torch.tensor([self.rows[index]["size"]])
        at = torch.tensor([threshold], dtype=torch.float64)
        return float(best_overlaps(self.maps[index : index + 1], sizes, [self.true_box(index)], _PROTOCOL, at))

    def boxed(self, index: int, threshold: float, picture: Image.Image) -> Image.Image:
        return _boxed(picture, self.box(index, threshold), self.true_box(index))


def trained(name: str, folder: Path, overrides: list[str]) -> RunFolder:
    """The demo's run of a method, trained and evaluated unless it is there."""
    path = folder / name
    if not (path / "eval" / "test" / "results.json").is_file():
        recipe = load_recipe(f"demo/{name}", overrides)
        run = RunFolder.create(path, recipe, exist_ok=True)
        train(run)
        evaluate(run, recipe)
    return RunFolder(path)


def steps(runs: dict[str, Shown], index: int) -> Image.Image:
    """One image on its way to a box, a row per method."""
    rows, captions = [], []
    for name, run in runs.items():
        image, cam = run.image(index), run.maps[index].numpy()
        shown = resize_map(cam, image.size)
        kept = Image.fromarray(
            np.where(shown[..., None] > run.threshold * shown.max(), np.asarray(image), 40).astype("u1")
        )
        coarse = colorize(cam).convert("RGB").resize((192, 192), Image.Resampling.NEAREST)
        rows.append([image, coarse, overlay(image, cam), kept, run.boxed(index, run.threshold, image)])
        captions.append(
            [
                f"{run.dataset.class_names[run.rows[index]['label']]}".replace("_", " "),
                f"{_NAMES[name]}, {cam.shape[0]} x {cam.shape[1]}",
                "resized to the image",
                f"above {run.threshold:.2f} of the maximum",
                f"IoU {run.overlap(index, run.threshold):.2f}",
            ]
        )
    columns = ["image", "score map", "over the image", "threshold", "box"]
    return contact_sheet(rows, columns, captions, legend=_LEGEND, cell=168)


def cuts(run: Shown, thresholds: list[float]) -> Image.Image:
    """The boxes of one map at several thresholds."""
    index = _sensitive(run, thresholds)
    pictures = [run.boxed(index, level, overlay(run.image(index), run.maps[index], 0.35)) for level in thresholds]
    captions = [f"IoU {run.overlap(index, level):.2f}" for level in thresholds]
    return contact_sheet(
        [pictures], [f"cut at {level:g}" for level in thresholds], [captions], legend=_LEGEND, cell=152
    )


def errors(run: Shown) -> Image.Image:
    """A correct box, a part, too much, and two centre boxes."""
    kinds = [("correct", "correct", max), ("part", "Part", min), ("more", "More", min)]
    chosen = [_extreme(run, kind, best) for kind, _, best in kinds]
    pictures = [run.boxed(i, run.threshold, overlay(run.image(i), run.maps[i], 0.35)) for i in chosen]
    columns = [title for _, title, _ in kinds]
    captions = [f"IoU {run.overlap(i, run.threshold):.2f}" for i in chosen]
    sizes = torch.tensor([row["size"] for row in run.rows])
    boxes, truths = center_box(sizes), [run.true_box(i) for i in range(len(run.rows))]
    hit = given_box_hits(boxes, truths, _PROTOCOL.rule, [0.5])[:, 0]
    for wanted, says in ((True, "right without looking"), (False, "wrong")):
        index = int((hit == wanted).nonzero()[0])
        pictures.append(_boxed(run.image(index), boxes[index : index + 1], truths[index]))
        columns.append("centre box")
        captions.append(says)
    return contact_sheet([pictures], columns, [captions], legend=_LEGEND, cell=168)


def curves(runs: dict[str, Shown]) -> Image.Image:
    """GT-known Loc over the threshold, with the oracle's and the transferred one."""
    scale, width, height, left, top = 2, 620, 250, 44, 30
    picture = Image.new("RGB", (scale * (width + 2 * left), scale * (height + 2 * top + 34)), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12 * scale)

    def at(threshold: float, percent: float) -> tuple[float, float]:
        return scale * (left + threshold * width), scale * (top + (1 - percent / 100) * height)

    for percent in range(0, 101, 25):
        draw.line([at(0, percent), at(1, percent)], "#dddddd", scale)
        draw.text((at(0, percent)[0] - 6 * scale, at(0, percent)[1]), str(percent), "#555555", font, anchor="rm")
    for tenth in range(0, 11, 2):
        draw.text((at(tenth / 10, 0)[0], at(0, 0)[1] + 6 * scale), f"{tenth / 10:g}", "#555555", font, anchor="mt")
    draw.text((scale * left, 8 * scale), "GT-known Loc in percent, over the threshold", "#1c1c20", font)
    x, y = scale * left, scale * (height + top + 30)
    for (name, run), color in zip(runs.items(), ("#a1268a", "#1d8f8a"), strict=True):
        levels, percents = run.curves["thresholds"], run.curves["max_box_acc"]
        draw.line([at(*point) for point in zip(levels, percents, strict=True)], color, 2 * scale, joint="curve")
        oracle, transferred = (
            run.results[key]["max_box_acc"] for key in ("oracle_threshold", "transferred_thresholds")
        )
        for level, fill in ((oracle, color), (transferred, "white")):
            cx, cy = at(level, percents[min(range(len(levels)), key=lambda i: abs(levels[i] - level))])
            draw.ellipse((cx - 9, cy - 9, cx + 9, cy + 9), fill, color, 2 * scale)
        draw.line([(x, y), (x + 20 * scale, y)], color, 3 * scale)
        draw.text((x + 26 * scale, y), _NAMES[name], "#1c1c20", font, anchor="lm")
        x += 80 * scale
    for fill, text in (
        ("#555555", "oracle: best on the test images"),
        ("white", "transferred: best on validation images"),
    ):
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill, "#555555", 2 * scale)
        draw.text((x + 10 * scale, y), text, "#1c1c20", font, anchor="lm")
        x += 30 * scale + int(font.getlength(text))
    return picture.resize((picture.width // 2 * 3 // 2, picture.height // 2 * 3 // 2), Image.Resampling.LANCZOS)


def partial(cam: Shown, spa: Shown) -> int:
    """The test image that CAM boxes in part and SPA as a whole, by the largest difference."""
    rows = list(zip(cam.rows, spa.rows, strict=True))
    found = [i for i, (one, other) in enumerate(rows) if one["error"] == "part" and other["error"] == "correct"]
    return max(found, key=lambda i: rows[i][1]["iou"] - rows[i][0]["iou"], default=0)


def _sensitive(run: Shown, thresholds: list[float]) -> int:
    """The image that gains most by the right one of these thresholds over the first and the last."""

    def gain(index: int) -> float:
        found = [run.overlap(index, level) for level in thresholds]
        return max(found) - max(found[0], found[-1])

    return max(range(len(run.rows)), key=gain)


def _extreme(run: Shown, kind: str, best) -> int:
    """The image with the largest or smallest overlap of an error kind."""
    return best(
        (i for i, row in enumerate(run.rows) if row["error"] == kind), key=lambda i: run.rows[i]["iou"], default=0
    )


def _boxed(picture: Image.Image, boxes: torch.Tensor, truths: torch.Tensor) -> Image.Image:
    grown = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC)
    return draw_boxes(draw_boxes(grown, 2 * truths, TRUE, dashed=True), 2 * boxes, PREDICTED)


def bird() -> Image.Image:
    """A rendered test image of the demo's classes, as large as a small photo."""
    rendered = data.open_dataset("synthetic", None, "test", size=320, num_test=9)
    return Image.fromarray(rendered[8].image.permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/docs"), help="where the two runs are or will be")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of both recipes, when they are trained")
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = {name: Shown(trained(name, given.runs, given.overrides)) for name in _NAMES}
    index = partial(runs["cam"], runs["spa"])
    drawn = {
        "from-image-to-box": steps(runs, index),
        "thresholds-of-one-map": cuts(runs["cam"], [0.02, 0.07, 0.2, 0.4, 0.7]),
        "thresholds": curves(runs),
        "errors": errors(runs["cam"]),
    }
    given.output.mkdir(exist_ok=True, parents=True)
    for name, picture in drawn.items():
        picture.quantize(192, dither=Image.Dither.NONE).save(given.output / f"{name}.png", optimize=True)
    bird().save(given.output / "bird.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
