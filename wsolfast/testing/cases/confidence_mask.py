"""Cases of ``confidence_mask``: maps of any number of leading dimensions."""

import torch

from wsolfast.testing._tools import OpCase, seeded, with_value


def normal(*shape):
    return lambda device, dtype: seeded(shape, device, dtype, seed=2)


def filled(value, *shape):
    return lambda device, dtype: torch.full(shape, value, device=device, dtype=dtype)


def two_values(device, dtype):
    """Return maps of two values, each of which deviates as much as values do on average, and no more."""
    return torch.tensor([0.1, 0.3]).to(device, dtype).repeat(2, 3, 2)


def spike(device, dtype):
    maps = torch.zeros(1, 6, 5, device=device, dtype=dtype)
    maps[0, 2, 1] = 1
    return maps


def channels_last(device, dtype):
    return normal(2, 3, 4, 5)(device, dtype).to(memory_format=torch.channels_last)


MAPS = {
    "maps": normal(3, 7, 5),
    "many_positions": normal(2, 37, 31),
    "column": normal(3, 9, 1),
    "one_by_one": normal(2, 1, 1),
    "empty_batch": normal(0, 4, 3),
    "not_contiguous": lambda device, dtype: normal(5, 8, 6)(device, dtype).transpose(0, 2)[::2, :, 1:],
    "expanded": lambda device, dtype: normal(1, 4, 3)(device, dtype).expand(3, 4, 3),
    "constant": filled(0.7, 2, 3, 5),
    "zero": filled(0.0, 2, 3, 5),
    "large_offset": lambda device, dtype: normal(2, 6, 4)(device, dtype) + 4096,
    "two_values": two_values,
    "spike": spike,
    "one_nan": with_value(normal(3, 4, 5), (1, 2, 3), torch.nan),
    "one_infinity": with_value(normal(3, 4, 5), (1, 2, 3), -torch.inf),
}


def case(name, make_maps):
    return OpCase(name, lambda device, dtype: (make_maps(device, dtype),), differentiable=False)


CASES = [
    *(case(name, make_maps) for name, make_maps in MAPS.items()),
    case("one_map", normal(6, 4)),
    case("channels_last", channels_last),
    case("no_common_stride", lambda device, dtype: normal(3, 2, 4, 5)(device, dtype).transpose(0, 1)),
]

CALL = {"maps": seeded((2, 4, 5))}
