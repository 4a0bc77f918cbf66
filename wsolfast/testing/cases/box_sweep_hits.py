"""Cases of ``box_sweep_hits``."""

import torch

from wsolfast.ops import BoxRule
from wsolfast.testing._tools import OpCase, seeded
from wsolfast.testing.cases._score_maps import thresholds, ways_of_calling


def case(name, maps, rule, size):
    def make_inputs(device, dtype):
        images = maps(device, dtype)
        height, width = size or images.shape[-2:]
        # Image n has n true boxes: the first none, the second the whole, the third half of it besides, ...
        boxes = [
            [0.0, 0.0, (width - 1) / (k + 1), (height - 1) / (k + 1)] for n in range(len(images)) for k in range(n)
        ]
        offsets = torch.arange(len(images) + 1, device=device) * torch.arange(-1, len(images), device=device) // 2
        return (
            images,
            thresholds(device),
            torch.tensor(boxes, dtype=torch.float64, device=device).reshape(-1, 4),
            offsets,
            torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64, device=device),
            size or [],
            rule.pack(),
        )

    return OpCase(name, make_inputs, differentiable=False)


CASES = [case(*way) for way in ways_of_calling()]

CALL = {
    "maps": seeded((2, 6, 7)).sigmoid(),
    "thresholds": torch.tensor([0.25, 0.5], dtype=torch.float64),
    "gt_boxes": torch.tensor([[0.0, 0.0, 6.0, 5.0], [1.0, 1.0, 7.0, 6.0]], dtype=torch.float64),
    "gt_offsets": torch.tensor([0, 1, 2]),
    "iou_thresholds": torch.tensor([0.5, 0.75], dtype=torch.float64),
    "rule": BoxRule(interpolation="linear"),
    "size": (6, 7),
}
