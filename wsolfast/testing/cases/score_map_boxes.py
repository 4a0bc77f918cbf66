"""Cases of ``score_map_boxes``."""

from wsolfast.testing._tools import OpCase
from wsolfast.testing.cases._score_maps import MAPS, RULES, thresholds


def case(maps, rule):
    def make_inputs(device, dtype):
        return MAPS[maps](device, dtype), thresholds(device), *RULES[rule].box_codes()

    return OpCase(f"{maps}_{rule}", make_inputs, differentiable=False)


CASES = [
    case(maps, rule)
    for maps in MAPS
    for rule in RULES
    if rule != "multi" and (maps != "levels" or RULES[rule].quantize)
]
