"""Metrics of arrays, lists, numbers and things that are no numbers at all."""

import json

import numpy as np
import pytest
import torch
from oracles.random_images import images, masks
from torch import Tensor

from wsolfast import interop, metrics
from wsolfast.metrics import functional, get_protocol
from wsolfast.testing import seeded

MAPS, SIZES, BOXES, LABEL, TOPK = images(3, seed=5)
ALL = {"score_maps": MAPS, "image_sizes": SIZES, "gt_boxes": BOXES}
CLASSES = {"label": LABEL, "topk_classes": TOPK}
MASKS = masks(SIZES, BOXES)
SPA = get_protocol("spa")
CUTS = torch.tensor([0.125, 0.5], dtype=torch.float64)
LEVELS = torch.tensor([0.5, 0.75], dtype=torch.float64)
FIRST = torch.stack([boxes[0] for boxes in BOXES])
HISTOGRAM = torch.tensor([[3, 1, 0], [0, 4, 2]])


def counted(kind, method="update", **options):
    """Return the results of an accumulator after one call of its method."""

    def run(**call):
        metric = getattr(metrics, kind)(**options)
        getattr(metric, method)(**call)
        return json.loads(json.dumps(metric.compute()))

    return run


# By name: what runs, and the arguments of one call; ``protocol`` and other records stand as they are.
CALLS = {
    "BoxAccuracy": (counted("BoxAccuracy", protocol="spa"), ALL | CLASSES),
    "BoxAccuracy.update_boxes": (
        counted("BoxAccuracy", "update_boxes", protocol="spa"),
        {"boxes": FIRST + 1, "gt_boxes": BOXES} | CLASSES,
    ),
    "ErrorSplit": (counted("ErrorSplit"), ALL | CLASSES),
    "ErrorSplit.update_kinds": (
        counted("ErrorSplit", "update_kinds", thresholds=CUTS),
        {"kinds": torch.tensor([[0, 1], [2, 3], [4, 5]])},
    ),
    "PixelAccuracy": (counted("PixelAccuracy", size=16), {"score_maps": MAPS, "masks": MASKS}),
    "box_iou": (metrics.box_iou, {"boxes": FIRST, "gt_boxes": FIRST + 2}),
    "center_box": (metrics.center_box, {"image_sizes": SIZES, "fraction": 0.5}),
    "center_gaussian": (metrics.center_gaussian, {"size": (6, 6), "sigma": 0.5}),
    "is_constant": (metrics.is_constant, {"score_maps": MAPS}),
    "mask_overlaps": (metrics.mask_overlaps, {"score_maps": MAPS, "masks": MASKS, "threshold": 0.5, "size": 16}),
    "box_hits": (
        functional.box_hits,
        ALL | {"protocol": SPA, "thresholds": CUTS, "iou_thresholds": LEVELS},
    ),
    "best_overlaps": (functional.best_overlaps, ALL | {"protocol": SPA, "thresholds": CUTS}),
    "predicted_boxes": (
        functional.predicted_boxes,
        {"score_maps": MAPS, "image_sizes": SIZES, "protocol": SPA, "threshold": 0.5},
    ),
    "predicted_masks": (
        functional.predicted_masks,
        {"score_maps": MAPS, "image_sizes": SIZES, "protocol": SPA, "threshold": 0.5},
    ),
    "error_kinds": (
        functional.error_kinds,
        ALL | {"class_is_right": torch.tensor([True, False, True]), "protocol": SPA, "thresholds": CUTS},
    ),
    "given_box_hits": (
        functional.given_box_hits,
        {"boxes": FIRST + 1, "gt_boxes": BOXES, "rule": SPA.rule, "iou_thresholds": LEVELS},
    ),
    "px_ap": (functional.px_ap, {"histogram": HISTOGRAM}),
    "mask_iou_curve": (functional.mask_iou_curve, {"histogram": HISTOGRAM}),
    "class_maps": (
        interop.class_maps,
        {"features": seeded((2, 3, 2, 4)), "weight": seeded((5, 3)), "classes": torch.tensor([1, 4])},
    ),
    "tokens_to_map": (interop.tokens_to_map, {"tokens": seeded((2, 5, 3)), "grid": (2, 2)}),
}


def test_no_public_metric_is_missing_here():
    records = {"METRICS_VERSION", "PROTOCOLS", "GivenBoxes", "Protocol", "get_protocol"}
    assert set(metrics.__all__) - records <= set(CALLS)
    assert {"class_maps", "tokens_to_map"} <= set(CALLS)


def run(name, change=None):
    function, call = CALLS[name]
    return function(**(call | (change or {})))


def assert_same(found, wanted):
    if isinstance(wanted, Tensor):
        assert torch.equal(found, wanted)
        assert found.dtype == wanted.dtype
    elif isinstance(wanted, np.ndarray):
        assert (found == wanted).all()
    elif isinstance(wanted, list):
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert found == wanted


def through(value, change):
    """A tensor, or each tensor of a list, through ``change``."""
    if isinstance(value, Tensor):
        return change(value)
    return [change(one) for one in value] if isinstance(value, list) else value


def backwards(tensor):
    """An array whose last axis lies backwards in memory, with gaps."""
    wide = np.zeros((*tensor.shape[:-1], 2 * tensor.shape[-1]), tensor.numpy().dtype)
    wide[..., ::-2] = tensor.numpy()
    return wide[..., ::-2]


def read_only(tensor):
    array = tensor.numpy().copy()
    array.flags.writeable = False
    return array


ARRAYS = {
    "array": lambda tensor: tensor.numpy(),
    "backwards": backwards,
    "of another byte order": lambda tensor: tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("S")),
    "read-only": read_only,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("name", CALLS)
def test_arrays_are_as_good_as_tensors(name, kind):
    call = CALLS[name][1]
    assert_same(run(name, {key: through(value, ARRAYS[kind]) for key, value in call.items()}), run(name))


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"class_maps", "tokens_to_map"}))
def test_lists_are_as_good_as_tensors(name):
    call = CALLS[name][1]
    wide = {key: value.double() if key == "score_maps" else value for key, value in call.items()}
    assert_same(run(name, {key: through(value, Tensor.tolist) for key, value in call.items()}), run(name, wide))


@pytest.mark.parametrize("name", [name for name in CALLS if "score_maps" in CALLS[name][1]])
def test_maps_may_come_as_a_list_of_arrays(name):
    assert_same(run(name, {"score_maps": [one.numpy() for one in MAPS]}), run(name))
    assert_same(run(name, {"score_maps": iter(MAPS)}), run(name))


def arguments(*kinds):
    return [(name, key) for name, (_, call) in CALLS.items() for key, value in call.items() if isinstance(value, kinds)]


def refused(name, **change):
    """The one line that a call is refused with."""
    with pytest.raises((TypeError, ValueError)) as caught:
        run(name, change)
    line = str(caught.value)
    assert "\n" not in line
    assert any(words in line for words in ("expected", "has no true box", "score maps, but", "do not fill a grid"))
    return line


OPTIONAL = {"thresholds", "iou_thresholds", "grid", "label", "topk_classes"}


@pytest.mark.parametrize(("name", "key"), arguments(Tensor, list))
@pytest.mark.parametrize(
    "nonsense",
    ["abc", object(), {"a": 1}, 1j, [[1.0, 2.0], [3.0]], torch.zeros(3, 4, 4, dtype=torch.complex64)],
    ids=["text", "object", "dict", "complex", "ragged", "complex tensor"],
)
def test_what_holds_no_numbers_is_refused_in_one_line(name, key, nonsense):
    refused(name, **{key: nonsense})


@pytest.mark.parametrize(("name", "key"), [pair for pair in arguments(Tensor, list) if pair[1] not in OPTIONAL])
def test_none_is_refused_in_one_line(name, key):
    assert "None" in refused(name, **{key: None})


@pytest.mark.parametrize("name", ["BoxAccuracy", "BoxAccuracy.update_boxes", "ErrorSplit"])
@pytest.mark.parametrize("key", ["label", "topk_classes"])
def test_classes_are_integers(name, key):
    if (name, key) not in {("BoxAccuracy", "topk_classes"), ("BoxAccuracy.update_boxes", "topk_classes")}:
        assert "None" in refused(name, **{key: None})
    for other in (CLASSES[key].double(), CLASSES[key] == 1, CLASSES[key][:2], CLASSES[key][None]):
        assert "integers" in refused(name, **{key: other})
    assert_same(run(name, {key: CLASSES[key].to(torch.int16)}), run(name))
    assert_same(run(name, {key: CLASSES[key].numpy().astype(np.uint16)}), run(name))


@pytest.mark.parametrize(("name", "key"), [pair for pair in arguments(Tensor) if pair[1] != "score_maps"])
def test_wrong_dimensions_are_refused_in_one_line(name, key):
    value = CALLS[name][1][key]
    refused(name, **{key: value[None]})


@pytest.mark.parametrize("name", [name for name in CALLS if "score_maps" in CALLS[name][1]])
def test_other_maps_are_refused_in_one_line(name):
    for other in (MAPS[0], MAPS[:, None], MAPS[0, 0, 0], 0.5, [0.5, 0.5, 0.5]):
        assert "map" in refused(name, score_maps=other)


@pytest.mark.parametrize(("name", "key"), arguments(float))
def test_numbers_of_every_kind(name, key):
    value = CALLS[name][1][key]
    for same in (np.float32(value), np.float64(value), torch.tensor(value), np.array(value)):
        assert_same(run(name, {key: same}), run(name))
    for nonsense in ("0.5", None, [0.5], 1j, True):
        assert "as a number" in refused(name, **{key: nonsense})


@pytest.mark.parametrize(("name", "key"), arguments(tuple))
def test_sizes_of_every_kind(name, key):
    side, _ = CALLS[name][1][key]
    for same in (side, np.int64(side), [side, side], np.array([side, side]), torch.tensor([side, side])):
        assert_same(run(name, {key: same}), run(name))
    for nonsense in ("ab", 2.5, (2, 2, 2), {}):
        refused(name, **{key: nonsense})


@pytest.mark.parametrize("name", [name for name in CALLS if "protocol" in CALLS[name][1]])
def test_protocols_may_be_names(name):
    assert_same(run(name, {"protocol": "spa"}), run(name))
    for nonsense in (None, 3, SPA.rule):
        assert "protocol as a Protocol" in refused(name, protocol=nonsense)


def test_one_box_per_image_may_be_one_array():
    one = {"gt_boxes": [boxes[:1] for boxes in BOXES]}
    for name in ("BoxAccuracy", "ErrorSplit", "best_overlaps", "given_box_hits"):
        for same in (FIRST, FIRST.numpy(), FIRST.tolist(), FIRST[:, None], FIRST.int()):
            assert_same(run(name, {"gt_boxes": same}), run(name, one))


@pytest.mark.parametrize("name", ["PixelAccuracy", "mask_overlaps"])
def test_masks_of_other_integers_and_of_truth_values(name):
    for dtype in (np.int64, np.uint16, np.int32):
        assert_same(run(name, {"masks": [mask.numpy().astype(dtype) for mask in MASKS]}), run(name))
    objects = [(mask == 1).to(torch.uint8) for mask in MASKS]
    assert_same(run(name, {"masks": [mask == 1 for mask in MASKS]}), run(name, {"masks": objects}))
    assert "integers or bool" in refused(name, masks=[mask.float() for mask in MASKS])
    assert "but 2 masks" in refused(name, masks=MASKS[:2])
    with pytest.raises(ValueError, match="mask 1 holds values other than 0"):
        run(name, {"masks": [MASKS[0], MASKS[1].long() + 256, MASKS[2]]})


ACCUMULATORS = {"BoxAccuracy": ALL | CLASSES, "ErrorSplit": ALL | CLASSES, "PixelAccuracy": CALLS["PixelAccuracy"][1]}


@pytest.mark.parametrize("kind", ACCUMULATORS)
def test_thresholds_of_every_kind(kind):
    values = [0.125, 0.3, 0.5]
    wanted = counted(kind, thresholds=values)(**ACCUMULATORS[kind])
    for same in (tuple(values), np.array(values), torch.tensor(values, dtype=torch.float64), np.array(values, ">f8")):
        assert counted(kind, thresholds=same)(**ACCUMULATORS[kind]) == wanted
    one = counted(kind, thresholds=[0.5])(**ACCUMULATORS[kind])
    assert counted(kind, thresholds=np.float32(0.5))(**ACCUMULATORS[kind]) == one
    for nonsense in ("abc", object(), 1j, [[0.1, 0.2]], [None], [True]):
        with pytest.raises((TypeError, ValueError), match="expected thresholds as"):
            getattr(metrics, kind)(thresholds=nonsense)


@pytest.mark.parametrize("kind", ACCUMULATORS)
def test_a_threshold_of_a_float32_grid_is_found_again(kind):
    metric = getattr(metrics, kind)(thresholds=torch.tensor([0.1, 0.2, 0.3]))
    metric.update(**ACCUMULATORS[kind])
    name = "p_iou" if kind == "PixelAccuracy" else "gt_known_loc"
    chosen = metric.compute()["cam_threshold"]
    for at in (0.2, np.float32(0.2), torch.tensor(0.2)):
        if kind == "PixelAccuracy":
            at = chosen | {name: at}
        found = metric.compute(at=at)["cam_threshold"]
        assert (found if kind == "ErrorSplit" else found[name]) == pytest.approx(0.2)
    for nonsense in ("0.2", [0.2], object()):
        with pytest.raises(TypeError, match="expected at as a number"):
            metric.compute(at=nonsense)


def test_options_of_the_accumulators():
    for protocol in (None, 3, SPA.rule):
        for kind in (metrics.BoxAccuracy, metrics.ErrorSplit):
            with pytest.raises(TypeError, match="metrics: expected protocol as a Protocol, got"):
                kind(protocol)
    for size in (2.5, None, "a", (16, 16)):
        with pytest.raises(TypeError, match="PixelAccuracy: expected size as an integer"):
            metrics.PixelAccuracy(size)
    with pytest.raises(ValueError, match="expected a positive size, got 0"):
        metrics.PixelAccuracy(0)
    with pytest.raises(ValueError, match="expected rising thresholds below 1"):
        metrics.PixelAccuracy(thresholds=[0.5, 0.1])
    with pytest.raises(TypeError, match="BoxAccuracy: expected state as a Mapping, got NoneType None"):
        metrics.BoxAccuracy().load_state_dict(None)


def test_features_from_under_autocast_with_a_float32_classifier():
    features, weight = seeded((2, 3, 2, 4)).bfloat16(), seeded((5, 3))
    found = run("class_maps", {"features": features, "weight": weight})
    assert_same(found, run("class_maps", {"features": features.float(), "weight": weight}))
    assert found.dtype == torch.float32
    for other in (weight.double(), weight.long()):
        assert "one floating dtype" in refused("class_maps", weight=other)
