"""Boxes that a method gives itself, without a score map: their way to the frame of a protocol, hits and errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsolfast.metrics.frames import (
    as_float64,
    check_inside,
    checked_gt_boxes,
    checked_image_sizes,
    crop_sides,
    gt_in_frame,
    scaled_boxes,
)
from wsolfast.metrics.functional import best_of_truths, kinds_of_boxes, reaches
from wsolfast.metrics.protocols import Protocol
from wsolfast.ops._checks import as_tensor, as_vector, holds_reals


@dataclass(frozen=True)
class GivenBoxes:
    """One box of each image, in pixels of what a network was shown of it: the whole, or a protocol's crop.

    Boxes go to a protocol's frame as those of a score map of the shown size do, and are not rounded on the way.

    Args:
        boxes (Tensor[N, 4]): xyxy, half-open; may reach beyond what was shown.
        shown_sizes (Tensor[N, 2]): (w, h) of what the network was shown, pixels.
        image_sizes (Tensor[N, 2]): (w, h) of the original images.

    Raises:
        ValueError: if the shapes do not fit, or a size is not a positive integer.

    Example:
        >>> sizes = torch.tensor([[448, 224]])
        >>> given = GivenBoxes(torch.tensor([[10.0, 10.0, 20.0, 20.0]]), torch.tensor([[224, 224]]), sizes)
        >>> given.in_images(get_protocol("spa")).tolist()
        [[20.0, 10.0, 40.0, 20.0]]
        >>> given.in_images(get_protocol("spol")).round().tolist()  # shown is the central 224 of 256 x 256
        [[46.0, 23.0, 63.0, 32.0]]
    """

    boxes: Tensor
    shown_sizes: Tensor
    image_sizes: Tensor

    def __post_init__(self) -> None:
        boxes = as_tensor("GivenBoxes", "boxes", self.boxes)
        if boxes.dim() != 2 or boxes.shape[1] != 4 or not holds_reals(boxes):
            raise ValueError(
                f"GivenBoxes: expected boxes [N, 4] of real numbers, got {boxes.dtype} {list(boxes.shape)}"
            )
        for sizes in (self.shown_sizes, self.image_sizes):
            checked_image_sizes(sizes, len(boxes))

    def __len__(self) -> int:
        return len(self.boxes)

    def in_images(self, protocol: Protocol) -> Tensor:
        """Return the boxes in pixels of the original images: float64 [N, 4], half-open, not rounded.

        Args:
            protocol: says which crop was shown, if its frame is one.
        """
        boxes, image = self._boxes, _twice(self.image_sizes)
        if protocol.frame == "crop":
            whole, side = crop_sides(protocol)
            return (boxes * (side / _twice(self.shown_sizes)) + (whole - side) // 2) * (image / whole)
        return boxes * (image / _twice(self.shown_sizes))

    def in_frame(self, protocol: Protocol) -> Tensor:
        """Return the boxes as ``protocol`` compares them: float64 [N, 4], in its frame, with its ends."""
        shown, image = _twice(self.shown_sizes), _twice(self.image_sizes)
        cut = image if protocol.frame == "image" else shown
        if protocol.frame != "image" and protocol.input_size is not None:
            cut = torch.full_like(shown, protocol.input_size)
        boxes = self._boxes * (cut / shown)
        if protocol.rule.box_end == "inclusive":
            boxes = boxes - as_float64([0.0, 0.0, 1.0, 1.0])
        elif protocol.rule.box_end == "clipped":
            boxes = torch.cat([boxes[:, :2], boxes[:, 2:].minimum(cut[:, 2:] - 1)], 1)
        return scaled_boxes(boxes, image, cut, protocol) if protocol.frame == "scaled" else boxes

    def on_whole_images(self, protocol: Protocol) -> "GivenBoxes":
        """Return the boxes as if the network had been shown whole images.

        Args:
            protocol: as for :meth:`in_images`.
        """
        if protocol.frame != "crop":
            return self
        return GivenBoxes(self.in_images(protocol), self.image_sizes, self.image_sizes)

    def hits(
        self, gt_boxes: Sequence[Tensor], protocol: Protocol, iou_thresholds: Sequence[float] | Tensor | None = None
    ) -> Tensor:
        """Return whether the boxes are right, at each overlap.

        Args:
            gt_boxes: for each image a float64 [G, 4], xyxy, half-open, original pixels, G >= 1.
            protocol: the way to score.
            iou_thresholds (Tensor[I]): instead of the protocol's.

        Returns:
            Tensor[N, I]: bool.

        Raises:
            ValueError: if the lengths differ, or a true box is missing, empty, not finite or outside its image.

        Example:
            >>> given = GivenBoxes(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), *[torch.tensor([[8, 8]])] * 2)
            >>> given.hits([torch.tensor([[0.0, 0.0, 4.0, 6.0]])], get_protocol("spa"), [0.5, 0.7])
            tensor([[ True, False]])
        """
        levels = as_vector(
            "GivenBoxes", "iou_thresholds", protocol.iou_thresholds if iou_thresholds is None else iou_thresholds
        )
        truths = self._truths(gt_boxes, protocol)
        found = self.in_frame(protocol)
        best = [best_of_truths(found[n : n + 1], truths[n], protocol.rule) for n in range(len(truths))]
        return reaches(torch.cat([*best, found.new_empty(0)])[:, None], levels, protocol.rule)

    def error_kinds(self, gt_boxes: Sequence[Tensor], class_is_right: Tensor, protocol: Protocol) -> Tensor:
        """Return the kinds of :func:`wsolfast.metrics.functional.error_kinds`, int64 [N].

        Args:
            gt_boxes, protocol: as for :meth:`hits`.
            class_is_right (Tensor[N]): bool.

        Raises:
            ValueError: as :meth:`hits`.
        """
        truths, found = self._truths(gt_boxes, protocol), self.in_frame(protocol)
        kinds = torch.zeros(len(found), dtype=torch.int64)
        for n in class_is_right.nonzero().flatten().tolist():
            kinds[n] = kinds_of_boxes(found[n : n + 1], truths[n], protocol.rule)
        return kinds

    @property
    def _boxes(self) -> Tensor:
        return self.boxes.to("cpu", torch.float64)

    def _truths(self, gt_boxes: Sequence[Tensor], protocol: Protocol) -> list[Tensor]:
        checked = checked_gt_boxes(gt_boxes)
        if len(checked) != len(self):
            raise ValueError(f"metrics: {len(self)} given boxes, but true boxes of {len(checked)} images")
        sizes = checked_image_sizes(self.image_sizes, len(self))
        check_inside(checked, sizes)
        return gt_in_frame(checked, sizes, protocol)


def _twice(sizes: Tensor) -> Tensor:
    """Return (w, h) [N, 2] as (w, h, w, h), float64 [N, 4]."""
    return as_float64(sizes.cpu()).repeat(1, 2)
