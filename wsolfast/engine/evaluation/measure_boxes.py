"""What the true boxes of a split say of score maps: accuracies, thresholds, baselines, curves."""

import torch
from torch import Tensor

from wsolfast.engine.run.distributed import sum_over_all, world_size
from wsolfast.metrics import BoxAccuracy, Protocol, center_box, center_gaussian

# Side of the central Gaussian: fine enough for the boxes of all sizes.
_CENTRAL = 224


class BoxCounters:
    """Hits of the images that have a true box.

    Args:
        protocol: the way to score.
        baselines: count the central box, too.
        gaussian: count the central Gaussian, too, which takes as long as the method's maps.
    """

    def __init__(self, protocol: Protocol, *, baselines: bool, gaussian: bool):
        self.accuracy = BoxAccuracy(protocol)
        self._center_box = BoxAccuracy(protocol) if baselines else None
        self._center_gaussian = BoxAccuracy(protocol) if gaussian else None
        self._images = torch.zeros(2, dtype=torch.int64)  # with a box, without one

    def update(
        self, maps: Tensor, sizes: Tensor, boxes: list[Tensor], label: Tensor, classes: Tensor, *, left_out: int
    ) -> None:
        """Add images: the arguments of :meth:`BoxAccuracy.update`, and how many others have no box."""
        self._images += torch.tensor([len(boxes), left_out])
        if not boxes:
            return
        self.accuracy.update(maps, sizes, boxes, label, classes)
        if self._center_box is not None:
            self._center_box.update_boxes(center_box(sizes), boxes, label, classes)
        if self._center_gaussian is not None:
            central = center_gaussian((_CENTRAL, _CENTRAL)).float().expand(len(boxes), -1, -1)
            self._center_gaussian.update(central, sizes, boxes, label, classes)

    def all_reduce(self) -> None:
        """Add up what all processes have counted."""
        sum_over_all(self._images)
        for accumulator in (self.accuracy, self._center_box, self._center_gaussian):
            if accumulator is not None and world_size() > 1:
                accumulator.all_reduce()

    @property
    def found(self) -> bool:
        """Whether an image had a true box."""
        return bool(self._images[0])

    def measure(self, chosen: "BoxCounters | None") -> tuple[dict, dict]:
        """What ``results.json`` and ``curves.json`` hold; ``chosen`` are train_fullsup's counters."""
        numbers = self.accuracy.compute()
        curves, oracle = numbers.pop("curves"), numbers.pop("cam_threshold")
        central = {"center_box": self._center_box, "center_gaussian": self._center_gaussian}
        results: dict = {
            "num_images": int(self._images[0]),
            "images_without_box": int(self._images[1]),
            "metrics": _without_count(numbers),
            "oracle_threshold": oracle,
            "cam_threshold": oracle["gt_known_loc"],
            "cam_threshold_source": "oracle",
            "baselines": {
                name: _without_count(one.compute(), "curves", "cam_threshold")
                for name, one in central.items()
                if one is not None
            },
        }
        if chosen is not None:
            thresholds = chosen.accuracy.compute()["cam_threshold"]
            transferred = self.accuracy.compute(at=thresholds)
            results |= {"cam_threshold": thresholds["gt_known_loc"], "cam_threshold_source": "train_fullsup"}
            results["transferred_thresholds"] = transferred["cam_threshold"]
            results["transferred_threshold"] = transferred["cam_threshold"]["iou50"]
            results["transferred"] = _without_count(transferred, "curves", "cam_threshold")
        return results, {
            "thresholds": curves["max_box_thresholds"],
            **{name: curves[name] for name in ("iou30", "iou50", "iou70", "max_box_acc")},
            "protocol": {name: curves[name] for name in ("thresholds", "gt_known_loc", "top1_loc", "top5_loc")},
        }


def _without_count(numbers: dict, *more: str) -> dict:
    return {name: value for name, value in numbers.items() if name not in ("images", *more)}
