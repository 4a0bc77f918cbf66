"""Maps of what looks like the most activated places."""

from typing import Literal

import torch
from torch import Tensor

from wsolfast.backbones import StageInfo
from wsolfast.ops._checks import as_integer, as_tensor
from wsolfast.refinements import Seen, get_refinement

_READ = "features"


def sem(features: Tensor, class_maps: Tensor, *, seeds: int = 60, aggregate: Literal["max", "mean"] = "max") -> Tensor:
    """Return self-enhanced maps: the cosine similarity of every position to the most activated ones, min-max scaled.

    Only similarities to the seeds are computed. Source: SEM (Zhang et al., 2020).

    Args:
        features (Tensor[N, C, h, w]): floating point, what positions are compared by.
        class_maps (Tensor[N, h', w'] or Tensor[N, M, h', w']): such as those of :func:`class_maps`; resized to h × w
            where they differ. The largest values of each are its seeds.
        seeds: of each map; at most all positions.
        aggregate: ``"max"`` over the seeds or their ``"mean"``.

    Returns:
        Tensor[N, h, w] or Tensor[N, M, h, w]: in [0, 1]; a constant map is zero.

    Raises:
        ValueError: if shapes do not fit or an option is out of range.

    Example:

        >>> features = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]).view(1, 2, 2, 2)
        >>> sem(features, torch.tensor([[[0.9, 0.5], [0.2, 0.0]]]), seeds=1)
        tensor([[[1.0000, 0.7071],
                 [0.0000, 0.0000]]])
    """
    features = as_tensor("sem", "features", features)
    maps = as_tensor("sem", "class_maps", class_maps, features)
    fits = features.dim() == 4 and maps.dim() in (3, 4) and len(maps) == len(features)
    if not fits or not features.is_floating_point() or not maps.is_floating_point():
        raise ValueError(
            "sem: expected floating-point features [N, C, h, w] and class_maps [N, h, w] or [N, M, h, w], got "
            f"{features.dtype} {list(features.shape)} and {maps.dtype} {list(maps.shape)}"
        )
    of_classes = maps if maps.dim() == 4 else maps[:, None]
    stage = StageInfo(_READ, features.shape[1], 1)
    enhance = get_refinement("sem")([stage], seeds=as_integer("sem", "seeds", seeds), aggregate=aggregate)
    # Maps stand for their classes, whose numbers nothing asks for.
    numbers = maps.new_zeros(of_classes.shape[:2], dtype=torch.int64)
    found = enhance(Seen(features.shape[2:], {_READ: features}, numbers, maps=of_classes))
    return found if maps.dim() == 4 else found[:, 0]
