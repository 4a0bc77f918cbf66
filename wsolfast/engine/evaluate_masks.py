"""What the masks of a split say of score maps: pixel metrics, thresholds, the overlap of every image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wsolfast import data
from wsolfast.engine.distributed import from_all, rank, sum_over_all, world_size
from wsolfast.engine.progress import Progress
from wsolfast.metrics import PixelAccuracy, center_box, center_gaussian, mask_overlaps

OVERLAPS = ("p_iou", "peak_iou", "peak_iou_per_image")
# Side of the central box's map and of the central Gaussian: where PxAP compares.
_CENTRAL = 224


@dataclass(frozen=True)
class Masked:
    """The images of a split that are measured on their masks, and their score maps."""

    dataset: data.Dataset
    indices: Sequence[int]
    maps: Tensor  # [n, h, w]

    def mine(self) -> range:
        """The images that are this process's to measure."""
        return range(rank(), len(self.indices), world_size())

    def mask(self, k: int) -> Tensor | None:
        """Mask of the ``k``-th image; None if it has none."""
        return self.dataset.mask(self.indices[k])

    def without_maps(self, one: Tensor) -> "Masked":
        """The same images, each with the map ``one`` [h, w]."""
        return replace(self, maps=one.float().expand(len(self.indices), -1, -1))


def measure_masks(test: Masked, fullsup: Masked | None, progress: Progress, *, gaussian: bool = False) -> dict:
    """Pixel metrics of ``test``, at its own best thresholds and at those of ``fullsup``; several processes share them.

    Returns:
        ``pixel`` (percent and thresholds), ``oracle_threshold``, ``baselines``; with ``fullsup``, ``transferred`` and
        ``transferred_thresholds``. Nothing if no mask of ``test`` shows an object.
    """
    accuracy = _count(test, f"masks of {test.dataset.split}", progress)
    if accuracy is None:
        return {}
    numbers = accuracy.compute()
    found: dict = {
        "pixel": _numbers(numbers)
        | {
            "images": numbers["images"],
            "p_iou_threshold": numbers["p_iou_threshold"],
            "peak_threshold": numbers["peak_t"],
            "peak_t_per_image": numbers["peak_t_per_image"],
        },
        "oracle_threshold": numbers["cam_threshold"],
        "baselines": {"center_box": _baseline(test, _central_box(), "centre box", progress)},
    }
    if gaussian:
        found["baselines"]["center_gaussian"] = _baseline(
            test, center_gaussian((_CENTRAL, _CENTRAL)), "central Gaussian", progress
        )
    chosen = None if fullsup is None else _count(fullsup, f"masks of {fullsup.dataset.split}", progress)
    if chosen is not None:
        transferred = accuracy.compute(at=chosen.compute()["cam_threshold"])
        found["transferred"] = {name: transferred[name] for name in OVERLAPS}
        found["transferred_thresholds"] = transferred["cam_threshold"]
    return found


def image_overlaps(test: Masked, threshold: float, progress: Progress) -> dict[int, float]:
    """IoU of each image that has a mask, by its position in ``test.indices``, at one threshold."""
    mine = {}
    with progress.task("images one by one", len(test.mine())) as advance:
        for k in test.mine():
            mask = test.mask(k)
            if mask is not None:
                (mine[k],) = mask_overlaps(test.maps[k : k + 1], [mask], threshold)
            advance()
    return {k: overlap for share in from_all(mine) for k, overlap in share.items()}


def _count(rows: Masked, what: str, progress: Progress) -> PixelAccuracy | None:
    accuracy, counted = PixelAccuracy(), torch.zeros((), dtype=torch.int64)
    with progress.task(what, len(rows.mine())) as advance:
        for k in rows.mine():
            mask = rows.mask(k)
            if mask is not None:
                accuracy.update(rows.maps[k : k + 1], [mask])
                counted += 1
            advance()
    if not sum_over_all(counted):
        return None
    if world_size() > 1:
        accuracy.all_reduce()
    counters = accuracy.state_dict()
    return accuracy if counters["scores"][1].any() and counters["levels"][1].any() else None


def _baseline(rows: Masked, one: Tensor, what: str, progress: Progress) -> dict[str, float]:
    return _numbers(_count(rows.without_maps(one), f"masks: {what}", progress).compute())


def _numbers(computed: Mapping) -> dict[str, float]:
    return {name: computed[name] for name in ("px_ap", *OVERLAPS)}


def _central_box() -> Tensor:
    """1 inside the central box, 0 outside."""
    x0, y0, x1, y1 = center_box(torch.tensor([[_CENTRAL, _CENTRAL]]))[0].round().long().tolist()
    inside = torch.zeros(_CENTRAL, _CENTRAL)
    inside[y0:y1, x0:x1] = 1
    return inside
