"""Cases of ``restricted_activation_loss``."""

import torch

from wsolfast.testing._tools import OpCase, seeded


def case(name, make_maps, label, tau=0.1, sigma=0.2, statistic="var", normalization="minmax", differentiable=True):
    def make_inputs(device, dtype):
        return make_maps(device, dtype), torch.tensor(label, device=device).long(), tau, sigma, statistic, normalization

    return OpCase(name, make_inputs, differentiable)


def logits(*shape):
    return lambda device, dtype: seeded(shape, device, dtype, seed=3)


def filled(value, *shape):
    return lambda device, dtype: torch.full(shape, value, device=device, dtype=dtype)


def one_nan(device, dtype):
    maps = logits(2, 3, 2, 2)(device, dtype)
    maps[1, 2, 0, 1] = torch.nan
    return maps


def ruled_out_class(device, dtype):
    maps = logits(2, 4, 3, 3)(device, dtype)
    maps[:, 1] = -torch.inf
    return maps


CASES = [
    case("var", logits(2, 5, 4, 3), [4, 0]),
    case("std", logits(2, 5, 4, 3), [1, 1], statistic="std"),
    case("var_raw", logits(2, 5, 4, 3), [0, 2], tau=0.02, sigma=0.01, normalization="none"),
    case("std_raw", logits(2, 5, 4, 3), [0, 2], statistic="std", normalization="none"),
    case("many_positions", logits(1, 3, 13, 11), [2]),
    case("many_classes", logits(1, 67, 3, 3), [66], statistic="std"),
    case("one_class", logits(2, 1, 3, 3), [0, 0]),
    case("one_by_one", logits(2, 3, 1, 1), [0, 2]),
    case("empty_batch", logits(0, 3, 4, 4), [], differentiable=False),
    case("not_contiguous", lambda device, dtype: logits(3, 4, 5, 2)(device, dtype).transpose(0, 3), [3, 0]),
    case(
        "channels_last",
        lambda device, dtype: logits(2, 4, 3, 5)(device, dtype).to(memory_format=torch.channels_last),
        [3, 0],
    ),
    case("constant", filled(0.7, 2, 3, 2, 2), [0, 1], differentiable=False),
    case("zero", filled(0.0, 2, 3, 2, 2), [0, 1], statistic="std", differentiable=False),
    case("one_nan", one_nan, [0, 2], differentiable=False),
    case("ruled_out_class", ruled_out_class, [0, 1], differentiable=False),
]

CALL = {
    "class_maps": seeded((2, 3, 4, 5)),
    "label": torch.tensor([0, 2]),
    "tau": 0.25,
    "sigma": 0.5,
    "statistic": "var",
    "normalization": "minmax",
}
