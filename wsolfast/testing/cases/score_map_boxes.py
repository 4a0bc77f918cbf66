"""Cases of ``score_map_boxes``."""

import torch

from wsolfast.ops import BoxRule
from wsolfast.testing._tools import OpCase, seeded
from wsolfast.testing.cases._score_maps import thresholds, ways_of_calling


def case(name, maps, rule, size):
    def make_inputs(device, dtype):
        return maps(device, dtype), thresholds(device), size or [], rule.pack()

    return OpCase(name, make_inputs, differentiable=False)


CASES = [case(name, maps, rule, size) for name, maps, rule, size in ways_of_calling() if rule.selection != "all"]

CALL = {
    "maps": seeded((2, 6, 7)).sigmoid(),
    "thresholds": torch.tensor([0.25, 0.5], dtype=torch.float64),
    "rule": BoxRule(interpolation="linear"),
    "size": (8, 8),
}
