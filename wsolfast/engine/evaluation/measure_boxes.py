"""Score maps, or boxes, against the true boxes of a split: accuracies, thresholds, baselines, curves."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wsolfast.engine.evaluation.counters import Counters
from wsolfast.engine.run.results import Curves, Measurement, ProtocolCurves
from wsolfast.metrics import BoxAccuracy, GivenBoxes, Protocol, center_box, center_gaussian

# Side of the central Gaussian: fine enough for the boxes of all sizes.
_CENTRAL = 224


class BoxCounters(Counters):
    """Counts of right boxes, over the images that have a true box.

    Args:
        protocol: the way to score.
        baselines: count the central box, too.
        gaussian: count the central Gaussian, too, which takes as long as the method's maps.
        max_box: count MaxBoxAcc and MaxBoxAccV2, too.
        num_classes: classes to count each of, see :class:`BoxAccuracy`.
        given_boxes: the method gives boxes and no maps, so that numbers have no threshold.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        baselines: bool,
        gaussian: bool,
        max_box: bool = True,
        num_classes: int | None = None,
        given_boxes: bool = False,
    ):
        self.given_boxes = given_boxes
        central = (("center_box", baselines), ("center_gaussian", gaussian))
        one = functools.partial(BoxAccuracy, protocol, max_box=max_box, num_classes=num_classes)
        self.accuracy = one()
        self._baselines = {name: one() for name, wanted in central if wanted}
        super().__init__({"accuracy": self.accuracy, **self._baselines}, images=2)  # with a box, without one

    def update(
        self,
        places: Tensor | list[Tensor] | GivenBoxes,
        sizes: Tensor,
        boxes: list[Tensor],
        label: Tensor,
        classes: Tensor | None,
        *,
        left_out: int,
    ) -> None:
        """Add images: maps or boxes, arguments of :meth:`BoxAccuracy.update`, and the number of others, unboxed."""
        self._images += torch.tensor([len(boxes), left_out])
        if not boxes:
            return
        if isinstance(places, GivenBoxes):
            self.accuracy.update_given_boxes(places, boxes, label, classes)
        else:
            self.accuracy.update(places, sizes, boxes, label, classes)
        if "center_box" in self._baselines:
            self._baselines["center_box"].update_boxes(center_box(sizes), boxes, label, classes)
        if "center_gaussian" in self._baselines:
            central = center_gaussian((_CENTRAL, _CENTRAL)).float().expand(len(boxes), -1, -1)
            self._baselines["center_gaussian"].update(central, sizes, boxes, label, classes)

    @property
    def found(self) -> bool:
        """True if an image had a true box."""
        return bool(self._images[0])

    @property
    def best_thresholds(self) -> dict[str, float]:
        """The best threshold of each metric on these images; none without a true box, or of given boxes."""
        return self.accuracy.compute()["cam_threshold"] if self.found and not self.given_boxes else {}

    def measure(self, at: Mapping[str, float]) -> Measurement:
        """Return the numbers of the images that were added.

        Args:
            at: the best thresholds on train_fullsup; empty without any.
        """
        numbers = self.accuracy.compute()
        found: dict[str, Any] = {
            "num_images": int(self._images[0]),
            "images_without_box": int(self._images[1]),
            "metrics": _metrics(numbers),
            "baselines": {name: _metrics(one.compute()) for name, one in self._baselines.items()},
        }
        if self.given_boxes:
            return Measurement(**found, oracle_threshold={}, cam_threshold=None, cam_threshold_source="none")
        oracle = numbers["cam_threshold"]
        transferred = self.accuracy.compute(at=at) if "gt_known_loc" in at else None
        return Measurement(
            **found,
            maps_constant=numbers["maps_constant"],
            oracle_threshold=oracle,
            cam_threshold=(oracle if transferred is None else at)["gt_known_loc"],
            cam_threshold_source="oracle" if transferred is None else "transferred",
            transferred_thresholds=None if transferred is None else transferred["cam_threshold"],
            transferred_threshold=None if transferred is None else transferred["cam_threshold"].get("iou50"),
            transferred=None if transferred is None else _metrics(transferred),
        )

    def curves(self) -> Curves:
        """Return the metrics over all thresholds."""
        curves = self.accuracy.compute()["curves"]
        of_protocol = {name: curves[name] for name in ("thresholds", "gt_known_loc", "top1_loc", "top5_loc")}
        of_benchmark = {name: curves[name] for name in ("iou30", "iou50", "iou70", "max_box_acc")}
        return Curves(curves["max_box_thresholds"], **of_benchmark, protocol=ProtocolCurves(**of_protocol))


def _metrics(numbers: dict) -> dict[str, float]:
    others = ("images", "maps_constant", "curves", "cam_threshold")
    return {name: value for name, value in numbers.items() if name not in others}
