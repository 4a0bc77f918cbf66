"""Cases of ``context_pool_update``."""

import torch

from wsolfast.testing._tools import OpCase, seeded


def case(name, make_maps, make_cam, classes, rate=0.1, eps=1e-5, touched_only=False):
    def make_inputs(device, dtype):
        seen = torch.tensor(classes, device=device).long()
        return make_maps(device, dtype), seen, make_cam(device, dtype), rate, eps, touched_only

    return OpCase(name, make_inputs, differentiable=False)


def normal(*shape, seed=0):
    return lambda device, dtype: seeded(shape, device, dtype, seed=seed)


def filled(value, *shape):
    return lambda device, dtype: torch.full(shape, value, device=device, dtype=dtype)


def one_nan(device, dtype):
    cam = normal(3, 2, 4)(device, dtype)
    cam[1, 0, 2] = torch.nan
    return cam


CASES = [
    case("all", normal(4, 3, 5), normal(5, 3, 5, seed=1), [0, 3, -1, 0, 3]),
    case("touched", normal(4, 3, 5), normal(5, 3, 5, seed=1), [0, 3, -1, 0, 3], touched_only=True),
    case("more_than_a_tile", normal(2, 7, 7), normal(37, 7, 7, seed=1), [n % 3 - 1 for n in range(37)]),
    case("outside", normal(2, 3, 3), normal(3, 3, 3, seed=1), [2, -5, 1]),
    case("first_step", filled(0.0, 3, 4, 4), normal(2, 4, 4, seed=1), [1, 1], rate=0.01),
    case("one_by_one", normal(2, 1, 1), normal(2, 1, 1, seed=1), [0, 1]),
    case("one_class", normal(1, 2, 9), normal(2, 2, 9, seed=1), [0, 0], rate=1.0, eps=1e-3),
    case("empty_batch", normal(3, 4, 4), normal(0, 4, 4), []),
    case("constant", filled(7.0, 2, 3, 3), filled(0.5, 2, 3, 3), [0, 1]),
    case("zero", filled(0.0, 2, 3, 3), filled(0.0, 2, 3, 3), [0, 1]),
    case(
        "not_contiguous",
        lambda device, dtype: normal(5, 4, 3)(device, dtype).transpose(0, 2),
        lambda device, dtype: normal(2, 4, 10, seed=1)(device, dtype)[:, :, ::2],
        [2, 0],
    ),
    case("nan_of_no_class", normal(3, 2, 4), one_nan, [0, -1, 2]),
    case("one_nan", normal(3, 2, 4), one_nan, [0, 1, -1]),
    case("one_nan_touched", normal(3, 2, 4), one_nan, [0, 1, -1], touched_only=True),
]

CALL = {
    "maps": seeded((3, 4, 5)),
    "classes": torch.tensor([0, 2]),
    "cam": seeded((2, 4, 5), seed=1),
    "rate": 0.5,
    "eps": 1e-3,
    "touched_only": False,
}
