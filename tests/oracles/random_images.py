"""Random images with true boxes, classes and masks, of several sizes."""

import numpy as np
import torch


def images(count, seed=0, multiple=True):
    """Return arguments of ``BoxAccuracy.update``: maps 7x7, blobs near the first true box."""
    rng = np.random.default_rng(seed)
    sizes = torch.tensor([[(60, 40), (50, 50), (33, 47)][k] for k in rng.integers(0, 3, count)])
    maps, boxes = [], []
    for width, height in sizes.tolist():
        truths = []
        for _ in range(rng.integers(1, 4) if multiple else 1):
            x0, y0 = rng.integers(0, width - 8), rng.integers(0, height - 8)
            truths.append([x0, y0, rng.integers(x0 + 4, width + 1), rng.integers(y0 + 4, height + 1)])
        boxes.append(torch.tensor(truths, dtype=torch.float64))
        x0, y0, x1, y1 = truths[0]
        across = ((np.arange(7) + 0.5) / 7 * width - (x0 + x1) / 2) / (x1 - x0)
        down = ((np.arange(7) + 0.5) / 7 * height - (y0 + y1) / 2) / (y1 - y0)
        maps.append(np.exp(-3 * (across**2 + down[:, None] ** 2)) + 0.3 * rng.random((7, 7)))
    label = torch.from_numpy(rng.integers(0, 7, count))
    topk = torch.from_numpy(np.stack([rng.permutation(7)[:5] for _ in range(count)]))
    return torch.from_numpy(np.stack(maps)).float(), sizes, boxes, label, topk


def masks(sizes, boxes, seed=0):
    """Return a mask per image: the boxes are objects, a strip is ignored."""
    made = []
    for (width, height), truths in zip(sizes.tolist(), boxes, strict=True):
        mask = torch.zeros(height, width, dtype=torch.uint8)
        for x0, y0, x1, y1 in truths.int().tolist():
            mask[y0:y1, x0:x1] = 1
        mask[:2][mask[:2] == 0] = 255
        made.append(mask)
    return made


def part(arguments, index):
    """Return the images at ``index`` of the arguments."""
    return tuple(
        argument[index] if isinstance(argument, torch.Tensor) else [argument[k] for k in index]
        for argument in arguments
    )
