"""Cases of ``gaussian_prior_labels``: maps [N, h, w]."""

from dataclasses import replace

import torch
from torch.nn.functional import interpolate

from wsolfast.ops.gaussian_prior_labels import GAUSSIAN_PRIORS
from wsolfast.testing._tools import OpCase, seeded

PAPER, RELEASED = GAUSSIAN_PRIORS["paper"], GAUSSIAN_PRIORS["released"]


def blobs(n, h, w, seed=0):
    """Return maps with several peaks, the negative half cut, as a rectified class map."""

    def make(device, dtype):
        coarse = seeded((n, 1, -(-h // 3), -(-w // 3)), device, torch.float64, seed)
        return interpolate(coarse, size=(h, w), mode="bilinear")[:, 0].relu().to(dtype)

    return make


def filled(value, *shape):
    return lambda device, dtype: torch.full(shape, value, device=device, dtype=dtype)


def one_pixel(device, dtype):
    maps = torch.zeros(1, 5, 5, device=device, dtype=dtype)
    maps[0, 2, 3] = 1
    return maps


def one_line(device, dtype):
    maps = torch.zeros(1, 6, 7, device=device, dtype=dtype)
    maps[0, 3] = torch.arange(1, 8, dtype=dtype)
    return maps


def case(name, make_maps, size, prior, change=None):
    def make_inputs(device, dtype):
        maps = make_maps(device, dtype)
        return (change(maps) if change else maps, *size, *prior.codes())

    return OpCase(name, make_inputs, differentiable=False)


CASES = [
    case("paper", blobs(2, 12, 9), (40, 31), PAPER),
    case("released", blobs(3, 12, 9), (60, 71), RELEASED),
    case("released_small_contours", blobs(2, 12, 9), (60, 71), replace(RELEASED, min_area=0.0)),
    case("no_gate", blobs(2, 12, 9), (40, 31), replace(PAPER, gate=None)),
    case("no_gate_released", blobs(2, 12, 9), (40, 31), replace(RELEASED, gate=None)),
    case("cam_only", blobs(2, 12, 9), (40, 31), replace(PAPER, source="cam")),
    case("gaussian_only", blobs(2, 12, 9), (40, 31), replace(PAPER, source="gaussian")),
    case("grid_max", blobs(2, 12, 9), (17, 13), replace(PAPER, norm="grid_max")),
    case("grid_max_released", blobs(3, 12, 9), (60, 71), replace(RELEASED, norm="grid_max", min_area=0.0)),
    case("band", blobs(3, 12, 9), (40, 31), replace(PAPER, weight_low=0.1, weight_high=0.5)),
    case("band_grid_max", blobs(2, 5, 4), (9, 67), replace(PAPER, weight_high=0.7, norm="grid_max", gate=None)),
    case("nothing_in_the_band", filled(2.0, 2, 3, 4), (12, 11), replace(PAPER, weight_high=0.5)),
    case("more_pixels_than_threads", blobs(1, 32, 32), (270, 300), PAPER),
    case("bytes", blobs(2, 12, 9), (40, 31), replace(RELEASED, quantize=True)),
    case("same_size", blobs(2, 20, 17), (20, 17), RELEASED),
    case("smaller", blobs(2, 20, 17), (9, 11), PAPER),
    case("one_by_one", filled(2.0, 2, 1, 1), (1, 1), PAPER),
    case("constant", filled(2.0, 2, 3, 4), (12, 11), PAPER),
    case("constant_outside_the_band", filled(2.0, 2, 3, 4), (12, 11), RELEASED),
    case("one_pixel", one_pixel, (5, 5), PAPER),
    case("one_line", one_line, (6, 7), PAPER),
    case("zero", filled(0.0, 2, 3, 4), (8, 9), PAPER),
    case("zero_is_background", filled(0.0, 2, 3, 4), (8, 9), replace(PAPER, empty="background")),
    case("negative", filled(-1.0, 2, 3, 4), (8, 9), RELEASED),
    case("empty_batch", blobs(1, 4, 4), (8, 8), RELEASED, change=lambda maps: maps[:0]),
    case("not_contiguous", blobs(2, 12, 9), (40, 31), RELEASED, change=lambda maps: maps.transpose(1, 2)),
]

CALL = {"cam": seeded((2, 4, 5)).sigmoid(), "size": (8, 8), "prior": "paper"}
