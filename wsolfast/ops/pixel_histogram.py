"""Histograms of scores on object and background pixels: all that pixel metrics need of a data set."""

import torch
from torch import Tensor

from wsolfast.ops._checks import as_mask, as_tensor, as_vector
from wsolfast.ops._registry import define_op
from wsolfast.ops.normalize_score_map import check_maps
from wsolfast.ops.score_map_boxes import check_values, values_can_be_read
from wsolfast.reference import pixel_histogram as reference


def _fake(maps: Tensor, masks: Tensor, edges: Tensor) -> Tensor:
    return maps.new_empty((2, edges.shape[0] - 1), dtype=torch.int64)


_OP = define_op(
    "pixel_histogram",
    reference=reference.pixel_histogram,
    fake=_fake,
)


def pixel_histogram(maps: Tensor, masks: Tensor, edges: Tensor) -> Tensor:
    """Count scores between edges, apart for background and object, over all pixels of a batch.

    Source: wsolevaluation's PxAP: ``numpy.histogram`` with explicit edges. A score on an edge belongs to the bin that
    starts there; the last bin holds its upper edge too; scores outside the edges are not counted.

    Args:
        maps (Tensor[N, H, W]): floating point or uint8, finite, any stride; compared with the edges in float64.
        masks (Tensor[N, H, W]): integers: 0 background, 1 object, 255 ignored (as is any other value); or bool.
        edges (Tensor[B + 1]): not decreasing; compared in float64.

    Returns:
        Tensor[2, B]: int64; row 0 counts background, row 1 object pixels.

    Raises:
        ValueError: if shapes or dtypes do not fit, and on a CPU if a score is not finite or the edges decrease. On a
            GPU, where that would be to wait for it, such a score is not counted.

    Backends: CPU (C++), CUDA (C++), elsewhere the reference. Not differentiable. Deterministic, exact.

    Example:
        >>> maps = torch.tensor([[[0.1, 0.2, 0.6, 0.9]]])
        >>> masks = torch.tensor([[[0, 1, 1, 255]]], dtype=torch.uint8)
        >>> pixel_histogram(maps, masks, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
        tensor([[1, 0],
                [1, 1]])
    """
    maps = as_tensor("pixel_histogram", "maps", maps)
    check_maps("pixel_histogram", maps)
    masks = as_mask("pixel_histogram", "masks", masks, maps)
    if masks.shape != maps.shape:
        raise ValueError(
            f"pixel_histogram: expected masks of the maps' shape {list(maps.shape)}, got {list(masks.shape)}"
        )
    edges = as_vector("pixel_histogram", "edges", edges, maps)
    if edges.shape[0] < 2:
        raise ValueError(f"pixel_histogram: expected at least two edges, got {edges.shape[0]}")
    if maps.dtype not in (torch.uint8, torch.float32, torch.float64):
        maps = maps.double()
    if values_can_be_read(maps):
        check_values("pixel_histogram", maps, None)
        if not ((edges.diff() >= 0).all() and edges.isfinite().all()):
            raise ValueError("pixel_histogram: edges must be finite and not decreasing")
    return _OP(maps.detach(), masks, edges.detach())
