"""Cases of ``min_max_normalize``."""

import torch

from wsolfast.testing._tools import OpCase, seeded


def case(name, make, eps=0.0, differentiable=True):
    return OpCase(name, lambda device, dtype: (make(device, dtype), eps), differentiable)


CASES = [
    case("two_maps", lambda device, dtype: seeded((2, 5, 7), device, dtype)),
    case("with_eps", lambda device, dtype: seeded((3, 2, 4, 3), device, dtype), eps=1e-2),
    case("one_by_one", lambda device, dtype: seeded((2, 1, 1), device, dtype), differentiable=False),
    case("empty_batch", lambda device, dtype: seeded((0, 4, 4), device, dtype), differentiable=False),
    case("not_contiguous", lambda device, dtype: seeded((6, 4, 5), device, dtype).transpose(0, 2)),
    case(
        "channels_last",
        lambda device, dtype: seeded((2, 3, 4, 5), device, dtype).to(memory_format=torch.channels_last),
    ),
    case(
        "constant",
        lambda device, dtype: torch.full((2, 3, 3), 0.7, device=device, dtype=dtype),
        differentiable=False,
    ),
    case("zero", lambda device, dtype: torch.zeros((2, 3, 3), device=device, dtype=dtype), differentiable=False),
    case(
        "one_nan",
        lambda device, dtype: torch.tensor([[[0.0, float("nan")]], [[1.0, 2.0]]], device=device, dtype=dtype),
        differentiable=False,
    ),
]

CALL = {"maps": seeded((2, 4, 5)), "eps": 0.5}
