"""Cases of ``co_supervised_loss``."""

import torch

from wsolfast.testing._tools import OpCase, seeded


def case(name, make_vectors, label, gamma=0.7, delta=1.9, eps=1e-3, reduction="mean", differentiable=True):
    def make_inputs(device, dtype):
        return make_vectors(device, dtype), torch.tensor(label, device=device).long(), gamma, delta, eps, reduction

    return OpCase(name, make_inputs, differentiable)


def normal(*shape):
    return lambda device, dtype: seeded(shape, device, dtype, seed=5)


def equal_objects(device, dtype):
    vectors = normal(4, 3, 5)(device, dtype)
    vectors[2] = vectors[0]
    vectors[3, 1] = vectors[3, 2]
    return vectors


def one_nan(device, dtype):
    vectors = normal(3, 3, 4)(device, dtype)
    vectors[1, 0, 2] = torch.nan
    return vectors


CASES = [
    case("mean", normal(5, 3, 6), [0, 1, 0, 2, 1]),
    case("sum", normal(5, 3, 6), [0, 1, 0, 2, 1], reduction="sum"),
    case("defaults", normal(4, 3, 3), [7, 7, -1, 7], 1.0, 1.0, 1e-6, "sum"),
    case("one_class", normal(4, 3, 5), [2, 2, 2, 2]),
    case("all_different", normal(4, 3, 5), [0, 1, 2, 3]),
    case("one_element", normal(3, 3, 1), [0, 0, 1]),
    case("only_backgrounds", normal(3, 3, 4), [0, 0, 1], delta=0.0),
    case("no_backgrounds", normal(3, 3, 4), [0, 0, 1], gamma=0.0),
    case("more_than_a_tile", normal(11, 3, 2), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]),
    case("large_classes", normal(3, 3, 4), [2**40, 2**40 + 1, 2**40]),
    case(
        "not_contiguous", lambda device, dtype: normal(3, 4, 5)(device, dtype).transpose(0, 1)[:, :, ::2], [0, 0, 1, 1]
    ),
    case("parts_first", lambda device, dtype: normal(3, 4, 5)(device, dtype).transpose(0, 1), [0, 0, 1, 1]),
    case("one_image", normal(1, 3, 4), [3]),
    case("empty_batch", normal(0, 3, 4), [], differentiable=False),
    case("no_elements", normal(2, 3, 0), [0, 1], differentiable=False),
    case("equal_objects", equal_objects, [0, 1, 0, 1], differentiable=False),
    case("zero", lambda device, dtype: 0 * normal(3, 3, 4)(device, dtype), [0, 0, 1], differentiable=False),
    case("one_nan", one_nan, [0, 0, 1], differentiable=False),
]

CALL = {
    "vectors": seeded((3, 3, 4)),
    "label": torch.tensor([0, 1, 0]),
    "gamma": 0.5,
    "delta": 2.0,
    "eps": 1e-3,
    "reduction": "mean",
}
