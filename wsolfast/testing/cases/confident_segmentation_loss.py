"""Cases of ``confident_segmentation_loss``: every kind of late map with early ones like it."""

import torch

from wsolfast.testing._tools import OpCase, seeded
from wsolfast.testing.cases.confidence_mask import MAPS, channels_last

# Where the loss has no derivative, or nothing to derive.
NOT_DIFFERENTIABLE = {"empty_batch", "constant", "zero", "expanded", "two_values", "spike", "one_nan", "one_infinity"}


def case(name, make_late, make_early=None, weight=0.3):
    def make_inputs(device, dtype):
        late = make_late(device, dtype)
        early = make_early(device, dtype) if make_early else seeded(tuple(late.shape), device, dtype, seed=7)
        return late, early, weight

    return OpCase(name, make_inputs, differentiable=name not in NOT_DIFFERENTIABLE)


def normal(device, dtype):
    return MAPS["maps"](device, dtype)


def with_nan(device, dtype):
    early = seeded((3, 7, 5), device, dtype, seed=7)
    early[2, 0, 4] = torch.nan
    return early


CASES = [
    *(case(name, make_late) for name, make_late in MAPS.items()),
    case(
        "early_not_contiguous", normal, lambda device, dtype: seeded((5, 7, 3), device, dtype, seed=7).transpose(0, 2)
    ),
    case("a_class_of_channels_last", *(lambda device, dtype, c=c: channels_last(device, dtype)[:, c] for c in (0, 2))),
    OpCase("equal", lambda device, dtype: (normal(device, dtype), normal(device, dtype), 1.0), differentiable=False),
    OpCase("early_nan", lambda device, dtype: (normal(device, dtype), with_nan(device, dtype), 1.0), False),
]

CALL = {
    "late": seeded((2, 4, 5)),
    "early": seeded((2, 4, 5), seed=1),
    "detach_teacher": True,
    "reduction": "sum",
}
