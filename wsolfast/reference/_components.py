"""Connected components of a mask."""

import torch
from torch import Tensor


def label_components(mask: Tensor, connectivity: int) -> tuple[Tensor, int]:
    """Number components from 1 in raster order of their first pixels, by union-find over the runs of each row."""
    height, width = mask.shape
    steps = torch.nn.functional.pad(mask.to(torch.int8), (1, 1)).diff(dim=1)
    starts = (steps == 1).nonzero().tolist()
    ends = (steps == -1).nonzero()[:, 1].tolist()
    parent = list(range(len(starts)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    reach = 1 if connectivity == 8 else 0
    above = 0
    for k, (y, x0) in enumerate(starts):
        while starts[above][0] < y - 1 or (starts[above][0] == y - 1 and ends[above] + reach <= x0):
            above += 1
        j = above
        while starts[j][0] == y - 1 and starts[j][1] < ends[k] + reach:
            low, high = sorted((root(j), root(k)))
            parent[high] = low
            j += 1
    numbers: dict[int, int] = {}
    labels = torch.zeros(height, width, dtype=torch.int64)
    for k, (y, x0) in enumerate(starts):
        labels[y, x0 : ends[k]] = numbers.setdefault(root(k), len(numbers) + 1)
    return labels, len(numbers)
