"""Cases of ``non_local_attention``: query [N, D, h, w], key [N, D, h', w'], value [N, C, h', w']."""

import torch

from wsolfast.testing._tools import OpCase, seeded


def maps(n, d, c, positions, keys, device, dtype):
    return (
        seeded((n, d, *positions), device, dtype),
        seeded((n, d, *keys), device, dtype, seed=1),
        seeded((n, c, *keys), device, dtype, seed=2),
    )


def case(name, n, d, c, positions, keys=None, kind="embedded_gaussian", change=None, differentiable=True):
    def make_inputs(device, dtype):
        inputs = maps(n, d, c, positions, keys or positions, device, dtype)
        return (*(change(*inputs) if change else inputs), kind)

    return OpCase(name, make_inputs, differentiable)


def channels_last(*inputs):
    return tuple(x.to(memory_format=torch.channels_last) for x in inputs)


def transposed(*inputs):
    return tuple(x.transpose(2, 3) for x in inputs)


def of_one_projection(query, key, value):
    """Return slices of one buffer, as the non-local block makes them."""
    return torch.cat((query, key, value), dim=1).split([query.shape[1], key.shape[1], value.shape[1]], dim=1)


def expanded(query, key, value):
    return query, key[:, :, :1].expand_as(key), value


def large_scores(query, key, value):
    return 100 * query, 10 * key, value


def nan_key(query, key, value):
    key = key.clone()
    key[0, 0, 0, 0] = torch.nan
    return query, key, value


def nan_query_and_value(query, key, value):
    query, value = query.clone(), value.clone()
    query[0, 1, 1, 1], value[1, 0, 0, 0] = torch.nan, torch.nan
    return query, key, value


def zeros(*inputs):
    return tuple(torch.zeros_like(x) for x in inputs)


CASES = [
    case("few_score_channels", 2, 2, 5, (3, 4)),
    case("few_value_channels", 1, 5, 2, (3, 3)),
    case("sub_sampled_7x7", 2, 3, 4, (7, 7), (3, 3)),
    case("one_key", 2, 3, 4, (2, 5), (1, 1)),
    case("one_by_one", 1, 2, 3, (1, 1)),
    case("one_channel", 1, 1, 1, (2, 3)),
    case("more_keys", 1, 2, 3, (1, 2), (3, 3)),
    case("empty_batch", 0, 2, 3, (2, 2), differentiable=False),
    case("channels_last", 2, 2, 3, (2, 3), change=channels_last),
    case("not_contiguous", 2, 2, 3, (2, 3), change=transposed),
    case("one_projection", 2, 2, 3, (3, 2), change=of_one_projection),
    case("expanded_key", 1, 2, 3, (2, 2), change=expanded, differentiable=False),
    case("zero", 1, 2, 3, (2, 2), change=zeros),
    # Probabilities near 0 and 1 have no finite difference to speak of.
    case("large_scores", 1, 3, 4, (3, 3), change=large_scores, differentiable=False),
    case("nan_key", 2, 2, 3, (2, 2), change=nan_key, differentiable=False),
    case("nan_query_and_value", 2, 2, 3, (2, 2), change=nan_query_and_value, differentiable=False),
    case("dot_reordered", 2, 2, 3, (3, 4), kind="dot_product"),
    case("dot_in_order", 1, 6, 7, (1, 2), kind="dot_product"),
    case("dot_sub_sampled", 1, 2, 3, (5, 4), (2, 2), kind="dot_product"),
    case("dot_one_key", 2, 3, 4, (2, 2), (1, 1), kind="dot_product"),
    case("dot_empty_batch", 0, 2, 3, (2, 2), kind="dot_product", differentiable=False),
    case("dot_channels_last", 2, 2, 3, (2, 3), kind="dot_product", change=channels_last),
    case("dot_nan_query_and_value", 2, 2, 3, (3, 3), None, "dot_product", nan_query_and_value, differentiable=False),
]

CALL = {
    "query": seeded((2, 3, 4, 4)),
    "key": seeded((2, 3, 2, 2), seed=1),
    "value": seeded((2, 5, 2, 2), seed=2),
    "kind": "embedded_gaussian",
}
