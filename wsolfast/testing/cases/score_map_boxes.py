"""Cases of ``score_map_boxes``."""

from wsolfast.testing._tools import OpCase
from wsolfast.testing.cases._score_maps import thresholds, ways_of_calling


def case(name, maps, rule, size):
    def make_inputs(device, dtype):
        return maps(device, dtype), thresholds(device), size or [], rule.pack()

    return OpCase(name, make_inputs, differentiable=False)


CASES = [case(name, maps, rule, size) for name, maps, rule, size in ways_of_calling() if rule.selection != "all"]
