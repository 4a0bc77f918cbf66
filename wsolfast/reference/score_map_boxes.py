"""Reference of :func:`wsolfast.ops.score_map_boxes`.

Contours are never traced. A component's outer contour encloses the component with its holes filled, so its polygon
area is a count of 2x2 windows; a hole's contour runs on the foreground around it, so its box is one pixel larger.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from wsolfast.reference._box_rule import MAXIMUM_PERCENTILE, Switches, unpack
from wsolfast.reference._components import label_components
from wsolfast.reference.normalize_score_map import normalize_score_map

Box = tuple[int, int, int, int]


def score_map_boxes(maps: Tensor, thresholds: Tensor, size: Sequence[int], rule: Sequence[float]) -> Tensor:
    """Return one box per map and threshold, int64 [N, T, 4]; ``size`` is [] or [H, W], ``rule`` is packed."""
    switches = unpack(rule)
    boxes = [
        [found[0] for found in boxes_of_map(one, thresholds.tolist(), switches)]
        for one in maps_to_cut(maps, size, rule).cpu()
    ]
    return _boxes_tensor(boxes, maps).reshape(maps.shape[0], thresholds.shape[0], 4)


def score_map_boxes_all(
    maps: Tensor, thresholds: Tensor, size: Sequence[int], rule: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return every box, int64 [M, 4], and the int64 [N*T+1] offsets of each map and threshold in it."""
    switches = unpack(rule)
    found = [
        boxes
        for one in maps_to_cut(maps, size, rule).cpu()
        for boxes in boxes_of_map(one, thresholds.tolist(), switches)
    ]
    counts = torch.tensor([0] + [len(boxes) for boxes in found], dtype=torch.int64, device=maps.device)
    return _boxes_tensor([box for boxes in found for box in boxes], maps).reshape(-1, 4), counts.cumsum(0)


def maps_to_cut(maps: Tensor, size: Sequence[int], rule: Sequence[float]) -> Tensor:
    """Return the maps [N, H, W] that boxes are cut from: ``maps`` without a size, else normalised at that size."""
    return normalize_score_map(maps, size, rule) if size else maps


def boxes_of_map(values: Tensor, thresholds: list[float], rule: Switches) -> list[list[Box]]:
    """Return the boxes of one map [H, W] for each threshold; thresholds that cut alike share one list."""
    height, width = values.shape
    end = rule.box_end
    values, cuts = _levels_and_cuts(values, thresholds, rule)
    empty = _whole(height, width, end) if rule.empty_box == "image" else cast("Box", rule.empty_box)
    known: dict[float, list[Box]] = {}
    found = []
    for cut in cuts:
        if cut not in known:
            mask = _foreground(values, cut, rule)
            boxes = _select(mask, rule.selection, rule.connectivity)
            known[cut] = [_with_end(box, height, width, end) for box in boxes] or [empty]
        found.append(known[cut])
    return found


def foreground_of_map(values: Tensor, threshold: float, rule: Switches) -> Tensor:
    """Return the pixels of one map [H, W] that its boxes at ``threshold`` are drawn around: bool [H, W]."""
    values, (cut,) = _levels_and_cuts(values, [threshold], rule)
    return _foreground(values, cut, rule)


def _levels_and_cuts(values: Tensor, thresholds: list[float], rule: Switches) -> tuple[Tensor, list[float]]:
    """Return the values to compare, float64, quantised if the rule does so, and the cut of each threshold."""
    if rule.quantize and values.dtype != torch.uint8:
        values = (values.to(torch.float64) * 255).to(torch.uint8)
    values = values.to(torch.float64)
    whole = _percentile(values, rule.percentile) if rule.relative else 255.0 if rule.quantize else 1.0
    cuts = [threshold * whole for threshold in thresholds]
    return values, [float(int(cut)) for cut in cuts] if rule.quantize else cuts


def _percentile(values: Tensor, percentile: float) -> float:
    """Return NumPy's linear percentile of all values, its float64 operations in its order."""
    if percentile == MAXIMUM_PERCENTILE:
        return values.max().item()
    ordered = values.flatten().sort().values
    position = (len(ordered) - 1) * (percentile / 100)
    below = int(position)
    low, high = ordered[below].item(), ordered[min(below + 1, len(ordered) - 1)].item()
    weight = position - below
    # From the nearer of the two.
    return high - (high - low) * (1 - weight) if weight >= 0.5 else low + (high - low) * weight


def _foreground(values: Tensor, cut: float, rule: Switches) -> Tensor:
    mask = values > cut if rule.comparison == ">" else values >= cut
    if rule.mean_cut:
        # One after the other in raster order: a plateau at the mean must fall on the same side everywhere.
        total = 0.0
        for value in values[mask].tolist():
            total += value
        mask = mask & (values > total / values.numel())
    return mask


def _select(mask: Tensor, selection: str, connectivity: int) -> list[Box]:
    """Return boxes (x0, y0, x1, y1), last pixel included; no box where the mask is empty."""
    if not mask.any():
        return []
    if selection == "union":
        return [_box(mask)]
    labels, count = label_components(mask, connectivity)
    components = [labels == k for k in range(1, count + 1)]
    if selection == "all":
        return _contour_boxes(mask, labels, components)
    if selection == "contour_area":
        # Among equals the last in raster order of first pixels: OpenCV lists contours in the opposite order.
        return [_box(max(reversed(components), key=_doubled_contour_area))]
    if selection == "box_area":
        return [max(map(_box, components), key=lambda box: (box[2] - box[0] + 1) * (box[3] - box[1] + 1))]
    return [_box(max(components, key=lambda component: int(component.sum())))]


def _box(mask: Tensor) -> Box:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _doubled_contour_area(component: Tensor) -> int:
    """Return twice the area of the polygon through the pixel centres of the outer contour."""
    x0, y0, x1, y1 = _box(component)
    outside, _ = label_components(~torch.nn.functional.pad(component[y0 : y1 + 1, x0 : x1 + 1], (1, 1, 1, 1)), 4)
    filled = (outside != outside[0, 0]).to(torch.int64)
    windows = filled[:-1, :-1] + filled[:-1, 1:] + filled[1:, :-1] + filled[1:, 1:]
    return int(2 * (windows == 4).sum() + (windows == 3).sum())


def _contour_boxes(mask: Tensor, labels: Tensor, components: list[Tensor]) -> list[Box]:
    """List boxes depth first: a component, its holes, those in them; siblings from the last in raster order on."""
    # A frame of background around the image joins all that touches the border into region 1.
    background, regions = label_components(~torch.nn.functional.pad(mask, (1, 1, 1, 1)), 4)
    holes = [(background == k)[1:-1, 1:-1] for k in range(2, regions + 1)]
    components_in: dict[int, list[int]] = {}
    for k, component in enumerate(components, 1):
        x, y = _first_pixel(component)
        components_in.setdefault(int(background[y + 1, x]), []).append(k)
    holes_in: dict[int, list[int]] = {}
    for k, hole in enumerate(holes, 2):
        x, y = _first_pixel(hole)
        holes_in.setdefault(int(labels[y, x - 1]), []).append(k)
    boxes = []
    waiting = [("component", k) for k in components_in[1]]
    while waiting:
        kind, k = waiting.pop()
        if kind == "component":
            boxes.append(_box(components[k - 1]))
            waiting += [("hole", hole) for hole in holes_in.get(k, [])]
        else:
            x0, y0, x1, y1 = _box(holes[k - 2])
            boxes.append((x0 - 1, y0 - 1, x1 + 1, y1 + 1))
            waiting += [("component", inner) for inner in components_in.get(k, [])]
    return boxes


def _first_pixel(mask: Tensor) -> tuple[int, int]:
    y, x = mask.nonzero()[0].tolist()
    return x, y


def _with_end(box: Box, height: int, width: int, end: str) -> Box:
    x0, y0, x1, y1 = box
    if end == "inclusive":
        return box
    if end == "exclusive":
        return x0, y0, x1 + 1, y1 + 1
    return x0, y0, min(x1 + 1, width - 1), min(y1 + 1, height - 1)


def _whole(height: int, width: int, end: str) -> Box:
    return _with_end((0, 0, width - 1, height - 1), height, width, end)


def _boxes_tensor(boxes: list, maps: Tensor) -> Tensor:
    return torch.tensor(boxes, dtype=torch.int64, device=maps.device)
