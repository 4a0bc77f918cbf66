"""Score maps against the object masks of a split: pixel metrics, thresholds, baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wsolfast.engine.evaluation.counters import Counters
from wsolfast.engine.run.results import Measurement, PixelMetrics
from wsolfast.metrics import PixelAccuracy, center_box, center_gaussian
from wsolfast.metrics.box_accuracy import right_classes

_OVERLAPS = ("p_iou", "peak_iou", "peak_iou_per_image")
# Side of the central box's map and of the central Gaussian: where PxAP compares.
_CENTRAL = 224


class MaskCounters(Counters):
    """Counts of pixels, over the images that have a mask.

    Args:
        baselines: count the central box, too.
        gaussian: count the central Gaussian, too.
        thresholds: of PxAP and pIoU; those of :class:`wsolfast.metrics.PixelAccuracy` if None.
    """

    def __init__(self, *, baselines: bool, gaussian: bool, thresholds: Sequence[float] | None = None):
        self.pixels = PixelAccuracy(thresholds=thresholds)
        self._central = {"center_box": _central_box()} if baselines else {}
        self._central |= {"center_gaussian": center_gaussian((_CENTRAL, _CENTRAL)).float()} if gaussian else {}
        self._baselines = {name: PixelAccuracy(thresholds=thresholds) for name in self._central}
        # Images, those whose class is the most likely one, and those where it is among the five most likely.
        super().__init__({"pixels": self.pixels, **self._baselines}, images=3)

    def update(
        self, maps: Tensor | list[Tensor], masks: Sequence[Tensor], label: Tensor, classes: Tensor | None
    ) -> None:
        """Add images: maps [N, h, w], their masks, labels [N] and, if they were classified, likely classes [N, k]."""
        if not masks:
            return
        right = [] if classes is None else right_classes(label, classes, len(masks))
        first, five = (int(hits.sum()) for hits in right) if right else (0, 0)
        self._images += torch.tensor([len(masks), first, five])
        self.pixels.update(maps, masks)
        for name, one in self._central.items():
            self._baselines[name].update(one.expand(len(masks), -1, -1), masks)

    @property
    def found(self) -> bool:
        """True if a mask showed an object, at the size of PxAP and at its own."""
        counters = self.pixels.state_dict()
        return bool(counters["scores"][1].any() and counters["levels"][1].any())

    @property
    def best_thresholds(self) -> dict[str, float]:
        """The best threshold of each overlap on these images; none without an object pixel."""
        return self.pixels.compute()["cam_threshold"] if self.found else {}

    def measure(self, at: Mapping[str, float], boxes: Measurement | None, asked: int) -> Measurement:
        """Return the numbers of the images that were added, beside those of their boxes.

        A split without boxes is measured at pIoU's threshold: the one of train_fullsup if that has masks, else the best
        one here.

        Args:
            at: the best thresholds on train_fullsup; empty without any.
            boxes: numbers of the true boxes of the split; None if it has none.
            asked: images of the split.
        """
        numbers = self.pixels.compute()
        transferred = self.pixels.compute(at=at) if "p_iou" in at else None
        found = boxes or self._classes(at if transferred is not None else numbers["cam_threshold"], asked)
        baselines = {name: _metrics(one.compute()) for name, one in self._baselines.items()}
        found = replace(
            found,
            pixel=PixelMetrics(
                **_metrics(numbers),
                images=numbers["images"],
                p_iou_threshold=numbers["p_iou_threshold"],
                peak_threshold=numbers["peak_t"],
                peak_t_per_image=numbers["peak_t_per_image"],
            ),
            oracle_threshold=found.oracle_threshold | numbers["cam_threshold"],
            baselines={name: found.baselines.get(name, {}) | one for name, one in baselines.items()},
        )
        if transferred is None:
            return found
        overlaps = {name: transferred[name] for name in _OVERLAPS}
        return replace(
            found,
            cam_threshold_source="transferred" if boxes is None else boxes.cam_threshold_source,
            transferred=(found.transferred or {}) | overlaps,
            transferred_thresholds=(found.transferred_thresholds or {}) | transferred["cam_threshold"],
        )

    def _classes(self, thresholds: Mapping[str, float], asked: int) -> Measurement:
        """Return the numbers that a split without boxes starts from."""
        images, first, five = self._images.tolist()
        return Measurement(
            num_images=images,
            images_without_mask=asked - images,
            maps_constant=self.pixels.compute()["maps_constant"],
            metrics={"top1_cls": 100 * first / images, "top5_cls": 100 * five / images},
            oracle_threshold={},
            cam_threshold=thresholds["p_iou"],
            cam_threshold_source="oracle",
            baselines={},
        )


def _metrics(computed: Mapping) -> dict[str, float]:
    return {name: computed[name] for name in ("px_ap", *_OVERLAPS)}


def _central_box() -> Tensor:
    """Return a map that is 1 inside the central box, 0 outside."""
    x0, y0, x1, y1 = center_box(torch.tensor([[_CENTRAL, _CENTRAL]]))[0].round().long().tolist()
    inside = torch.zeros(_CENTRAL, _CENTRAL)
    inside[y0:y1, x0:x1] = 1
    return inside
