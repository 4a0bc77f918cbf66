"""Cases of ``class_head_pool``: features [N, C, h, w], weight [K, C], bias [K]."""

import torch

from wsolfast.testing._tools import OpCase, seeded


def case(name, shape, classes, relu=True, bias=True, change=None, differentiable=True):
    def make_inputs(device, dtype):
        features = seeded(shape, device, dtype)
        weight = seeded((classes, shape[1]), device, dtype, seed=1)
        offsets = seeded((classes,), device, dtype, seed=2) if bias else None
        return change(features) if change else features, weight, offsets, relu

    return OpCase(name, make_inputs, differentiable)


def channels_last(features):
    return features.to(memory_format=torch.channels_last)


def transposed(features):
    return features.transpose(2, 3)


def with_nan(features):
    features = features.clone()
    features[0, 1, 1, 0] = torch.nan
    return features


CASES = [
    case("relu", (2, 3, 3, 4), 5),
    case("relu_no_bias", (2, 3, 3, 4), 5, bias=False),
    case("linear", (2, 3, 3, 4), 5, relu=False),
    case("linear_no_bias", (2, 3, 3, 4), 5, relu=False, bias=False),
    case("blocks_of_classes", (2, 2, 80, 80), 61, differentiable=False),
    case("blocks_of_images", (9, 2, 40, 40), 33, differentiable=False),
    case("one_by_one", (2, 3, 1, 1), 4),
    case("one_class", (2, 3, 2, 2), 1),
    case("one_channel", (1, 1, 2, 3), 3),
    case("empty_batch", (0, 3, 2, 2), 4, differentiable=False),
    case("empty_batch_linear", (0, 3, 2, 2), 4, relu=False, differentiable=False),
    case("channels_last", (2, 3, 2, 3), 4, change=channels_last),
    case("not_contiguous", (2, 3, 4, 2), 4, change=transposed),
    case("zero", (2, 3, 2, 2), 4, change=torch.zeros_like),
    case("constant", (2, 3, 2, 2), 4, change=torch.ones_like),
    case("nan", (2, 3, 2, 2), 4, change=with_nan, differentiable=False),
    case("nan_linear", (2, 3, 2, 2), 4, relu=False, change=with_nan, differentiable=False),
]

CALL = {"features": seeded((2, 3, 4, 5)), "weight": seeded((4, 3)), "bias": seeded((4,)), "relu": True}
