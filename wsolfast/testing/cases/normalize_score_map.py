"""Cases of ``normalize_score_map``."""

import torch

from wsolfast.ops import BoxRule
from wsolfast.testing._tools import OpCase, seeded


def case(name, make, size, **switches):
    rule = BoxRule(quantize=False, **switches)
    return OpCase(name, lambda device, dtype: (make(device, dtype), size, rule.pack()), differentiable=False)


def maps(*shape):
    return lambda device, dtype: seeded(shape, device, dtype)


def filled(value):
    return lambda device, dtype: torch.full((2, 3, 4), value, device=device, dtype=dtype)


def one_bad(value):
    return lambda device, dtype: torch.tensor([[[0.0, value]], [[1.0, 2.0]]], device=device, dtype=dtype)


CASES = [
    case("cubic_up", maps(2, 4, 5), (11, 9)),
    case("cubic_down", maps(2, 9, 8), (4, 5)),
    case("cubic_same", maps(2, 6, 6), (6, 6)),
    case("linear_up", maps(2, 4, 5), (9, 13), interpolation="linear", normalization="minmax_eps", eps=1e-10),
    case("linear_corners", maps(2, 4, 5), (9, 1), interpolation="linear_corners", normalization="max"),
    case("normalize_first", maps(2, 4, 5), (9, 7), interpolation="linear", normalize_first=True),
    case("shift_only", maps(2, 4, 5), (8, 10), interpolation="linear", normalization="min", normalize_first=True),
    case("as_it_is", maps(2, 4, 5), (4, 5), interpolation="none", normalization="none"),
    case("one_pixel", maps(3, 1, 1), (4, 4)),
    case("empty_batch", maps(0, 4, 4), (8, 8)),
    case("not_contiguous", lambda device, dtype: seeded((6, 5, 3), device, dtype).permute(2, 1, 0), (7, 8)),
    case("constant", filled(0.7), (6, 8)),
    case("negative_with_max", filled(-1.0), (3, 4), interpolation="none", normalization="max"),
    case("one_nan", one_bad(float("nan")), (2, 4)),
    case("one_infinite", one_bad(float("inf")), (1, 2), interpolation="none"),
]

CALL = {"maps": seeded((2, 4, 5)), "size": (8, 8), "rule": BoxRule(interpolation="linear")}
