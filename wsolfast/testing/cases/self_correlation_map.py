"""Cases of ``self_correlation_map``: smooth features, as neighbouring positions of a network have."""

from typing import Any

import torch
from torch.nn.functional import interpolate

from wsolfast.ops import CorrelationRule
from wsolfast.testing._tools import OpCase, seeded


def layer(shape, device, dtype, seed=0, signed=False):
    """Return features [N, C, h, w] that vary slowly over positions, negatives cut to zero unless ``signed``."""
    n, c, h, w = shape
    coarse = seeded((n, c, (h + 2) // 3, (w + 2) // 3), dtype=torch.float64, seed=seed)
    smooth = interpolate(coarse, size=(h, w), mode="bilinear") if n and h * w else coarse.new_zeros(shape)
    values = smooth + 0.3 * seeded(shape, dtype=torch.float64, seed=seed + 1)
    return (values if signed else values.relu()).to(device, dtype)


def coarse_cam(shape, device, dtype, seed=5):
    """Return maps [N, K, h, w] in [0, 1], a tenth of the positions exactly zero."""
    values = seeded(shape, dtype=torch.float64, seed=seed).sigmoid()
    return torch.where(values < 0.22, 0, values).to(device, dtype)


def case(name, make_inputs, variant="head", precision="strict", **options):
    settings: dict[str, Any] = {
        "delta_h": 0.5,
        "delta_l": 0.3,
        "post": "paper" if variant == "paper" else "released",
        # One value of the cases lies within 1e-6 of 0.5, where rounding would decide on which side.
        "so_th": 0.48 if variant == "v0" else 0.5,
    } | options
    rule = CorrelationRule(variant, **settings)
    return OpCase(
        name,
        lambda device, dtype: (*make_inputs(device, dtype), *rule.codes(), precision),
        differentiable=False,
    )


def two_layers(device, dtype):
    features = [layer((2, 6, 4, 5), device, dtype), layer((2, 9, 4, 5), device, dtype, seed=2)]
    return features, coarse_cam((2, 3, 4, 5), device, dtype)


def few_channels(signed):
    """Make features with P > 2C, where the paper's second order needs no P x P matrix if nothing is cut before it."""

    def make(device, dtype):
        return [layer((1, 3, 5, 7), device, dtype, signed=signed)], coarse_cam((1, 2, 5, 7), device, dtype)

    return make


def many_channels(device, dtype):
    return [layer((2, 40, 3, 5), device, dtype, signed=True)], coarse_cam((2, 2, 3, 5), device, dtype)


def one_by_one(device, dtype):
    return [layer((2, 4, 1, 1), device, dtype) + 1], coarse_cam((2, 1, 1, 1), device, dtype)


def one_channel(device, dtype):
    return [layer((2, 1, 3, 4), device, dtype)], coarse_cam((2, 1, 3, 4), device, dtype)


def empty_batch(device, dtype):
    return [layer((0, 4, 3, 3), device, dtype)], coarse_cam((0, 2, 3, 3), device, dtype)


def no_class(device, dtype):
    return [layer((2, 4, 3, 3), device, dtype)], coarse_cam((2, 0, 3, 3), device, dtype)


def strided(device, dtype):
    features = layer((2, 5, 4, 6), device, dtype).transpose(2, 3)[..., ::2, :]
    return [features], coarse_cam((2, 4, 3, 2), device, dtype).transpose(1, 3)[:, :2, :, :]


def channels_last(device, dtype):
    features, cam = two_layers(device, dtype)
    return [x.to(memory_format=torch.channels_last) for x in features], cam.to(memory_format=torch.channels_last)


def dead_positions(device, dtype):
    features = layer((2, 6, 4, 4), device, dtype)
    features[:, :, 1:3, :2] = 0
    return [features], coarse_cam((2, 2, 4, 4), device, dtype)


def all_zero(device, dtype):
    return [torch.zeros((1, 3, 3, 4), device=device, dtype=dtype)], coarse_cam((1, 2, 3, 4), device, dtype)


def constant(device, dtype):
    return [torch.full((1, 3, 3, 4), 0.5, device=device, dtype=dtype)], coarse_cam((1, 2, 3, 4), device, dtype)


def empty_sets(device, dtype):
    features, cam = two_layers(device, dtype)
    cam = cam.clone()
    cam[0, 0], cam[0, 1], cam[0, 2] = 0, 1, 0.4
    return features, cam


def not_a_number(device, dtype):
    features, cam = two_layers(device, dtype)
    features[1][0, 3, 2, 1] = torch.nan
    cam[1, 2, 0, 0] = torch.nan
    return features, cam


CASES = [
    *(case(f"{variant}_two_layers", two_layers, variant) for variant in ("head", "v0", "paper")),
    *(
        case(f"{variant}_{mode}_only", two_layers, variant, mode=mode)
        for variant in ("head", "v0", "paper")
        for mode in ("first", "second")
    ),
    case("head_with_the_papers_map", two_layers, "head", post="paper"),
    case("paper_with_the_released_map", two_layers, "paper", post="released"),
    *(
        case(f"{variant}_{name}", make, variant)
        for variant in ("head", "v0", "paper")
        for name, make in (
            ("many_channels", many_channels),
            ("dead_positions", dead_positions),
            ("all_zero", all_zero),
            ("one_by_one", one_by_one),
            ("empty_sets", empty_sets),
            ("not_a_number", not_a_number),
        )
    ),
    *(
        case(f"paper_{sign}_few_channels_{order}", few_channels(sign == "signed"), "paper", relu_first=order == "cut")
        for sign in ("positive", "signed")
        for order in ("raw", "cut")
    ),
    case("paper_with_eps", two_layers, "paper", eps=1e-2),
    case("head_few_channels", few_channels(True), "head"),
    case("head_constant", constant, "head"),
    case("head_one_channel", one_channel, "head"),
    case("head_empty_batch", empty_batch, "head"),
    case("head_no_class", no_class, "head"),
    case("head_not_contiguous", strided, "head"),
    case("paper_not_contiguous", strided, "paper"),
    case("head_channels_last", channels_last, "head"),
    case("paper_channels_last", channels_last, "paper"),
]

CALL = {
    "features": (seeded((2, 3, 4, 4)), seeded((2, 5, 4, 4), seed=1)),
    "cam": seeded((2, 1, 4, 4)).sigmoid(),
    "rule": CorrelationRule(),
    "precision": "strict",
}
