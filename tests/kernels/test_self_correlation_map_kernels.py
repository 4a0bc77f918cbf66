"""The Triton launcher against the reference; interpreted on the CPU where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

import triton.language as tl
from static_evidence import compiled, launches
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle
from wsolfast.kernels import _self_correlation_plan as plan
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
    monkeypatch.setattr(plan, "WHOLE_ROW", 0)
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
    monkeypatch.setattr(plan, "WHOLE_ROW", 0)
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


@pytest.fixture
def bfloat16_products(monkeypatch):
    """Let the interpreter multiply bfloat16's values; by itself it multiplies their bits as integers."""
    product = InterpreterBuilder.create_dot

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype("uint32") << 16).view("float32"), tl.float32)

    monkeypatch.setattr(
        InterpreterBuilder, "create_dot", lambda self, a, b, *rest: product(self, widened(a), widened(b), *rest)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [(8, 8), (7, 11)])
def test_fast_products_of_features_of_16_bits(bfloat16_products, dtype, layout, side):
    """Rows of 64 positions are read 16 values at a time, of 40 channels 8, of 77 positions one by one."""
    features, cam, *options, _ = long_case("v0", side, 40, layers=1, **NO_THRESHOLDS).make_inputs(DEVICE, torch.float32)
    features = [x.to(dtype, memory_format=layout) for x in features]
    maps = launcher.self_correlation_map(features, cam, *options, "fast")
    expected = reference([x.float() for x in features], cam, *options, "fast")
    assert_close(maps, expected, FAST["released"])


@pytest.mark.parametrize("channels_last", [False, True])
def test_rows_too_far_apart_are_copied(monkeypatch, channels_last):
    monkeypatch.setattr(plan, "LARGEST_STRIDE", 20)
    if channels_last:
        close, far = (torch.rand(2, 5, 3, channels).permute(0, 3, 1, 2) for channels in (19, 21))
    else:
        close, far = (torch.rand(4, images, 3, 3).transpose(0, 1) for images in (2, 3))
    assert plan.side_by_side([close]).features[0] is close
    assert plan.side_by_side([far]).features[0] is not far
    assert plan.side_by_side([far]).features[0].equal(far)


def test_layers_of_several_types_and_layouts():
    features, cam, *options, _ = long_case("head", (4, 5), images=2).make_inputs(DEVICE, torch.float32)
    first, second = features[0].half(), features[1].to(memory_format=torch.channels_last)
    maps = launcher.self_correlation_map([first, second], cam, *options, "strict")
    assert_close(maps, reference([first.float(), second], cam, *options, "strict"), STRICT)


def test_layers_of_different_depths():
    """Each program finds its own layer's channels and strides."""
    features = [layer((2, c, 5, 4), DEVICE, torch.float32, seed=c, signed=True) for c in (3, 70, 9)]
    _, cam, *options, _ = long_case("head", (5, 4), images=2).make_inputs(DEVICE, torch.float32)
    maps = launcher.self_correlation_map(features, cam, *options, "strict")
    assert_close(maps, reference(features, cam, *options, "strict"), STRICT)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e30])
def test_features_of_any_size(scale):
    """Norms below 1e-10 shrink a similarity, and squares of 1e30 are infinite."""
    features, cam, *options, _ = long_case("paper", (4, 5), layers=1).make_inputs(DEVICE, torch.float32)
    features[0] *= scale
    maps = launcher.self_correlation_map(features, cam, *options, "strict")
    if scale > 1:
        assert maps.isnan().all()
    elif scale < 1e-20:
        assert not maps.any()
    else:
        assert_close(maps, reference(features, cam, *options, "strict"), STRICT)


NAME = "self_correlation_map_fwd_{}_kernel"


@pytest.mark.parametrize(
    ("variant", "chosen", "kernels"),
    [
        ("head", "whole", ["prepare", "similarity", "whole_rows"]),
        ("head", "stored", ["prepare", "similarity", "totals", "square", "stored_rows", "finish"]),
        ("paper", "streamed", ["prepare", *2 * ["units", "streamed_rows", "streamed_rows"], "finish"]),
    ],
)
def test_launches_of_a_call_with_two_layers(monkeypatch, variant, chosen, kernels):
    features, cam, *options, _ = long_case(variant, (3, 4)).make_inputs(DEVICE, torch.float32)
    monkeypatch.setattr(launcher, "route", lambda *_: chosen)
    with launches() as names:
        launcher.self_correlation_map(features, cam, *options, "fast")
    assert names == [NAME.format(kernel) for kernel in kernels]


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("kernel", ["similarity", "whole_rows", "square", "streamed_rows"])
def test_fast_products_copy_ahead_and_use_what_the_chip_has(kernel, arch):
    for row in compiled(NAME.format(kernel), "fast", arch):
        assert row.async_copies > 0, row
        assert (row.wgmma_instructions if arch == 90 else row.matrix_loads) > 0, row
        # Several products of depth 16 between two waits.
        assert row.tensor_core_instructions >= 2, row


@pytest.mark.parametrize("kernel", ["similarity", "square"])
def test_two_programs_of_fast_products_stand_on_a_multiprocessor(kernel):
    for row in compiled(NAME.format(kernel), "fast"):
        assert row.ctas_per_multiprocessor >= 2, row


@pytest.mark.parametrize("arch", [80, 90])
def test_sixteen_warps_of_rows_stand_on_a_multiprocessor(arch):
    for row in compiled(NAME.format("stored_rows"), "fast", arch) + compiled(NAME.format("whole_rows"), "fast", arch):
        assert row.warps * row.ctas_per_multiprocessor >= 16, row


def test_the_pass_for_the_ranges_of_streamed_rows_makes_one_product():
    """The first pass leaves the similarities out, and two of its programs stand on a multiprocessor."""
    ranges, final = compiled(NAME.format("streamed_rows"), "fast")
    assert ranges.tensor_core_instructions * 4 == final.tensor_core_instructions
    assert ranges.ctas_per_multiprocessor >= 2
