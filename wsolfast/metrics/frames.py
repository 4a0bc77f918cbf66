"""Frames: the pixels in which a protocol compares boxes, and the ways of maps and boxes to and from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.metrics.protocols import Protocol
from wsolfast.ops._checks import as_tensor, as_tensors, holds_integers, holds_reals
from wsolfast.ops.score_map_boxes import check_values, is_in_range

# float64 pixels that one batch of resized maps may hold.
_BATCH_PIXELS = 1 << 22
# Of a side of the image: no real annotation that we know reaches farther.
_FARTHEST = 1.1


@dataclass(frozen=True)
class FrameBatch:
    """Maps of one size and the true boxes that they are compared with in the protocol's frame.

    Example:
        >>> protocol = get_protocol("spa")
        >>> (batch,) = frames(torch.eye(4)[None], torch.tensor([[8, 6]]), None, protocol)
        >>> batch.frame, batch.normalized(protocol.rule).maps.shape
        ((6, 8), torch.Size([1, 6, 8]))
    """

    index: list[int]  # positions in the caller's batch
    maps: Tensor  # [n, h, w] as they came, or float64 [n, H, W], normalised
    size: tuple[int, int] | None  # (H, W) that raw maps are to be brought to; None: they are normalised
    truths: list[Tensor]  # float64 [G, 4] each, as they are compared
    image_sizes: list[tuple[int, int]]  # (w, h)

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width (H, W) of the frame."""
        return self.size or (self.maps.shape[1], self.maps.shape[2])

    def normalized(self, rule: ops.BoxRule) -> "FrameBatch":
        """Return the same batch with normalised maps, for callers that need them more than once."""
        if self.size is None:
            return self
        return replace(self, maps=ops.normalize_score_map(self.maps, self.size, rule), size=None)


def frames(
    score_maps: Tensor | Sequence[Tensor],
    image_sizes: Tensor,
    gt_boxes: Sequence[Tensor] | None,
    protocol: Protocol,
) -> Iterator[FrameBatch]:
    """Yield batches of maps of one size that go to one frame, with the true boxes in it.

    Raises:
        TypeError: if an argument holds no numbers.
        ValueError: if the lengths differ, a map is not [h, w], or a true box is missing, empty, not finite or outside
            its image.

    Example:
        >>> sizes = torch.tensor([[8, 6], [5, 5], [8, 6]])
        >>> [(batch.index, batch.frame) for batch in frames(torch.zeros(3, 4, 4), sizes, None, get_protocol("spa"))]
        [([0, 2], (6, 8)), ([1], (5, 5))]
    """
    score_maps = as_score_maps(score_maps)
    sizes = checked_image_sizes(image_sizes, len(score_maps))
    truths = [torch.empty(0, 4, dtype=torch.float64)] * len(score_maps)
    if gt_boxes is not None:
        checked = checked_gt_boxes(gt_boxes)
        if len(checked) != len(score_maps):
            raise ValueError(f"metrics: {len(score_maps)} score maps, but true boxes of {len(checked)} images")
        check_inside(checked, sizes)
        truths = gt_in_frame(checked, sizes, protocol)
    for index, maps, size in same_sizes(score_maps, [_frame_size(size, protocol) for size in sizes]):
        batch = FrameBatch(index, maps, size, [truths[n] for n in index], [sizes[n] for n in index])
        if maps.is_cuda and not is_in_range(protocol.rule):
            # The box ops do not wait for a GPU to tell what is wrong with a map.
            batch = batch.normalized(protocol.rule)
            check_values("metrics", batch.maps, (0.0, 1.0) if protocol.rule.quantize else None)
        yield batch


def same_sizes(
    score_maps: Tensor | Sequence[Tensor], targets: Sequence[tuple[int, int] | None], least: int = 1
) -> Iterator[tuple[list[int], Tensor, tuple[int, int]]]:
    """Yield batches of maps of one size that are brought to one other, (H, W); None keeps their own.

    Args:
        score_maps (Tensor[N, h, w] or list of Tensor[h, w]): as :func:`as_score_maps` gives them.
        targets: of each map.
        least: pixels that each map counts as at least; all maps of a batch together have no more than some millions.

    Yields:
        Positions of n maps, the maps [n, h, w], and (H, W). One map that is expanded over a batch is not copied.

    Example:
        >>> maps = [torch.zeros(4, 4), torch.zeros(3, 3), torch.zeros(4, 4)]
        >>> [(index, found.shape, size) for index, found, size in same_sizes(maps, [(8, 8), None, (8, 8)])]
        [([0, 2], torch.Size([2, 4, 4]), (8, 8)), ([1], torch.Size([1, 3, 3]), (3, 3))]
    """
    groups: dict[tuple, list[int]] = {}
    for n, (one, target) in enumerate(zip(score_maps, targets, strict=True)):
        height, width = one.shape
        groups.setdefault((one.dtype, one.device, height, width, target or (height, width)), []).append(n)
    for (*_, size), members in groups.items():
        step = max(1, _BATCH_PIXELS // max(least, 1, size[0] * size[1]))
        for start in range(0, len(members), step):
            index = members[start : start + step]
            yield index, _rows(score_maps, index), size


def _rows(score_maps: Tensor | Sequence[Tensor], index: list[int]) -> Tensor:
    if not isinstance(score_maps, Tensor):
        return torch.stack([score_maps[n] for n in index])
    return score_maps[: len(index)] if score_maps.stride(0) == 0 else score_maps[index]


def _frame_size(image_size: tuple[int, int], protocol: Protocol) -> tuple[int, int] | None:
    if protocol.frame == "image":
        return image_size[1], image_size[0]
    return None if protocol.input_size is None else (protocol.input_size, protocol.input_size)


def gt_in_frame(gt_boxes: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]], protocol: Protocol) -> list[Tensor]:
    """Return the true boxes [G, 4] of each image (half-open, original pixels) as the protocol compares them.

    Frame "crop" leaves out what is clipped away.

    Example:
        >>> boxes = torch.tensor([[10.0, 20.0, 110.0, 220.0]])
        >>> gt_in_frame([boxes], [(448, 448)], get_protocol("wsolevaluation"))
        [tensor([[  5.,  10.,  55., 110.]], dtype=torch.float64)]
    """
    counts = [len(boxes) for boxes in gt_boxes]
    boxes = torch.cat([*gt_boxes, torch.empty(0, 4, dtype=torch.float64)])
    scale = as_float64(image_sizes).reshape(-1, 2).repeat_interleave(torch.tensor(counts, dtype=torch.int64), 0)
    scale = torch.cat([scale, scale], 1)  # [G, 4]
    if protocol.gt_box_end == "clipped":
        boxes = torch.minimum(boxes, scale - 1)
    elif protocol.gt_box_end == "inclusive":
        boxes = boxes - as_float64([0.0, 0.0, 1.0, 1.0])
    elif protocol.gt_box_end == "shifted":
        boxes = boxes - 1
    if protocol.frame == "crop":
        moved, shown = _moved_to_crop(boxes, scale, protocol)
        return [part[inside] for part, inside in zip(moved.split(counts), shown.split(counts), strict=True)]
    if protocol.frame == "input":
        # Protocol checks that this frame has one.
        assert protocol.input_size is not None
        boxes = (boxes * protocol.input_size / scale).trunc()
    return list(boxes.split(counts))


def _moved_to_crop(boxes: Tensor, image_sizes: Tensor, protocol: Protocol) -> tuple[Tensor, Tensor]:
    """Return boxes [G, 4] as the crop has them, and which of them it shows, bool [G]."""
    whole, side = crop_sides(protocol)
    before = (whole - side) // 2
    if protocol.gt_corners == "exact":
        moved = (boxes.clamp(min=0) * (whole / image_sizes) - before).clamp(0, side)
        return moved, (moved[:, 2:] > moved[:, :2]).all(1)
    # Divided first, as published: rounded in another order, some would be truncated to another pixel.
    pixels = (boxes / image_sizes * whole - before).trunc()
    moved = torch.cat([pixels[:, :2].clamp(min=0), pixels[:, 2:].clamp(max=side - 1)], 1)
    return moved, (moved[:, 2:] >= moved[:, :2]).all(1)


def compared_boxes(boxes: Tensor, batch: FrameBatch, k: int, protocol: Protocol) -> Tensor:
    """Return boxes of map k as they are compared: those of frame "scaled" are brought to the original image.

    Example:
        >>> protocol = get_protocol("psol")  # cuts boxes at the map's own size
        >>> (batch,) = frames(torch.zeros(1, 4, 4), torch.tensor([[8, 8]]), None, protocol)
        >>> compared_boxes(torch.tensor([[1.0, 1.0, 3.0, 3.0]]), batch, 0, protocol).tolist()
        [[2.0, 2.0, 6.0, 6.0]]
    """
    if protocol.frame != "scaled":
        return boxes
    return scaled_boxes(boxes, as_float64([*batch.image_sizes[k]] * 2), _map_size(batch), protocol)


def scaled_boxes(boxes: Tensor, image: Tensor, size: Tensor, protocol: Protocol) -> Tensor:
    """Return boxes [..., 4] in pixels of the original image as frame "scaled" compares them.

    Args:
        boxes: in pixels of maps.
        image (Tensor[..., 4]): (w, h, w, h) of the original images.
        size (Tensor[..., 4]): the same of the maps.
        protocol: its ``box_scaling`` is used.

    Example:
        >>> boxes, image, size = torch.tensor([[1.0, 1.0, 3.0, 3.0]]), torch.full((4,), 9.0), torch.full((4,), 4.0)
        >>> scaled_boxes(boxes, image, size, get_protocol("cicam")).tolist()  # truncates 2.25 and 6.75
        [[2.0, 2.0, 6.0, 6.0]]
    """
    ratio = image / size
    if protocol.box_scaling == "exact":
        return boxes * ratio
    if protocol.box_scaling == "round":
        return (boxes * ratio).round()
    # The factor is rounded to float32 before it multiplies: the last column of a full-width box depends on it.
    scaled = boxes.float() * ratio.float()
    return torch.minimum(scaled.clamp(min=0), image.float()).trunc().double()


def image_boxes(boxes: Tensor, batch: FrameBatch, k: int, protocol: Protocol) -> Tensor:
    """Return half-open boxes of map k in pixels of the original image, without rounding.

    Example:
        >>> protocol = get_protocol("wsolevaluation")  # cuts boxes at 224 x 224
        >>> (batch,) = frames(torch.zeros(1, 7, 7), torch.tensor([[448, 224]]), None, protocol)
        >>> image_boxes(torch.tensor([[10.0, 10.0, 20.0, 20.0]]), batch, 0, protocol).tolist()
        [[20.0, 10.0, 40.0, 20.0]]
    """
    image = as_float64([*batch.image_sizes[k]] * 2)
    if protocol.frame == "crop":
        whole, side = crop_sides(protocol)
        return (boxes + (whole - side) // 2) * (image / whole)
    return boxes * (image / _map_size(batch))


def crop_sides(protocol: Protocol) -> tuple[int, int]:
    """Return the sides of the whole image and of its central crop.

    Example:
        >>> crop_sides(get_protocol("spol"))
        (256, 224)
    """
    # Protocol checks that frame "crop" has both.
    assert protocol.resize is not None
    assert protocol.input_size is not None
    return protocol.resize, protocol.input_size


def _map_size(batch: FrameBatch) -> Tensor:
    height, width = batch.frame
    return as_float64([width, height, width, height])


def is_constant(score_maps: Tensor | Sequence[Tensor]) -> Tensor:
    """Return whether each map has one value everywhere: it shows nothing, and a box that is cut from it means nothing.

    Where a protocol resizes maps before it min-max scales them, as the benchmark does, the rounding of the resize is
    stretched to the whole range. Accumulators count such maps as ``maps_constant``.

    Args:
        score_maps (Tensor[N, h, w] or list of Tensor[h, w]): as the method leaves them.

    Returns:
        Tensor[N]: bool, on the device of the maps. A map with a NaN or an infinity is not constant.

    Raises:
        TypeError: if there are no maps.
        ValueError: if a map is not [h, w], has no pixel or is complex.

    Example:
        >>> is_constant(torch.tensor([[[0.7, 0.7]], [[0.7, 0.2]]]))
        tensor([ True, False])
    """
    maps = as_score_maps(score_maps)
    if not isinstance(maps, Tensor):
        found = [is_constant(one[None]) for one in maps]
        return torch.cat(found) if found else torch.empty(0, dtype=torch.bool)
    if 0 in maps.shape[1:] or maps.is_complex():
        raise ValueError(
            f"is_constant: expected real score maps [N, h, w] with pixels, got {maps.dtype} {list(maps.shape)}"
        )
    low, high = maps.flatten(1).aminmax(dim=1)
    return (low == high) & low.isfinite()


def as_score_maps(score_maps: Any) -> Tensor | list[Tensor]:
    """Return score maps as a tensor [N, h, w] or, if they may differ in size, as a list of tensors [h, w].

    Raises:
        TypeError: if there are no maps.
        ValueError: if one is not [h, w].

    Example:
        >>> as_score_maps([np.zeros((2, 2)), np.ones((3, 3))])[1].shape
        torch.Size([3, 3])
    """
    if isinstance(score_maps, np.ndarray) and score_maps.dtype != object:
        score_maps = as_tensor("metrics", "score_maps", score_maps)
    if isinstance(score_maps, Tensor) and score_maps.dim() > 0:
        _check_map(0, score_maps.shape[1:])
        return score_maps
    maps = as_tensors("metrics", "score_maps", score_maps)
    for n, one in enumerate(maps):
        _check_map(n, one.shape)
    return maps


def _check_map(n: int, shape: torch.Size) -> None:
    if len(shape) != 2:
        raise ValueError(f"metrics: expected a score map [h, w] per image, map {n} has shape {list(shape)}")


def as_float64(values: Sequence | Tensor) -> Tensor:
    """Return numbers as a float64 tensor.

    Example:
        >>> as_float64([1, 0.5])
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    return torch.as_tensor(values, dtype=torch.float64)


def checked_image_sizes(image_sizes: Tensor, count: int) -> list[tuple[int, int]]:
    """Return (w, h) pairs; raise ValueError if they are none.

    Example:
        >>> checked_image_sizes(torch.tensor([[640, 480]]), 1)
        [(640, 480)]
    """
    sizes = as_tensor("metrics", "image_sizes", image_sizes)
    if tuple(sizes.shape) != (count, 2) or not holds_integers(sizes) or (sizes.to(torch.int64) < 1).any():
        raise ValueError(
            f"metrics: expected image_sizes as {count} pairs of positive integers (w, h), got {sizes.dtype} "
            f"{list(sizes.shape)}"
        )
    return [(width, height) for width, height in sizes.tolist()]


def check_inside(gt_boxes: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> None:
    """Raise ValueError, which names the image, if a true box lies outside it, or sizes seem to be (h, w).

    Annotations that people made reach beyond their images by a little, up to 6 % of a side in CUB: that is no error.
    Sizes are taken for exchanged where a box reaches much farther but lies inside the image turned on its side.

    Example:
        >>> check_inside([torch.tensor([[10.0, 10.0, 501.0, 90.0]])], [(500, 100)])
    """
    if not gt_boxes:
        return
    counts = torch.tensor([len(boxes) for boxes in gt_boxes], dtype=torch.int64)
    boxes, sizes = torch.cat([*gt_boxes]), as_float64(image_sizes).repeat_interleave(counts, 0)
    outside = (boxes[:, :2] >= sizes).any(1) | (boxes[:, 2:] <= 0).any(1)
    turned = (boxes[:, 2:] > sizes * _FARTHEST).any(1) & (boxes[:, 2:] <= sizes.flip(1)).all(1)
    wrong = (outside | turned).nonzero()
    if len(wrong) == 0:
        return
    k = int(wrong[0])
    n = int(torch.searchsorted(counts.cumsum(0), k, right=True))
    width, height = image_sizes[n]
    lies = "lies outside" if outside[k] else "reaches far beyond"
    raise ValueError(
        f"metrics: image {n}: true box {boxes[k].tolist()} {lies} its image, {width} wide and {height} high"
        + (f", and would fit into {height} by {width}: expected image_sizes as (w, h)" if turned[k] else "")
    )


def _rows_of_boxes(n: int, boxes: Tensor) -> Tensor:
    if boxes.numel() == 0:
        raise ValueError(f"metrics: image {n} has no true box; leave it out or annotate it")
    rows = boxes[None] if boxes.dim() == 1 else boxes
    if rows.dim() != 2 or rows.shape[1] != 4 or not holds_reals(rows):
        raise ValueError(
            f"metrics: expected true boxes [G, 4] of real numbers, image {n} has {boxes.dtype} {list(boxes.shape)}"
        )
    return rows.to("cpu", torch.float64)


def checked_gt_boxes(gt_boxes: Sequence[Tensor]) -> list[Tensor]:
    """Return each image's boxes as float64 [G, 4]; raise ValueError, which names the image, if that cannot be.

    One box may be [4].

    Example:
        >>> checked_gt_boxes([torch.tensor([[1, 2, 3, 4]])])
        [tensor([[1., 2., 3., 4.]], dtype=torch.float64)]
    """
    checked = [_rows_of_boxes(n, boxes) for n, boxes in enumerate(as_tensors("metrics", "gt_boxes", gt_boxes))]
    together = torch.cat([*checked, torch.empty(0, 4, dtype=torch.float64)])
    proper = together.isfinite().all(1) & (together[:, 2:] > together[:, :2]).all(1)
    if not proper.all():
        starts = torch.tensor([len(boxes) for boxes in checked]).cumsum(0)
        n = int(torch.searchsorted(starts, (~proper).nonzero()[0, 0], right=True))
        raise ValueError(f"metrics: image {n} has a true box that is empty or not finite: {checked[n].tolist()}")
    return checked
