"""On a device, the ops over score maps give the CPU kernels' results to the last bit."""

import pytest
import torch

from wsolfast import ops
from wsolfast.metrics import BoxAccuracy
from wsolfast.metrics.functional import box_hits
from wsolfast.metrics.protocols import PROTOCOLS
from wsolfast.ops import BoxRule
from wsolfast.ops.score_map_boxes import is_in_range
from wsolfast.testing import OP_CASES
from wsolfast.testing.cases._score_maps import smooth

pytestmark = pytest.mark.cuda

CASES = [
    pytest.param(op, case, id=f"{op}-{case.name}")
    for op in ("normalize_score_map", "score_map_boxes", "box_sweep_hits", "pixel_histogram")
    for case in OP_CASES[op]
]
RULES = {"multi": BoxRule(selection="all")} | {name: protocol.rule for name, protocol in PROTOCOLS.items()}
GRID = torch.arange(1000, dtype=torch.float64) * 0.001
SIZES = [(224, 224), (375, 500), (1, 700), (700, 1)]


def maps_of(kind, height, width, count=3):
    maps = smooth((count, height, width), "cpu", torch.float64, seed=height)
    if kind == "noise":
        maps = torch.rand((count, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (maps * 5).floor() / 5 if kind == "plateaus" else maps.nan_to_num(0.0)


def truths_of(maps):
    height, width = maps.shape[-2:]
    boxes = torch.tensor([[0, 0, width / 2, height / 2], [width / 3, height / 4, width - 1, height - 1]])
    return boxes.double(), torch.tensor([0, 0, 1, 2])


def on_device(arguments):
    return [x.cuda() if isinstance(x, torch.Tensor) else x for x in arguments]


def same_bits(a, b):
    a, b = (torch.where(x.isnan(), torch.nan, x) if x.is_floating_point() else x for x in (a.cpu(), b))
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize(("op", "case"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_cases(op, case, dtype):
    call = getattr(torch.ops.wsolfast, op)
    inputs = case.make_inputs("cpu", dtype)
    assert same_bits(call(*on_device(inputs)), call(*inputs))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("kind", ["smooth", "plateaus", "noise"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_boxes_and_hits_of_every_rule(size, kind, rule):
    maps = maps_of(kind, *size)
    thresholds = GRID[::37] if kind == "noise" or rule.mean_cut else GRID
    expected = ops.score_map_boxes(maps, thresholds, rule)
    found = ops.score_map_boxes(maps.cuda(), thresholds.cuda(), rule)
    assert torch.equal(found.boxes.cpu(), expected.boxes)
    if rule.selection == "all":
        assert torch.equal(found.offsets.cpu(), expected.offsets)
    levels = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
    arguments = (maps, thresholds, *truths_of(maps), levels)
    assert torch.equal(ops.box_sweep_hits(*on_device(arguments), rule).cpu(), ops.box_sweep_hits(*arguments, rule))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_normalising_gives_the_same_bits(rule):
    maps = maps_of("smooth", 14, 13)
    size = None if rule.interpolation == "none" else (224, 301)
    assert same_bits(ops.normalize_score_map(maps.cuda(), size, rule), ops.normalize_score_map(maps, size, rule))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8], ids=str)
def test_raw_maps_give_the_boxes_of_the_cpu(rule, dtype):
    """Resized and normalised in front of the boxes."""
    maps = maps_of("smooth", 14, 13)
    maps = (200 * maps).to(dtype) if is_in_range(rule) else maps.to(dtype)
    size = (14, 13) if rule.interpolation == "none" else (224, 301)
    thresholds = GRID[::37] if rule.mean_cut else GRID
    expected = ops.score_map_boxes(ops.normalize_score_map(maps, size, rule), thresholds, rule)
    found = ops.score_map_boxes(maps.cuda(), thresholds.cuda(), rule, size=size)
    assert torch.equal(found.boxes.cpu(), expected.boxes)
    levels = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
    arguments = (maps, thresholds, *truths_of(torch.empty(3, *size)), levels)
    expected = ops.box_sweep_hits(*arguments, rule, size=size)
    assert torch.equal(ops.box_sweep_hits(*on_device(arguments), rule, size=size).cpu(), expected)


def test_a_large_noisy_map_goes_through_global_memory():
    maps = maps_of("noise", 1024, 1024, count=1)
    for selection in ("contour_area", "all"):
        rule = BoxRule(selection=selection)
        found = ops.score_map_boxes(maps.cuda(), GRID[300:900:200].cuda(), rule)
        assert torch.equal(found.boxes.cpu(), ops.score_map_boxes(maps, GRID[300:900:200], rule).boxes)


def test_another_stream():
    maps = maps_of("smooth", 64, 64).cuda()
    expected = ops.score_map_boxes(maps, GRID.cuda(), BoxRule()).boxes
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = ops.score_map_boxes(maps, GRID.cuda(), BoxRule()).boxes
    stream.synchronize()
    assert torch.equal(found, expected)


def test_capture_in_a_graph():
    """Raw maps to hits without a host in between; replayed on other maps."""
    coarse, rule = maps_of("smooth", 14, 14).cuda(), BoxRule()
    thresholds, levels = GRID.cuda(), torch.tensor([0.5], dtype=torch.float64, device="cuda")
    truths, offsets = on_device(truths_of(torch.empty(3, 224, 224)))

    def hits():
        return ops.box_sweep_hits(coarse, thresholds, truths, offsets, levels, rule, size=(224, 224))

    hits()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = hits()
    coarse.copy_(maps_of("smooth", 14, 14).flip(1))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, hits())


def test_maps_that_cannot_be_quantised_have_no_boxes():
    """To name them would be to wait for the device; the metrics do where maps are not scaled."""
    assert (ops.score_map_boxes(torch.full((1, 3, 3), 2.0, device="cuda"), GRID.cuda(), BoxRule()).boxes == -1).all()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_counters_are_those_of_the_cpu(name):
    maps, sizes = maps_of("smooth", 14, 13), torch.tensor([[301, 224], [224, 224], [100, 150]])
    truths = [torch.tensor([[10.0, 20, 90, 80]], dtype=torch.float64)] * 3
    label, best = torch.tensor([1, 2, 3]), torch.tensor([[1, 0, 4, 5, 6], [0, 2, 4, 5, 6], [0, 1, 4, 5, 6]])
    accuracy = BoxAccuracy(name, thresholds=[0.1, 0.3, 0.5])
    expected = accuracy.count(maps, sizes, truths, label, best)
    found = accuracy.count(maps.cuda(), sizes, truths, label.cuda(), best.cuda())
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in expected.items()}


def test_metrics_name_a_map_that_is_neither_scaled_nor_finite():
    maps, sizes = torch.full((1, 7, 7), torch.nan, device="cuda"), torch.tensor([[224, 224]])
    with pytest.raises(ValueError, match="metrics: expected finite values, map 0"):
        box_hits(maps, sizes, [torch.tensor([[0.0, 0, 9, 9]])], PROTOCOLS["spol"])


def test_too_many_thresholds_are_an_error():
    thresholds = torch.linspace(0, 1, 70_000, dtype=torch.float64, device="cuda")
    with pytest.raises(Exception, match="at most 65535 thresholds"):
        ops.score_map_boxes(torch.zeros(1, 3, 3, device="cuda"), thresholds, BoxRule(quantize=False))
