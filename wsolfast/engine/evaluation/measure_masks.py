"""What the masks of a split say of score maps: pixel metrics, thresholds, baselines."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wsolfast.engine.run.distributed import sum_over_all, world_size
from wsolfast.metrics import PixelAccuracy, center_box, center_gaussian
from wsolfast.metrics.box_accuracy import right_classes

_OVERLAPS = ("p_iou", "peak_iou", "peak_iou_per_image")
# Side of the central box's map and of the central Gaussian: where PxAP compares.
_CENTRAL = 224


class MaskCounters:
    """Pixels of the images that have a mask.

    Args:
        baselines: count the central box, too.
        gaussian: count the central Gaussian, too.
    """

    def __init__(self, *, baselines: bool, gaussian: bool):
        self.pixels = PixelAccuracy()
        self._central = {"center_box": _central_box()} if baselines else {}
        self._central |= {"center_gaussian": center_gaussian((_CENTRAL, _CENTRAL)).float()} if gaussian else {}
        self._baselines = {name: PixelAccuracy() for name in self._central}
        # Images, those whose class is the most likely one, and those where it is among the five most likely.
        self._images = torch.zeros(3, dtype=torch.int64)

    def update(self, maps: Tensor, masks: Sequence[Tensor], label: Tensor, classes: Tensor) -> None:
        """Add images: maps [N, h, w], their masks, labels [N] and most likely classes [N, k]."""
        if not masks:
            return
        right = right_classes(label, classes, len(masks))
        self._images += torch.tensor([len(masks), *(int(hits.sum()) for hits in right)])
        self.pixels.update(maps, masks)
        for name, one in self._central.items():
            self._baselines[name].update(one.expand(len(masks), -1, -1), masks)

    def all_reduce(self) -> None:
        """Add up what all processes have counted."""
        sum_over_all(self._images)
        for accumulator in (self.pixels, *self._baselines.values()):
            if world_size() > 1:
                accumulator.all_reduce()

    @property
    def found(self) -> bool:
        """Whether a mask showed an object, at the size of PxAP and at its own."""
        counters = self.pixels.state_dict()
        return bool(counters["scores"][1].any() and counters["levels"][1].any())

    @property
    def images(self) -> int:
        """How many images had a mask."""
        return int(self._images[0])

    def measure(self, chosen: "MaskCounters | None") -> dict:
        """``pixel``, ``oracle_threshold``, ``baselines``; with ``chosen`` (of train_fullsup), what those give."""
        numbers = self.pixels.compute()
        found: dict = {
            "pixel": _numbers(numbers)
            | {
                "images": numbers["images"],
                "p_iou_threshold": numbers["p_iou_threshold"],
                "peak_threshold": numbers["peak_t"],
                "peak_t_per_image": numbers["peak_t_per_image"],
            },
            "oracle_threshold": numbers["cam_threshold"],
            "baselines": {name: _numbers(one.compute()) for name, one in self._baselines.items()},
        }
        if chosen is not None:
            transferred = self.pixels.compute(at=chosen.pixels.compute()["cam_threshold"])
            found["transferred"] = {name: transferred[name] for name in _OVERLAPS}
            found["transferred_thresholds"] = transferred["cam_threshold"]
        return found

    def describe(self, results: Mapping, asked: int) -> dict:
        """What a split of ``asked`` images that has no boxes is told besides: classes, and one threshold for all rows.

        The threshold is pIoU's: chosen on train_fullsup if that has masks, else the best one here.
        """
        transferred = "transferred" in results
        thresholds = results["transferred_thresholds" if transferred else "oracle_threshold"]
        first, five = (100 * int(hits) / self.images for hits in self._images[1:])
        return {
            "num_images": self.images,
            "images_without_mask": asked - self.images,
            "metrics": {"top1_cls": first, "top5_cls": five},
            "cam_threshold": thresholds["p_iou"],
            "cam_threshold_source": "train_fullsup" if transferred else "oracle",
        }


def _numbers(computed: Mapping) -> dict[str, float]:
    return {name: computed[name] for name in ("px_ap", *_OVERLAPS)}


def _central_box() -> Tensor:
    """1 inside the central box, 0 outside."""
    x0, y0, x1, y1 = center_box(torch.tensor([[_CENTRAL, _CENTRAL]]))[0].round().long().tolist()
    inside = torch.zeros(_CENTRAL, _CENTRAL)
    inside[y0:y1, x0:x1] = 1
    return inside
