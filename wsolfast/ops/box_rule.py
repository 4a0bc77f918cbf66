"""The record of switches that tells one localisation protocol's boxes from another's."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from wsolfast.ops._checks import as_number, as_tensor
from wsolfast.reference import _box_rule
from wsolfast.reference.score_map_boxes import foreground_of_map

_SWITCHES = ("normalize_first", "quantize", "relative", "mean_cut", "iou_plus_one")


@dataclass(frozen=True)
class BoxRule:
    """How a score map becomes boxes and when a box counts as right. The defaults are wsolevaluation's MaxBoxAcc.

    Attributes:
        interpolation: "cubic" (OpenCV's float64 bicubic, bit for bit), "linear" (pixel centres), "linear_corners"
            (corner pixels aligned) or "none" (maps stay as they are).
        normalization: "minmax" ``(x - min) / max(x - min)``; "minmax_eps" ``(x - min) / (max - min + eps)``; "max"
            ``relu(x) / max(x)``; "min" ``x - min``; "none".
        eps: used by "minmax_eps" only.
        normalize_first: normalise at the map's own size and resize after that, instead of the other way round.
        quantize: work on ``uint8(255 x)``, truncated; cuts become integers, truncated too.
        relative: a threshold t cuts at t times the map's maximum; otherwise at t itself (quantised: 255 t).
        percentile: with ``quantize`` and ``relative`` a threshold t cuts at t times this percentile of the map's 8-bit
            values, in [0, 100], instead of their maximum, which is 100 (PaS of Rethinking CAM). It is NumPy's linear
            percentile to the last bit: float64, between the two nearest of the sorted values of all pixels.
        comparison: foreground is above the cut (">") or at it too (">=").
        mean_cut: foreground must besides exceed the mean of the map with everything below the cut set to zero.
        connectivity: neighbours of a foreground pixel, 8 or 4.
        selection: "contour_area" (largest polygon through the pixel centres of the outer contour, holes filled; among
            equals the one whose first pixel in raster order comes last), "box_area" and "pixel_area" (among equals the
            one whose first pixel comes first), "union" (one box around everything), "all" (every contour, those of
            holes included, in OpenCV's list order).
        box_end: x1, y1 are one past the last pixel ("exclusive"), the same but at most W-1, H-1 ("clipped"), or the
            last pixel ("inclusive").
        empty_box: (x0, y0, x1, y1) where there is no foreground, or "image" for the whole map.
        iou_plus_one: boxes are as wide as x1 - x0 + 1 in the overlap, both the predicted and the true ones.
        hit: an overlap counts when it reaches the level (">=") or exceeds it (">").
        gt: compare with "any" true box of the image or with the "first" only.

    Raises:
        ValueError: if a field is not among its choices, or two fields contradict each other.

    Example:
        >>> maps, thresholds = torch.zeros(1, 8, 8), torch.tensor([0.5], dtype=torch.float64)
        >>> maps[:, 2:5, 3:7] = 1
        >>> score_map_boxes(maps, thresholds, BoxRule(box_end="exclusive")).boxes.tolist()
        [[[3, 2, 7, 5]]]
        >>> score_map_boxes(maps, thresholds, BoxRule(box_end="inclusive")).boxes.tolist()
        [[[3, 2, 6, 4]]]
    """

    interpolation: Literal["none", "cubic", "linear", "linear_corners"] = "cubic"
    normalization: Literal["none", "minmax", "minmax_eps", "max", "min"] = "minmax"
    eps: float = 0.0
    normalize_first: bool = False
    quantize: bool = True
    relative: bool = True
    percentile: float = 100.0
    comparison: Literal[">", ">="] = ">"
    mean_cut: bool = False
    connectivity: Literal[8, 4] = 8
    selection: Literal["contour_area", "box_area", "pixel_area", "union", "all"] = "contour_area"
    box_end: Literal["clipped", "exclusive", "inclusive"] = "clipped"
    empty_box: tuple[int, int, int, int] | Literal["image"] = (0, 0, 0, 0)
    iou_plus_one: bool = True
    hit: Literal[">=", ">"] = ">="
    gt: Literal["any", "first"] = "any"

    def __post_init__(self) -> None:
        for name, choices in _box_rule.CHOICES.items():
            if getattr(self, name) not in choices:
                listed = ", ".join(map(repr, choices))
                raise ValueError(f"BoxRule: {name} must be one of {listed}, got {getattr(self, name)!r}")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"BoxRule: {name} must be True or False, got {getattr(self, name)!r}")
        if not 0 <= as_number("BoxRule", "eps", self.eps) < math.inf:
            raise ValueError(f"BoxRule: eps must be finite and not negative, got {self.eps}")
        if not 0 <= as_number("BoxRule", "percentile", self.percentile) <= _box_rule.MAXIMUM_PERCENTILE:
            raise ValueError(f"BoxRule: percentile must be in [0, 100], got {self.percentile}")
        if self.percentile < _box_rule.MAXIMUM_PERCENTILE and not (self.quantize and self.relative):
            raise ValueError(
                f"BoxRule: percentile={self.percentile} is a part of 8-bit values that cuts are relative to; set "
                f"quantize=True and relative=True"
            )
        if self.selection in ("contour_area", "all") and self.connectivity != 8:
            raise ValueError(f"BoxRule: selection={self.selection!r} follows contours, which are 8-connected")
        if self.quantize and self.mean_cut:
            raise ValueError("BoxRule: mean_cut is defined on real-valued maps; set quantize=False")
        if self.quantize and self.normalize_first and self.interpolation == "cubic":
            raise ValueError("BoxRule: bicubic overshoots [0, 1], so a quantising rule must normalise after it")
        if self.empty_box != "image" and not _is_box(self.empty_box):
            raise ValueError(
                f'BoxRule: empty_box must be four integers 0 <= x0 <= x1, 0 <= y0 <= y1 or "image", '
                f"got {self.empty_box!r}"
            )

    def foreground(self, score_map: Tensor, threshold: float) -> Tensor:
        """Return the pixels that :func:`wsolfast.ops.score_map_boxes` draws boxes around, on the CPU, for looking at.

        Args:
            score_map (Tensor[H, W]): in [0, 1], or uint8 levels; as ``normalize_score_map`` leaves it.
            threshold: in [0, 1].

        Returns:
            Tensor[H, W]: bool.
        """
        score_map = as_tensor("BoxRule.foreground", "score_map", score_map)
        threshold = as_number("BoxRule.foreground", "threshold", threshold)
        return foreground_of_map(score_map.cpu(), threshold, _box_rule.unpack(self.pack()))

    def pack(self) -> list[float]:
        """Return the fields as the schemas of the box ops take them: numbers in the order of the fields.

        A word is its place among its choices, ``empty_box`` is four numbers, all -1 for "image".
        """
        return _box_rule.pack(self)


def _is_box(box: object) -> bool:
    return (
        isinstance(box, tuple)
        and len(box) == 4
        and all(isinstance(value, int) for value in box)
        and 0 <= box[0] <= box[2]
        and 0 <= box[1] <= box[3]
    )
