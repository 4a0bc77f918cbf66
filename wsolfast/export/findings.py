"""Findings of an evaluation, read from its files image by image: the network and the images are not needed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast import ops
from wsolfast.engine.assembly.build import eval_protocol
from wsolfast.engine.evaluation.score_maps import MapBatch, ScoreMaps
from wsolfast.engine.run.errors import MissingError, UsageError
from wsolfast.engine.run.results import EvalResults, ImageRow, ImageTable
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.metrics import Protocol, is_constant
from wsolfast.metrics.functional import predicted_boxes


@dataclass(frozen=True)
class Finding:
    """Boxes, score map and mask of an image, by the map of its label; all empty where that map is constant.

    A method that gives boxes has neither a map nor a mask.
    """

    image_id: str  # as the data set calls it
    size: tuple[int, int]  # (width, height) of the original
    label: int
    score: float  # probability of the label; 0 if it is not among the classes that the evaluation kept
    boxes: Tensor  # float64 [B, 4], xyxy, half-open, pixels of the original
    score_map: Tensor | None  # float64 [H, W] in [0, 1], at the original's size
    mask: Tensor | None  # bool [H, W]


class Findings:
    """The findings of one evaluation, one after the other.

    Args:
        maps: its score maps.
        table: its ``per_image.json``.
        protocol: says how maps become boxes.
        threshold: where maps are cut; None of a method that gives boxes.

    Attributes:
        class_names: one per class.
    """

    def __init__(self, maps: ScoreMaps, table: ImageTable, protocol: Protocol, threshold: float | None):
        self._maps, self._protocol, self.threshold = maps, protocol, threshold
        self._rows = {row.map: row for row in table.images}
        self.class_names = tuple(table.class_names)

    @property
    def image_ids(self) -> list[str]:
        """Ids of the images."""
        return [row.image_id for row in self._rows.values()]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Finding]:
        found = 0
        for batch in self._maps.all():
            for position in batch.images:
                row, at = self._rows.get(position), position - batch.start
                if row is not None:
                    assert batch.classes is not None
                    assert batch.scores is not None
                    label = batch.classes[at] == row.label
                    yield self._finding(row, batch, at, float(batch.scores[at][label].sum()))
                    found += 1
        if found != len(self):
            raise MissingError(
                f"{self._maps.folder}: score maps of {len(self) - found} images are gone; evaluate again"
            )

    def _finding(self, row: ImageRow, batch: MapBatch, at: int, score: float) -> Finding:
        width, height = row.size
        size = torch.tensor([[width, height]])
        given = batch.given([at], size)
        if self.threshold is None and given is not None:
            boxes = with_area(given.in_images(self._protocol))
            return Finding(row.image_id, (width, height), row.label, score, boxes, None, None)
        if self.threshold is None or given is not None:
            raise MissingError(f"{self._maps.folder}: not what the results beside it rest on; evaluate again")
        score_map = batch.maps[at]
        boxes = with_area(predicted_boxes(score_map[None], size, self._protocol, self.threshold)[0])
        whole = at_image_size(score_map, (width, height), self._protocol)
        if is_constant(score_map[None])[0]:
            # What a resize makes of it is rounding noise, stretched to the whole range.
            boxes, whole = boxes[:0], torch.zeros_like(whole)
            return Finding(row.image_id, (width, height), row.label, score, boxes, whole, whole > 0)
        mask = self._protocol.rule.foreground(whole, self.threshold)
        return Finding(row.image_id, (width, height), row.label, score, boxes, whole, mask)


def read_findings(run: RunFolder, evaluation: str = "test", threshold: float | None = None) -> Findings:
    """Read the findings of an evaluation.

    Args:
        run: an evaluated run.
        evaluation: folder below ``eval/``: the split, and the variant where there is one.
        threshold: in [0, 1]; None takes the one that the evaluation chose.

    Returns:
        Findings: of every image that was measured.

    Raises:
        UsageError: if a threshold is given and the method gives boxes.
        MissingError: if there is no such evaluation, or one of its files is damaged.
    """
    folder = run.eval_path(evaluation)
    if not (folder / "results.json").is_file():
        there = sorted(file.parent.name for file in run.path.glob("eval/*/results.json"))
        hint = f"there are: {', '.join(there)}" if there else f"make one: wsolfast eval {run.path}"
        raise MissingError(f"{folder}: no evaluation; {hint}")
    results, table = EvalResults.read(folder / "results.json"), ImageTable.read(folder / "per_image.json")
    if results.gives_boxes and threshold is not None:
        raise UsageError(f"--threshold: {results.method} gives boxes and no maps, nothing is cut; leave it out")
    spec = replace(run.recipe.evaluate, protocol=results.protocol)
    protocol = eval_protocol(replace(run.recipe, evaluate=spec))
    return Findings(
        ScoreMaps(folder / "maps"), table, protocol, results.cam_threshold if threshold is None else threshold
    )


def with_area(boxes: Tensor) -> Tensor:
    """Return those of ``boxes`` [B, 4] that end after they begin."""
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def at_image_size(score_map: Tensor, image_size: tuple[int, int], protocol: Protocol) -> Tensor:
    """Resize and normalise a map [h, w] by the protocol's rule to the image's (width, height): float64 [H, W].

    In frame "crop" it is zero where the network saw nothing.
    """
    width, height = image_size
    side, whole = protocol.input_size, protocol.resize
    if side is None or whole is None:
        rule = protocol.rule
        if rule.interpolation == "none":
            rule = replace(rule, interpolation="linear")
        return ops.normalize_score_map(score_map[None], (height, width), rule)[0]
    seen = ops.normalize_score_map(score_map[None], (side, side), protocol.rule)
    before = (whole - side) // 2
    after = whole - side - before
    padded = functional.pad(seen, (before, after, before, after))
    return functional.interpolate(padded[None], (height, width), mode="bilinear", align_corners=False)[0, 0]
