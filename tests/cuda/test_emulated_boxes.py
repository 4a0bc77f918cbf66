"""The box kernels give what the CPU engine gives: boxes, lists in order, hits."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from cuda_emulated import H200, ORDERS
from mask_shapes import SHAPES

from wsolfast import ops
from wsolfast.metrics.protocols import PROTOCOLS
from wsolfast.ops import BoxRule
from wsolfast.ops.score_map_boxes import is_in_range
from wsolfast.reference._box_rule import CHOICES
from wsolfast.testing import seeded

pytestmark = pytest.mark.skipif(ops.extension_status() is not None, reason=f"CPU engine: {ops.extension_status()}")

RULES = {
    "contour_area": BoxRule(),
    "all": BoxRule(selection="all"),
    "pixel_area": BoxRule(selection="pixel_area", empty_box="image"),
    "pixel_area_4": BoxRule(selection="pixel_area", connectivity=4, comparison=">="),
    "box_area": BoxRule(selection="box_area", relative=False),
    "union": BoxRule(selection="union", box_end="inclusive"),
    "percentile": BoxRule(percentile=85.0, selection="all"),
    "plain_hits": BoxRule(iou_plus_one=False, hit=">", gt="first"),
} | {name: protocol.rule for name, protocol in PROTOCOLS.items()}
# Little shared memory: planes are read from global memory, runs and components of many cuts do not fit.
SMALL = (3, 2048, 1 << 16)
GRID = torch.arange(11, dtype=torch.float64) / 11
LEVELS = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)


def random_maps(kind, seed, height, width, count=2):
    """In [0, 1]: white noise, few levels (plateaus, ties), points, or blobs with noise."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand((count, height, width), generator=generator, dtype=torch.float64)
    if kind == "few levels":
        return (maps * 4).floor() / 3
    if kind == "points":
        return maps * (torch.rand(maps.shape, generator=generator) < 0.3)
    if kind == "blobs":
        coarse = maps[:, None, : height // 4 + 1, : width // 4 + 1]
        maps = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[:, 0] * 0.9 + maps * 0.1
    return maps


def true_boxes(count, height, width):
    """Image n has n boxes."""
    boxes = [[k, k // 2, max(k, width / (k + 1)), max(k // 2, height - 1.5)] for n in range(count) for k in range(n)]
    offsets = torch.tensor([n * (n - 1) // 2 for n in range(count + 1)])
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), offsets


def assert_equal_to_the_cpu(library, maps, thresholds, rule, limits=H200, size=None):
    """Raw maps go to ``size``: in front of the kernels' boxes, by an op of its own before the CPU engine's."""
    given, in_front, plain = maps, (size or [], rule.pack()), ([], rule.pack())
    if size is not None:
        maps = ops.normalize_score_map(maps, size, rule)
    if rule.selection == "all":
        boxes, offsets = library._score_map_boxes_all(given, thresholds, *in_front, limits=limits)
        expected_boxes, expected_offsets = torch.ops.wsolfast._score_map_boxes_all(maps, thresholds, *plain)
        assert torch.equal(offsets, expected_offsets)
        assert torch.equal(boxes, expected_boxes)
    else:
        boxes = library.score_map_boxes(given, thresholds, *in_front, limits=limits)
        assert torch.equal(boxes, torch.ops.wsolfast.score_map_boxes(maps, thresholds, *plain))
    truths = (thresholds, *true_boxes(*maps.shape), LEVELS)
    hits = library.box_sweep_hits(given, *truths, *in_front, limits=limits)
    assert torch.equal(hits, torch.ops.wsolfast.box_sweep_hits(maps, *truths, *plain))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("kind", ["noise", "few levels", "points", "blobs"])
def test_every_rule_on_random_maps(library, kind, rule):
    sizes = [(1, 1), (1, 37), (40, 1), (7, 9), (33, 31), (18, 65)]
    for seed, (height, width) in enumerate(sizes):
        library.set_order(ORDERS[seed % 3], seed)
        assert_equal_to_the_cpu(library, random_maps(kind, seed, height, width), GRID, rule, (H200, SMALL)[seed % 2])


@pytest.mark.parametrize("selection", ["contour_area", "all"])
@pytest.mark.parametrize("limits", [H200, SMALL], ids=["roomy", "small"])
def test_shapes_with_nested_and_touching_contours(library, selection, limits):
    rule = BoxRule(selection=selection)
    for name, mask in SHAPES.items():
        library.set_order("shuffled", len(name))
        maps = torch.from_numpy(mask.astype(np.float64))[None] / 255
        assert_equal_to_the_cpu(library, torch.cat([maps, maps.flip(1), maps.flip(2)]), GRID[:1], rule, limits)


def raw_maps(seed, h, w):
    """Any values; a constant map, zeros of both signs, and maps that are not finite."""
    maps = 5 * seeded((6, h, w), "cpu", torch.float64, seed) - 1
    maps[1] = 0.3
    maps[2] = torch.where(maps[2] > 0, 0.0, -0.0)
    maps[3, h // 2, w // 2] = float("nan")
    maps[4, 0, 0] = float("inf")
    return maps


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_raw_maps_of_every_rule(library, rule):
    """Resized and normalised in front of the boxes, with no map of that size in between."""
    sizes = [((1, 1), (6, 5)), ((14, 14), (56, 70)), ((3, 5), (40, 1)), ((11, 40), (7, 33)), ((1, 9), (65, 2))]
    for seed, ((h, w), size) in enumerate([*sizes, ((8, 34), (8, 34))]):
        library.set_order(ORDERS[seed % 3], seed)
        size = (h, w) if rule.interpolation == "none" else size
        maps = raw_maps(seed, h, w) if is_in_range(rule) else random_maps("blobs", seed, h, w)
        assert_equal_to_the_cpu(library, maps, GRID, rule, (H200, SMALL)[seed % 2], size)


@pytest.mark.parametrize("quantize", [True, False], ids=["quantised", "values"])
@pytest.mark.parametrize("interpolation", CHOICES["interpolation"])
def test_every_way_of_normalising(library, interpolation, quantize):
    makes = itertools.cycle(
        (lambda maps: maps, lambda maps: maps.float(), lambda maps: (9 * maps).clamp(0, 255).to(torch.uint8))
    )
    for seed, (normalization, first) in enumerate(itertools.product(CHOICES["normalization"], [True, False])):
        if quantize and (normalization in ("none", "min") or (first and interpolation == "cubic")):
            continue
        rule = BoxRule(
            interpolation=interpolation,
            normalization=normalization,
            eps=1e-10,
            normalize_first=first,
            quantize=quantize,
            selection=("contour_area", "all")[seed % 2],
        )
        library.set_order(ORDERS[seed % 3], seed)
        maps = next(makes)(raw_maps(seed, 6, 9)[[0, 1, 2, 5]])
        for size in [(6, 9), (13, 20), (5, 4)] if interpolation != "none" else [(6, 9)]:
            assert_equal_to_the_cpu(library, maps, GRID, rule, size=size)


def test_raw_maps_that_are_in_range_need_no_normalisation(library):
    library.set_order("shuffled", 2)
    for interpolation in ("linear", "linear_corners"):
        rule = BoxRule(interpolation=interpolation, normalization="none")
        assert_equal_to_the_cpu(library, random_maps("few levels", 3, 7, 8), GRID, rule, size=(20, 37))


@pytest.mark.parametrize("first", [False, True], ids=["resized first", "normalised first"])
def test_raw_maps_that_cannot_be_quantised_have_no_boxes(emulated, first):
    """Not scaled at all, or by more than there are numbers; the others of the batch have theirs."""
    maps = random_maps("blobs", 1, 4, 5, count=3)
    maps[1, 2, 2] = 2.0
    plain = BoxRule(interpolation="linear", normalization="none", normalize_first=first)
    found = emulated.score_map_boxes(maps, GRID, (9, 8), plain.pack())
    assert (found[1] == -1).all()
    rest = ops.normalize_score_map(maps[::2], (9, 8), plain)
    assert torch.equal(found[::2], ops.score_map_boxes(rest, GRID, plain).boxes)
    maps[1, 0, 0], maps[1, 3, 4] = -1.5e308, 1.5e308
    scaled = replace(plain, normalization="minmax")
    found = emulated.score_map_boxes(maps, GRID, (4, 5), scaled.pack())
    assert (found[1] == -1).all()
    assert (found[::2] >= 0).all()


def all_masks(step):
    numbers = torch.arange(0, 1 << 16, step)
    return (numbers[:, None] >> torch.arange(16) & 1).reshape(-1, 4, 4).double()


@pytest.mark.parametrize("step", [307, pytest.param(1, marks=pytest.mark.exhaustive)], ids=["a sample", "all"])
@pytest.mark.parametrize("rule", ["contour_area", "all", "box_area", "pixel_area_4"])
def test_masks_of_4x4(library, rule, step):
    library.set_order("shuffled", 5)
    for masks in all_masks(step).split(2000):
        assert_equal_to_the_cpu(library, masks, GRID[:1], RULES[rule])


@pytest.mark.parametrize("selection", ["contour_area", "all"])
def test_quantised_bytes(emulated, selection):
    levels = (random_maps("blobs", 3, 20, 27) * 255).to(torch.uint8)
    assert_equal_to_the_cpu(
        emulated, levels, torch.arange(100, dtype=torch.float64) / 100, BoxRule(selection=selection)
    )


@pytest.mark.parametrize("selection", ["contour_area", "all", "box_area", "union"])
def test_more_cuts_than_a_byte_holds(emulated, selection):
    maps = random_maps("blobs", 2, 8, 9)
    thresholds = torch.cat([torch.arange(300, dtype=torch.float64) / 300, maps.flatten()[:40]])
    assert_equal_to_the_cpu(emulated, maps, thresholds, BoxRule(quantize=False, relative=False, selection=selection))


def test_every_way_of_cutting(library):
    maps = random_maps("few levels", 4, 12, 9, count=4)
    maps[-1] *= 0.3
    switches = itertools.product([True, False], [True, False], [">", ">="], [False, True])
    for seed, (quantize, relative, comparison, mean_cut) in enumerate(switches):
        if quantize and mean_cut:
            continue
        library.set_order("shuffled", seed)
        rule = BoxRule(quantize=quantize, relative=relative, comparison=comparison, mean_cut=mean_cut)
        thresholds = torch.cat([GRID, torch.tensor([-0.5, 1.0, 1.5, 1 / 3, 1 / 3], dtype=torch.float64)])
        assert_equal_to_the_cpu(library, maps, thresholds, rule)


@pytest.mark.parametrize("percentile", [0, 12.5, 50, 90])
def test_every_way_of_cutting_at_a_percentile(library, percentile):
    """Bytes, values that are quantised, and raw maps."""
    for seed, (height, width) in enumerate([(1, 1), (2, 1), (14, 19)]):
        library.set_order(ORDERS[seed], seed)
        rule = BoxRule(percentile=percentile, comparison=(">", ">=")[seed % 2], selection="box_area")
        for kind in ("noise", "few levels", "points"):
            maps = random_maps(kind, seed, height, width)
            assert_equal_to_the_cpu(library, maps, GRID, rule)
            assert_equal_to_the_cpu(library, (maps * 255).to(torch.uint8), GRID, rule)
        assert_equal_to_the_cpu(library, raw_maps(seed, height, width), GRID, rule, size=(height + 3, 37))


def test_every_percentile_is_the_cpus(library):
    """Products with the percentile that its last bit decides; the box around everything tells the cut."""
    library.set_order("shuffled", 1)
    generator = torch.Generator().manual_seed(2)
    levels = torch.randint(0, 256, (1, 1, 300), generator=generator, dtype=torch.uint8).sort().values
    for percentile in torch.rand(20, generator=generator, dtype=torch.float64).mul(100).tolist():
        exact = torch.arange(256, dtype=torch.float64) / float(np.percentile(levels.numpy(), percentile))
        thresholds = torch.cat([exact, torch.nextafter(exact, torch.zeros(1, dtype=torch.float64))])
        assert_equal_to_the_cpu(library, levels, thresholds, BoxRule(percentile=percentile, selection="union"))


def test_maps_that_are_not_finite_without_quantising(library):
    maps = seeded((4, 6, 7), "cpu", torch.float64)
    maps[0, 0, 0], maps[1, 3, 3] = float("nan"), float("nan")
    maps[2, 2, 2], maps[3, 2, 2] = float("inf"), -float("inf")
    for relative in (True, False):
        assert_equal_to_the_cpu(library, maps, GRID, BoxRule(quantize=False, relative=relative))


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan"), float("inf")])
def test_a_map_that_cannot_be_quantised_has_no_boxes(emulated, bad):
    maps = random_maps("blobs", 1, 9, 8, count=3)
    maps[1, 4, 4] = bad
    single = ([], BoxRule().pack())
    boxes = emulated.score_map_boxes(maps, GRID, *single)
    assert (boxes[1] == -1).all()
    assert torch.equal(boxes[::2], torch.ops.wsolfast.score_map_boxes(maps[::2], GRID, *single))
    listed, offsets = emulated._score_map_boxes_all(maps, GRID, [], BoxRule(selection="all").pack())
    assert (listed[offsets[len(GRID)] : offsets[2 * len(GRID)]] == -1).all()
    truths = true_boxes(3, 9, 8)
    zero = torch.zeros(1, dtype=torch.float64)
    assert not emulated.box_sweep_hits(maps, GRID, *truths, zero, *single)[1].any()


def test_offsets_that_do_not_fit_stay_inside_the_boxes(emulated):
    maps = random_maps("blobs", 1, 9, 8, count=3)
    truths, _ = true_boxes(3, 9, 8)
    wrong = torch.tensor([5, -(1 << 40), 1 << 40, 2])
    hits = emulated.box_sweep_hits(maps, GRID, truths, wrong, LEVELS, [], BoxRule().pack())
    assert not hits[[0, 2]].any()


@pytest.mark.parametrize(("height", "width"), [(3, 2048), (2048, 3), (300, 40)])
def test_long_maps(library, height, width):
    library.set_order("ascending")
    assert_equal_to_the_cpu(library, random_maps("blobs", 1, height, width, count=1), GRID[4:7], RULES["contour_area"])


def plan(library, height, width, images, cuts, limits):
    """How the kernels would spread quantised maps over a device."""
    names = ("warps", "chunks", "planes_in_shared", "run_capacity", "item_capacity", "shared_bytes", "slots")
    return library.numbers("plan_boxes", names, height, width, images, cuts, torch.tensor(limits))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (14, 14), (224, 224), (375, 500), (2048, 2048), (16382, 16382)])
@pytest.mark.parametrize("shared", [99 * 1024, 163 * 1024, 227 * 1024], ids=["sm_86", "sm_80", "sm_90"])
def test_plan_fits_the_device(library, height, width, shared):
    for images, cuts in ((1, 1), (1, 255), (128, 255), (50_000, 21)):
        planned = plan(library, height, width, images, cuts, (132, shared, 1 << 27))
        assert 1 <= planned["warps"] <= min(16, cuts)
        assert planned["shared_bytes"] <= shared
        # Of global memory, for what does not fit: no more than can be needed.
        assert 1 <= planned["slots"] <= images * cuts
        assert planned["run_capacity"] >= min(height, 1)
        assert images * planned["chunks"] >= min(264, images * -(-cuts // planned["warps"]))


def test_small_plan_leaves_cuts_over(library):
    """The small plan of the tests above is small: not even a row's worth of runs fits."""
    planned = plan(library, 33, 31, 2, 11, SMALL)
    assert not planned["planes_in_shared"]
    assert planned["run_capacity"] < 150
    assert planned["slots"] >= 1
