"""The Triton launcher against the reference; interpreted on the CPU where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from wsolfast.kernels import self_correlation_map as launcher

from wsolfast.reference.self_correlation_map import self_correlation_map as reference
from wsolfast.testing import OP_CASES, assert_close, tolerance_on
from wsolfast.testing.cases.self_correlation_map import case, coarse_cam, layer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = {case.name: case for case in OP_CASES["self_correlation_map"]}
# Strict products keep float32's digits; scaling the difference of two sums to [0, 1] costs the rest.
STRICT = tolerance_on(DEVICE, "self_correlation_map", torch.float32)
# Operands rounded to 11 bits: 5e-4 each, and a released map is a small difference scaled to [0, 1].
FAST = {"paper": 3e-3, "released": 6e-3}
# Rounding moves values across a threshold; the strict products test those.
NO_THRESHOLDS = {"fo_th": 0.0, "so_th": 0.0}


def check(case, dtype=torch.float32, precision="strict", tolerance=STRICT):
    expected = reference(*case.make_inputs("cpu", dtype))
    features, cam, *options, _ = case.make_inputs(DEVICE, dtype)
    maps = launcher.self_correlation_map(features, cam, *options, precision)
    assert maps.is_contiguous()
    assert maps.dtype == dtype
    assert_close(maps.cpu(), expected, tolerance)


@pytest.fixture
def stored_rows(monkeypatch):
    """Rows of any length take the route of long ones, in several chunks of rows and images."""
    monkeypatch.setattr(launcher, "WHOLE_ROW", 0)
    monkeypatch.setattr(launcher, "CHUNK_BYTES", 1)
    monkeypatch.setattr(launcher, "PRODUCT_BYTES", 1)


@pytest.mark.parametrize("name", CASES)
def test_whole_rows(name):
    check(CASES[name])


def long_case(variant, side=(7, 11), channels=9, images=1, layers=2, **options):
    """77 positions are two tiles of rows and, with the tiles of float32, two of columns."""

    def make(device, dtype):
        features = [layer((images, channels, *side), device, dtype, seed, signed=seed > 0) for seed in (0, 4)[:layers]]
        return features, coarse_cam((images, 2, *side), device, dtype)

    return case(f"{variant}_{side}", make, variant, **options)


VARIANTS = ("head", "v0", "paper")
ORDERS = [(variant, mode) for variant in VARIANTS for mode in ("max", "first", "second")]


@pytest.mark.parametrize(("variant", "mode"), ORDERS)
def test_several_tiles_of_whole_rows(variant, mode):
    check(long_case(variant, mode=mode))


@pytest.mark.parametrize(("variant", "mode"), ORDERS)
def test_stored_rows(stored_rows, variant, mode):
    check(long_case(variant, mode=mode))


@pytest.mark.parametrize("post", ["paper", "released"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_stored_rows_in_either_form_of_the_map(stored_rows, variant, post):
    check(long_case(variant, side=(4, 5), images=2, layers=1, post=post))


@pytest.mark.parametrize("name", ["empty_sets", "not_a_number", "dead_positions", "all_zero", "one_by_one"])
@pytest.mark.parametrize("variant", ["head", "paper"])
def test_stored_rows_of_degenerate_maps(stored_rows, variant, name):
    check(CASES[f"{variant}_{name}"])


@pytest.mark.parametrize("name", ["head_not_contiguous", "paper_with_eps", "head_channels_last", "head_constant"])
def test_stored_rows_of_odd_inputs(stored_rows, name):
    check(CASES[name])


@pytest.fixture
def streamed_rows(monkeypatch):
    monkeypatch.setattr(launcher, "WHOLE_ROW", 0)
    monkeypatch.setattr(launcher, "CHUNK_BYTES", 1)


def few_channels(mode, **options):
    """143 positions are three tiles of rows and columns, more than twice as many as channels."""
    return long_case("paper", side=(11, 13), channels=5, mode=mode, **options)


@pytest.mark.parametrize("mode", ["max", "first", "second"])
@pytest.mark.parametrize("precision", ["strict", "fast"])
def test_streamed_rows(streamed_rows, mode, precision):
    check(few_channels(mode), precision=precision, tolerance=STRICT if precision == "strict" else FAST["paper"])


@pytest.mark.parametrize(
    "name",
    [
        "empty_sets",
        "not_a_number",
        "dead_positions",
        "all_zero",
        "with_eps",
        "channels_last",
        "signed_few_channels_raw",
    ],
)
def test_streamed_rows_of_odd_inputs(monkeypatch, streamed_rows, name):
    monkeypatch.setattr(launcher, "route", lambda *_: "streamed")
    check(CASES[f"paper_{name}"])


def test_streamed_rows_in_double_precision(streamed_rows):
    check(few_channels("max", layers=1), torch.float64, tolerance=1e-8)


def chosen_route(channels, positions, variant, tiles=launcher.STRICT, relu_first=False, post="paper"):
    options = launcher.Options(variant, relu_first, 0.2, 0.2, 1.0, "max", 0.1, 0.05, post, 0.0)
    return launcher.route(channels, positions, options, tiles)


@pytest.mark.parametrize("variant", VARIANTS)
def test_route_by_size(variant):
    assert chosen_route(512, 196, variant) == chosen_route(16, 256, variant) == "whole"
    assert chosen_route(512, 257, variant) == chosen_route(392, 784, variant) == "stored"
    assert chosen_route(391, 784, variant) == ("streamed" if variant == "paper" else "stored")


def test_route_that_needs_more_than_sums_of_products():
    assert chosen_route(256, 3136, "paper") == "streamed"
    assert chosen_route(256, 3136, "paper", relu_first=True) == "stored"
    assert chosen_route(256, 3136, "paper", post="released") == "stored"
    assert chosen_route(256, 1 << 15, "paper", launcher.FAST) == "streamed"
    assert chosen_route(256, (1 << 15) + 1, "paper", launcher.FAST) == "stored"
    assert chosen_route(512, 196, "head", launcher.DOUBLE) == "stored"


@pytest.mark.parametrize("side", [(1, 7), (7, 7), (14, 14), (16, 16), (13, 20)])
def test_sizes_of_networks(side):
    """One column of tiles, a padded row, a full one, and one too long for the registers."""
    check(long_case("head", side, channels=5, layers=1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_double_precision(variant):
    # Thresholds reach interpreted kernels as float64, the epsilons as float32 constants.
    check(long_case(variant, side=(4, 5)), torch.float64, tolerance=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("post", ["paper", "released"])
def test_fast_products(variant, post):
    check(long_case(variant, channels=40, post=post, **NO_THRESHOLDS), precision="fast", tolerance=FAST[post])


@pytest.mark.parametrize("variant", VARIANTS)
def test_fast_products_of_stored_rows(stored_rows, variant):
    post = "paper" if variant == "paper" else "released"
    check(long_case(variant, channels=40, **NO_THRESHOLDS), precision="fast", tolerance=FAST[post])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_16_bits_are_read_as_they_are(dtype):
    features, cam, *options, _ = long_case("head", side=(5, 4)).make_inputs(DEVICE, torch.float32)
    rounded = [features[0].to(dtype), features[1].to(dtype)]
    maps = launcher.self_correlation_map(rounded, cam, *options, "strict")
    assert_close(maps, launcher.self_correlation_map([x.float() for x in rounded], cam, *options, "strict"), 0.0)


@pytest.mark.parametrize("share", ["all", "none", "one"])
def test_sets_of_every_size(share):
    features, cam, *options, _ = long_case("head").make_inputs(DEVICE, torch.float32)
    cam = torch.full_like(cam, 0.9 if share == "all" else 0.4)
    if share == "one":
        cam[:, 0, 3, 2] = 1
    maps = launcher.self_correlation_map(features, cam, *options, "strict")
    assert_close(maps, reference(features, cam, *options, "strict"), STRICT)
    assert maps.any() == (share != "none")


def test_maps_do_not_depend_on_the_other_images():
    features, cam, *options, _ = long_case("head", side=(4, 5), images=3).make_inputs(DEVICE, torch.float32)
    together = launcher.self_correlation_map(features, cam, *options, "strict")
    alone = launcher.self_correlation_map([x[1:2] for x in features], cam[1:2], *options, "strict")
    assert torch.equal(together[1:2], alone)
