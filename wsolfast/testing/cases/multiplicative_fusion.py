"""Cases of ``multiplicative_fusion``: branches [N, C, h_i, w_i], the finest first."""

import torch

from wsolfast.testing._tools import OpCase, seeded

SPOL = ((4, 4), (2, 2), (1, 1))
ODD = ((5, 7), (3, 4), (2, 3))


def case(
    name,
    sizes,
    n=2,
    channels=2,
    align_corners=True,
    reduce="map",
    mode="multiply",
    scale=None,
    shift=None,
    relu=False,
    change=None,
    differentiable=True,
):
    """Return a case; ``scale`` and ``shift`` are shared by "all" images, "own" of each, or None."""

    def vectors(kind, device, dtype, seed):
        shapes = {"all": (len(sizes), channels), "own": (len(sizes), n, channels)}
        return None if kind is None else seeded(shapes[kind], device, dtype, seed)

    def make_inputs(device, dtype):
        branches = [seeded((n, channels, *size), device, dtype, seed=i) for i, size in enumerate(sizes)]
        branches = [change(branch) for branch in branches] if change else branches
        given = vectors(scale, device, dtype, 10), vectors(shift, device, dtype, 11)
        return (branches, *given, relu, align_corners, reduce, mode)

    return OpCase(name, make_inputs, differentiable)


def channels_last(branch):
    return branch.to(memory_format=torch.channels_last)


def last_if_finest(branch):
    return channels_last(branch) if branch.shape[2:] == ODD[0] else branch


def sliced(branch):
    """Return some channels of channels-last maps."""
    return channels_last(torch.cat([branch, branch], 1))[:, : branch.shape[1]]


def transposed(branch):
    return branch.transpose(0, 1)


def with_nan(branch):
    branch = branch.clone()
    branch[0, 1, -1, 0] = torch.nan
    return branch


CASES = [
    case("spol", SPOL),
    case("spol_half_pixel", SPOL, align_corners=False),
    case("spol_mean", SPOL, reduce="mean"),
    case("odd", ODD),
    case("odd_half_pixel", ODD, align_corners=False),
    case("odd_half_pixel_mean", ODD, align_corners=False, reduce="mean"),
    case("real_sizes", ((28, 28), (14, 14), (7, 7)), n=1, differentiable=False),
    case("wide_row", ((2, 37), (2, 5)), n=1),
    case("two_of_one_size", ((3, 5), (3, 5))),
    case("same_height_only", ((3, 5), (3, 2))),
    case("four", ((6, 5), (3, 3), (2, 2), (1, 2)), n=1),
    case("four_half_pixel_mean", ((6, 5), (3, 3), (2, 2), (1, 2)), n=1, align_corners=False, reduce="mean"),
    case("add", ODD, mode="add"),
    case("add_mean", ODD, mode="add", reduce="mean"),
    case("add_half_pixel", ODD, mode="add", align_corners=False),
    case("activated", ODD, scale="all", shift="all", relu=True),
    case("activated_mean", ODD, scale="own", shift="all", relu=True, reduce="mean", align_corners=False),
    case(
        "activated_channels_last",
        ((3, 3), (2, 2)),
        channels=9,
        scale="own",
        shift="own",
        relu=True,
        change=channels_last,
    ),
    case("activated_one_size", ((3, 5), (3, 5)), shift="own", relu=True),
    case("activated_add_mean", ODD, scale="own", relu=True, mode="add", reduce="mean"),
    case("activated_four", ((6, 5), (3, 3), (2, 2), (1, 2)), n=1, scale="all", shift="own", relu=True),
    case("gated", ODD, scale="own"),
    case("shifted_empty_batch", ODD, n=0, shift="own", differentiable=False),
    case("rectified", SPOL, relu=True),
    case("rectified_nan", SPOL, scale="all", relu=True, change=with_nan, differentiable=False),
    case("one_by_one", ((1, 1), (1, 1), (1, 1))),
    case("one_channel", ODD, n=1, channels=1),
    case("empty_batch", ODD, n=0, differentiable=False),
    case("empty_batch_mean", ODD, n=0, reduce="mean", differentiable=False),
    case("no_channels", ODD, channels=0, differentiable=False),
    case("channels_last", ODD, change=channels_last),
    case("channels_last_mean", ODD, change=channels_last, reduce="mean"),
    # More than a tile of the CPU's kernel.
    case("channels_last_many", ODD, n=1, channels=21, change=channels_last, differentiable=False),
    case("first_channels_last", ODD, change=last_if_finest),
    case("sliced_channels_last", ODD, change=sliced),
    case("not_contiguous", ODD, n=2, channels=3, change=transposed),
    case("zero", SPOL, change=torch.zeros_like),
    case("constant", ODD, change=torch.ones_like),
    case("nan", SPOL, change=with_nan, differentiable=False),
    case("nan_mean", ODD, change=with_nan, reduce="mean", differentiable=False),
]

CALL = {
    "features": (seeded((2, 3, 4, 4)), seeded((2, 3, 2, 2), seed=1)),
    "scale": seeded((2, 3)),
    "shift": seeded((2, 3), seed=1),
    "relu": False,
    "align_corners": True,
    "reduce": "map",
    "mode": "multiply",
}
