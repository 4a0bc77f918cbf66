"""Localisation accuracy by boxes: GT-known, Top-1 and Top-5 Loc under a protocol, MaxBoxAcc and MaxBoxAccV2."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from wsolfast.metrics import functional
from wsolfast.metrics._accumulator import Accumulator
from wsolfast.metrics._thresholds import percent, pick, wanted
from wsolfast.metrics.frames import as_score_maps, is_constant
from wsolfast.metrics.given_boxes import GivenBoxes
from wsolfast.metrics.protocols import Protocol, as_protocol, get_protocol
from wsolfast.ops._checks import as_tensor, as_tensors, as_vector, check_classes, holds_integers

_LEVELS = get_protocol("wsolevaluation").iou_thresholds
_LEVEL_NAMES = ("iou30", "iou50", "iou70")


class BoxAccuracy(Accumulator):
    """GT-known, Top-1 and Top-5 Loc under a protocol; MaxBoxAcc and MaxBoxAccV2 as wsolevaluation defines them.

    Args:
        protocol: name or record; decides GT-known, Top-1 and Top-5 Loc.
        thresholds: instead of the protocol's.
        max_box: also count MaxBoxAcc (largest contour, IoU 0.5) and MaxBoxAccV2 (any contour, IoU 0.3, 0.5, 0.7),
            which are wsolevaluation's whatever the protocol is.
        num_classes: also count each of so many classes, for the means over classes of their accuracies.

    Any split of the images over accumulators that are merged gives identical numbers.

    Example:
        >>> score_maps = torch.zeros(2, 8, 8)
        >>> score_maps[0, 2:6, 2:6], score_maps[1, :2, :2] = 1, 1
        >>> sizes, gt_boxes = torch.tensor([[8, 8]] * 2), [torch.tensor([[2.0, 2.0, 6.0, 6.0]])] * 2
        >>> label, topk_classes = torch.tensor([1, 0]), torch.tensor([[1, 0], [0, 1]])
        >>> accuracy = BoxAccuracy("spa", max_box=False)
        >>> accuracy.update(score_maps, sizes, gt_boxes, label, topk_classes)
        >>> found = accuracy.compute()
        >>> found["top1_cls"], found["gt_known_loc"], found["top1_loc"]
        (100.0, 50.0, 50.0)
    """

    def __init__(
        self,
        protocol: str | Protocol = "wsolevaluation",
        thresholds: Sequence[float] | float | None = None,
        max_box: bool = True,
        num_classes: int | None = None,
    ):
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"BoxAccuracy: num_classes: expected at least 1, got {num_classes}")
        self.protocol = with_thresholds(protocol, thresholds)
        self._benchmark = get_protocol("wsolevaluation")
        if replace(self.protocol, thresholds=self._benchmark.thresholds) == self._benchmark:
            self._benchmark = self.protocol
        self._max_box, self._num_classes = max_box, num_classes
        self._config = {"protocol": asdict(self.protocol), "max_box": max_box, "num_classes": num_classes}
        grid = (len(self.protocol.thresholds), len(self.protocol.iou_thresholds))
        shapes: dict[str, tuple[int, ...]] = {"images": (), "maps_constant": (), "classified": ()}
        shapes |= {"top1_cls": (), "top5_cls": ()}
        shapes |= {name: grid for name in ("gt_known_loc", "top1_loc", "top5_loc")}
        if max_box:
            shapes |= {"max_box_acc": (len(self._benchmark.thresholds),)}
            shapes |= {"max_box_acc_v2": (len(self._benchmark.thresholds), len(_LEVELS))}
        if num_classes is not None:
            thresholds_of_class = (num_classes, len(self.protocol.thresholds))
            shapes |= {f"{name}_of_class": (num_classes,) for name in ("images", "top1_cls", "top5_cls")}
            shapes |= {f"{name}_of_class": thresholds_of_class for name in ("gt_known_loc", "top1_loc", "top5_loc")}
        self.zeros = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in shapes.items()}
        super().__init__()

    def count(
        self,
        score_maps: Tensor | Sequence[Tensor],
        image_sizes: Tensor,
        gt_boxes: Sequence[Tensor],
        label: Tensor | None = None,
        topk_classes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the counters of a batch.

        Args:
            score_maps (Tensor[N, h, w] or list of Tensor[h, w]): the map of each image's label (or the only one), as
                the method leaves it; the protocol resizes and normalises.
            image_sizes (Tensor[N, 2]): (w, h) of the original images.
            gt_boxes: for each image a float64 [G, 4], xyxy, half-open, original pixels, G >= 1.
            label (Tensor[N]): int64. Without it and ``topk_classes`` there is no Top-1 and Top-5.
            topk_classes (Tensor[N, k]): int64, best first, k >= 5 (or all classes); the first five are used.

        Raises:
            ValueError: if shapes do not fit, an image has no true box, or classes are counted and there is no label or
                one of no class.
        """
        score_maps, gt_boxes = as_score_maps(score_maps), as_tensors("metrics", "gt_boxes", gt_boxes)
        images = (score_maps, image_sizes, gt_boxes)
        counts: dict[str, Tensor] = {}
        hits = None
        if self._max_box:
            rules = [replace(self._benchmark.rule, selection=kind) for kind in ("contour_area", "all")]
            single, multi = functional.rule_hits(*images, self._benchmark, rules)
            counts["max_box_acc"] = single[:, :, _LEVELS.index(0.5)].sum(0).cpu()
            counts["max_box_acc_v2"] = multi.sum(0).cpu()
            hits = single if self.protocol is self._benchmark else None
        if hits is None:
            hits = functional.box_hits(*images, self.protocol)
        counts["maps_constant"] = is_constant(score_maps).sum().cpu()
        return counts | self._class_counts(hits, label, topk_classes)

    def update_boxes(
        self,
        boxes: Tensor,
        gt_boxes: Sequence[Tensor],
        label: Tensor | None = None,
        topk_classes: Tensor | None = None,
    ) -> None:
        """Add images whose one box is given in pixels of the original, a baseline's for instance.

        It is the same at every threshold.

        Args:
            boxes (Tensor[N, 4]): xyxy, half-open, original pixels.
            gt_boxes, label, topk_classes: as for :meth:`count`.

        Raises:
            ValueError: if shapes do not fit or an image has no true box.
        """
        protocol, benchmark = self.protocol, None
        hits = functional.given_box_hits(boxes, gt_boxes, protocol.rule, protocol.iou_thresholds)
        if self._max_box:
            benchmark = functional.given_box_hits(boxes, gt_boxes, self._benchmark.rule, _LEVELS)
        self._add_box_hits(hits, benchmark, label, topk_classes)

    def update_given_boxes(
        self,
        given: GivenBoxes,
        gt_boxes: Sequence[Tensor],
        label: Tensor | None = None,
        topk_classes: Tensor | None = None,
    ) -> None:
        """Add images whose one box a method gives, in the protocol's frame: the same at every threshold.

        MaxBoxAcc compares them in wsolevaluation's frame of whole images, whatever the protocol shows the network.

        Args:
            given: the boxes.
            gt_boxes, label, topk_classes: as for :meth:`count`.

        Raises:
            ValueError: if shapes do not fit, or a true box is missing, empty, not finite or outside its image.
        """
        benchmark = None
        if self._max_box:
            benchmark = given.on_whole_images(self.protocol).hits(gt_boxes, self._benchmark, _LEVELS)
        self._add_box_hits(given.hits(gt_boxes, self.protocol), benchmark, label, topk_classes)

    def _add_box_hits(
        self, hits: Tensor, benchmark: Tensor | None, label: Tensor | None, topk_classes: Tensor | None
    ) -> None:
        """Add hits [N, I] by the protocol and by MaxBoxAcc's three overlaps, one for all thresholds."""
        counts = self._class_counts(hits[:, None], label, topk_classes)
        if benchmark is not None:
            counts["max_box_acc"] = benchmark[:, _LEVELS.index(0.5)].sum(0)
            counts["max_box_acc_v2"] = benchmark.sum(0)
        for name, value in counts.items():
            self._state[name] += value

    def _class_counts(self, hits: Tensor, label: Tensor | None, topk_classes: Tensor | None) -> dict[str, Tensor]:
        # Hits stay on the device that found them; their sums come to the host.
        counts = {"images": torch.tensor(len(hits)), "gt_known_loc": hits.sum(0).cpu()}
        counts |= self._of_classes(label, gt_known_loc=hits)
        if topk_classes is None:
            return counts
        first, five = right_classes(label, topk_classes, len(hits))
        hits_first, hits_five = (hits & right.to(hits.device)[:, None, None] for right in (first, five))
        counts |= self._of_classes(label, top1_loc=hits_first, top5_loc=hits_five, top1_cls=first, top5_cls=five)
        return counts | {
            "classified": torch.tensor(len(hits)),
            "top1_cls": first.sum(),
            "top5_cls": five.sum(),
            "top1_loc": hits_first.sum(0).cpu(),
            "top5_loc": hits_five.sum(0).cpu(),
        }

    def _of_classes(self, label: Tensor | None, **found: Tensor) -> dict[str, Tensor]:
        """Return the counters of each class of what was found: bool [N], or [N, thresholds, IoU levels]."""
        if self._num_classes is None:
            return {}
        label = as_tensor("metrics", "label", label).to("cpu", torch.int64)
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < self._num_classes:
            raise ValueError(f"BoxAccuracy: expected labels below {self._num_classes}, got up to {int(label.max())}")
        level = self.protocol.iou_thresholds.index(0.5)
        counts = {}
        if "gt_known_loc" in found:
            counts["images_of_class"] = label.bincount(minlength=self._num_classes)
        for name, right in found.items():
            ones = (right if right.dim() == 1 else right[:, :, level]).cpu().long()
            zero = self.zeros[f"{name}_of_class"]
            # Boxes that are given have one row for all thresholds.
            counts[f"{name}_of_class"] = zero.index_add(0, label, ones.expand(-1, *zero.shape[1:]))
        return counts

    def summarize(self, state: Mapping[str, Tensor], at: float | Mapping[str, float] | None = None) -> dict:
        """Return percentages of images.

        Args:
            state: counters.
            at: None: each number at its own best threshold on these images (the published way). A float: all at that
                threshold. A mapping, such as ``compute()["cam_threshold"]`` of another split: each at its own.

        Returns:
            ``gt_known_loc``, with classes ``top1_cls top5_cls top1_loc top5_loc``, with ``max_box`` ``max_box_acc
            max_box_acc_v2 iou30 iou50 iou70`` (the three whose mean is MaxBoxAccV2); ``images``, and ``maps_constant``
            of them, whose map has one value everywhere; ``cam_threshold``: metric -> threshold; ``curves``: the same
            over all thresholds. With ``num_classes`` each accuracy but those of ``max_box`` comes again as
            ``<name>_class_mean``: the mean of its percentage in each class that has images, at the same threshold.

        Raises:
            ValueError: if nothing was counted, only some images had classes, or ``at`` is not on the grid.
        """
        images = int(state["images"])
        if images == 0:
            raise ValueError("BoxAccuracy: no image was counted; call update first")
        if int(state["classified"]) not in (0, images):
            raise ValueError(f"BoxAccuracy: only {int(state['classified'])} of {images} images came with classes")
        numbers: dict = {"images": images, "maps_constant": int(state["maps_constant"])}
        chosen: dict[str, float] = {}
        curves: dict = {"thresholds": list(self.protocol.thresholds)}
        level = self.protocol.iou_thresholds.index(0.5)
        swept = {"gt_known_loc": (state["gt_known_loc"][:, level], self.protocol)}
        if int(state["classified"]):
            for name in ("top1_cls", "top5_cls"):
                numbers[name] = percent(int(state[name]), images)
            swept |= {name: (state[name][:, level], self.protocol) for name in ("top1_loc", "top5_loc")}
        if self._max_box:
            curves["max_box_thresholds"] = list(self._benchmark.thresholds)
            swept["max_box_acc"] = (state["max_box_acc"], self._benchmark)
            for k, name in enumerate(_LEVEL_NAMES):
                swept[name] = (state["max_box_acc_v2"][:, k], self._benchmark)
        for name, (counts, protocol) in swept.items():
            count, chosen[name] = pick(counts, protocol.thresholds, wanted(at, name), name)
            numbers[name] = percent(count, images)
            curves[name] = percent(counts.double(), images).tolist()
        numbers |= self._class_means(state, chosen, curves)
        if self._max_box:
            numbers["max_box_acc_v2"] = sum(numbers[name] for name in _LEVEL_NAMES) / len(_LEVEL_NAMES)
        return numbers | {"cam_threshold": chosen, "curves": curves}

    def _class_means(self, state: Mapping[str, Tensor], chosen: Mapping[str, float], curves: dict) -> dict[str, float]:
        """Return the means over the classes, and add their curves."""
        if self._num_classes is None:
            return {}
        there = state["images_of_class"] > 0
        images = state["images_of_class"][there].double()
        names = ["gt_known_loc"]
        if int(state["classified"]):
            names += ["top1_cls", "top5_cls", "top1_loc", "top5_loc"]
        means = {}
        for name in names:
            counts = state[f"{name}_of_class"][there].double()
            shares = (counts * 100.0 / (images if counts.dim() == 1 else images[:, None])).mean(0)
            key = f"{name}_class_mean"
            if name in chosen:
                means[key] = float(shares[self.protocol.thresholds.index(chosen[name])])
                curves[key] = shares.tolist()
            else:
                means[key] = float(shares)
        return means


def with_thresholds(protocol: str | Protocol, thresholds: Sequence[float] | float | None) -> Protocol:
    """Return the protocol, with other thresholds if there are any; one number is one threshold.

    Raises:
        TypeError: if it is no protocol, or the thresholds are no numbers.
        ValueError: if there is no protocol of that name, or no threshold.
    """
    protocol = as_protocol(protocol)
    if thresholds is None:
        return protocol
    return replace(protocol, thresholds=tuple(as_vector("metrics", "thresholds", thresholds).tolist()))


def right_classes(label: Tensor | None, topk_classes: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Return two bool [N]: the label is the best class, and the label is among the five best.

    Raises:
        ValueError: if the shapes do not fit.
    """
    label = as_tensor("metrics", "label", label)
    topk_classes = as_tensor("metrics", "topk_classes", topk_classes)
    check_classes("metrics", "label", label, images)
    fits = topk_classes.dim() == 2 and len(topk_classes) == images and topk_classes.shape[1] > 0
    if not fits or not holds_integers(topk_classes):
        raise ValueError(
            f"metrics: expected topk_classes as integers [{images}, 5], got {topk_classes.dtype} "
            f"{list(topk_classes.shape)}"
        )
    right = topk_classes[:, :5].to("cpu", torch.int64) == label[:, None].to("cpu", torch.int64)
    return right[:, 0], right.any(1)
