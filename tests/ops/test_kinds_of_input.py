"""Public ops on arrays, lists, numbers, other dtypes and things that are no numbers at all."""

import inspect

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsolfast import ops
from wsolfast.ops import BoxRule, CorrelationRule
from wsolfast.testing import OP_CALLS, seeded

LINEAR = BoxRule(interpolation="linear")


def maps(*shape, seed=0):
    return seeded(shape, seed=seed).sigmoid()


CALLS = OP_CALLS | {"resize_roundtrip": {"cam": seeded((2, 4, 5)), "image_size": (8, 8)}}
NOT_CALLED_WITH_ARRAYS = {"backends", "extension_status", "references"}


def test_no_public_op_is_missing_here():
    functions = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    assert set(CALLS) == functions - NOT_CALLED_WITH_ARRAYS
    for name, call in CALLS.items():
        assert set(call) == set(inspect.signature(getattr(ops, name)).parameters), name


def run(name, call):
    found = getattr(ops, name)(**call)
    if isinstance(found, ops.ScoreMapBoxes):
        return [found.boxes]
    return list(found) if isinstance(found, tuple) else [found]


def changed(call, change):
    """Every tensor of a call through ``change``, also those of a tuple."""
    return {
        name: change(value)
        if isinstance(value, Tensor)
        else [change(one) for one in value]
        if isinstance(value, tuple) and isinstance(value[0], Tensor)
        else value
        for name, value in call.items()
    }


def strided(array):
    """The same values, every other one of a larger array, backwards in memory."""
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    view = wide[..., ::-2] if array.shape[-1] else wide
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


ARRAYS = {
    "array": lambda array: array,
    "strided, backwards": strided,
    "of another byte order": lambda array: array.astype(array.dtype.newbyteorder("S")),
    "read-only": read_only,
    "Fortran order": np.asfortranarray,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("name", CALLS)
def test_arrays_are_as_good_as_tensors(name, kind):
    wanted = run(name, CALLS[name])
    found = run(name, changed(CALLS[name], lambda tensor: ARRAYS[kind](tensor.numpy())))
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("name", CALLS)
def test_lists_are_as_good_as_tensors_of_python_numbers(name):
    """Python's floats are float64, its integers int64."""
    call = CALLS[name]
    wide = changed(call, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    found = run(name, changed(call, Tensor.tolist))
    for one, other in zip(found, run(name, wide), strict=True):
        assert torch.equal(one, other)


def arguments(*kinds):
    return [(name, key) for name, call in CALLS.items() for key, value in call.items() if isinstance(value, kinds)]


def sizes():
    return [(name, key) for name, key in arguments(tuple) if isinstance(CALLS[name][key][0], int)]


NONSENSE = {"text": "abc", "object": object(), "dict": {"a": 1}, "ragged": [[1.0, 2.0], [3.0]], "complex": 1j}


def optional():
    """Return the arguments that may be None, as (op, name)."""
    signatures = {name: inspect.signature(getattr(ops, name)).parameters for name in CALLS}
    return {(name, key) for name, call in CALLS.items() for key in call if "None" in str(signatures[name][key])}


def refused(name, **change):
    """The one line that a call is refused with."""
    with pytest.raises((TypeError, ValueError)) as caught:
        run(name, CALLS[name] | change)
    line = str(caught.value)
    assert line.startswith(f"{name}: ")
    assert "expected" in line or "differ" in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize(("name", "key"), arguments(Tensor, tuple))
@pytest.mark.parametrize("kind", NONSENSE)
def test_what_holds_no_numbers_is_refused_in_one_line(name, key, kind):
    refused(name, **{key: NONSENSE[kind]})


@pytest.mark.parametrize(("name", "key"), sorted({*arguments(Tensor, tuple, BoxRule, CorrelationRule)} - optional()))
def test_none_is_refused_in_one_line(name, key):
    assert "None" in refused(name, **{key: None})


@pytest.mark.parametrize(("name", "key"), arguments(Tensor))
def test_wrong_dimensions_and_dtypes_are_refused_in_one_line(name, key):
    value = CALLS[name][key]
    refused(name, **{key: value.to(torch.complex64)})
    try:
        found = run(name, CALLS[name] | {key: value[None]})
    except (TypeError, ValueError):
        refused(name, **{key: value[None]})
    else:  # it takes any leading dimensions
        assert all(torch.equal(one[0], other) for one, other in zip(found, run(name, CALLS[name]), strict=True))
    if key not in ("thresholds", "iou_thresholds"):  # one number
        refused(name, **{key: value.flatten()[0]})


@pytest.mark.parametrize(("name", "key"), arguments(float))
def test_numbers_of_every_kind(name, key):
    value = CALLS[name][key]
    wanted = run(name, CALLS[name])
    for same in (np.float64(value), torch.tensor(value, dtype=torch.float64), np.array(value)):
        assert all(map(torch.equal, run(name, CALLS[name] | {key: same}), wanted))
    if value == np.float32(value):
        assert all(map(torch.equal, run(name, CALLS[name] | {key: np.float32(value)}), wanted))
    for nonsense in ("0.5", None, [0.5], np.zeros(2), True, 1j):
        assert "as a number" in refused(name, **{key: nonsense})


@pytest.mark.parametrize(("name", "key"), arguments(bool))
def test_flags_are_true_or_false(name, key):
    value = CALLS[name][key]
    wanted = run(name, CALLS[name])
    assert all(map(torch.equal, run(name, CALLS[name] | {key: np.bool_(value)}), wanted))
    for nonsense in ("yes", None, 2):
        assert "True or False" in refused(name, **{key: nonsense})


@pytest.mark.parametrize(("name", "key"), arguments(str))
def test_choices_are_listed(name, key):
    for nonsense in ("nope", 3, ["mean"]):
        refused(name, **{key: nonsense})


@pytest.mark.parametrize(("name", "key"), sizes())
def test_sizes_of_every_kind(name, key):
    height, width = CALLS[name][key]
    wanted = run(name, CALLS[name])
    pairs = [[height, width], np.array([height, width]), torch.tensor([height, width]), torch.Size([height, width])]
    for same in pairs + [height] * (height == width) + [np.int32(height)] * (height == width):
        assert all(map(torch.equal, run(name, CALLS[name] | {key: same}), wanted))
    for nonsense in (2.5, (2.5, 3), "ab", (1, 2, 3), (), (4, None), object(), (0, 3), -1):
        refused(name, **{key: nonsense})


@pytest.mark.parametrize(("name", "key"), arguments(BoxRule, CorrelationRule))
def test_rules_are_no_names(name, key):
    assert f"as a {type(CALLS[name][key]).__name__}, got str 'spa'" in refused(name, **{key: "spa"})


@pytest.mark.parametrize(
    ("record", "key"),
    [
        (BoxRule, "eps"),
        (BoxRule, "percentile"),
        (CorrelationRule, "fo_th"),
        (ops.GaussianPrior, "min_area"),
        (ops.GaussianPrior, "gate"),
    ],
)
def test_records_take_numbers_only(record, key):
    for nonsense in ("0.5", [0.5], 1j):
        with pytest.raises((TypeError, ValueError), match=rf"^{record.__name__}: .*{key} .*number, got "):
            record(**{key: nonsense})


def test_foreground_of_arrays():
    score_map = maps(4, 5)
    wanted = LINEAR.foreground(score_map, 0.5)
    assert 0 < wanted.sum() < 20
    assert torch.equal(LINEAR.foreground(score_map.numpy(), np.float32(0.5)), wanted)
    with pytest.raises(TypeError, match=r"BoxRule\.foreground: expected threshold as a number, got NoneType None"):
        LINEAR.foreground(score_map, None)


def test_priors_are_names_or_records():
    assert "as a GaussianPrior, got NoneType None" in refused("gaussian_prior_labels", prior=None)


@pytest.mark.parametrize("name", ["score_map_boxes", "box_sweep_hits"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_thresholds_of_other_dtypes_keep_their_values(name, dtype):
    thresholds = torch.tensor([0.0, 0.25, 0.3, 1.0]).to(dtype)
    found = run(name, CALLS[name] | {"thresholds": thresholds})
    assert torch.equal(found[0], run(name, CALLS[name] | {"thresholds": thresholds.double()})[0])


def test_one_threshold_is_a_number():
    call = CALLS["score_map_boxes"]
    one = run("score_map_boxes", call | {"thresholds": torch.tensor([0.25], dtype=torch.float64)})[0]
    for number in (0.25, np.float32(0.25), torch.tensor(0.25)):
        assert torch.equal(run("score_map_boxes", call | {"thresholds": number})[0], one)
    hits = run("box_sweep_hits", CALLS["box_sweep_hits"] | {"thresholds": 0.25, "iou_thresholds": 0.5})[0]
    assert hits.shape == (2, 1, 1)


def test_masks_of_integers_and_of_truth_values():
    call = CALLS["pixel_histogram"]
    masks, wanted = call["masks"], run("pixel_histogram", call)[0]
    other = torch.where(masks == 255, -256, masks.long())  # whose last byte is 0, the background's
    assert torch.equal(run("pixel_histogram", call | {"masks": other})[0], wanted)
    objects = run("pixel_histogram", call | {"masks": masks == 1})[0]
    assert torch.equal(objects[1], wanted[1])
    assert objects.sum() == masks.numel()


def under_autocast():
    """Features of 16 bits from under autocast, with the float32 parameters and maps that stand beside them."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 3, 1)
    with torch.autocast("cpu", torch.bfloat16):
        features = convolution(seeded((2, 3, 4, 4)))
    assert features.dtype == torch.bfloat16
    features = features.detach()
    small, cams = seeded((2, 3, 2, 2), seed=1), features[:, 0]
    weight, label = seeded((4, 3)), torch.tensor([0, 2])
    return {
        "class_head_pool": (dict(features=features, weight=weight, bias=seeded(4)), features.dtype),
        "confident_segmentation_loss": (dict(late=cams, early=seeded((2, 4, 4))), torch.float32),
        "context_pool_update": (dict(maps=seeded((3, 4, 4)), classes=label, cam=cams), torch.float32),
        "multiplicative_fusion": (dict(features=[features, small], scale=seeded((2, 3))), torch.float32),
        "non_local_attention": (dict(query=features, key=small, value=small), torch.float32),
        "self_correlation_map": (dict(features=[features, seeded((2, 5, 4, 4))], cam=maps(2, 1, 4, 4)), torch.float32),
    }


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", under_autocast())
def test_features_from_under_autocast_with_float32_beside_them(name, inside):
    call, dtype = under_autocast()[name]
    with torch.autocast("cpu", torch.bfloat16, enabled=inside):
        found = run(name, call)[0]
    assert found.dtype == dtype
    exact = run(name, changed_to_float32(call))[0]
    # One unit in the last place of bfloat16, whose weights and result are rounded, is 2**-7 of a value in [1, 2).
    rounded = 2**-7 if dtype == torch.bfloat16 else 0
    torch.testing.assert_close(found.float(), exact, rtol=rounded, atol=2 * rounded)


def changed_to_float32(call):
    widen = lambda value: value.float() if value.is_floating_point() else value  # noqa: E731
    return {k: [widen(one) for one in v] if isinstance(v, list) else widen(v) for k, v in call.items()}


def test_a_float32_weight_beside_features_of_16_bits_learns():
    features, weight = seeded((2, 3, 4, 4)).bfloat16().requires_grad_(), seeded((4, 3)).requires_grad_()
    ops.class_head_pool(features, weight).sum().backward()
    assert features.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32
    assert weight.grad.any()


def test_precisions_that_autocast_does_not_mix_are_refused():
    features, weight = seeded((1, 3, 2, 2)), seeded((4, 3))
    for one, other in ((torch.float32, torch.float64), (torch.float64, torch.float32), (torch.float32, torch.bfloat16)):
        with pytest.raises(ValueError, match="class_head_pool: expected a weight like the features"):
            ops.class_head_pool(features.to(one), weight.to(other))


def test_a_list_of_maps_of_one_size_is_stacked():
    call = CALLS["score_map_boxes"]
    for rows in (list(call["maps"]), list(call["maps"].numpy())):
        found = run("score_map_boxes", call | {"maps": rows})[0]
        assert torch.equal(found, run("score_map_boxes", call)[0])
    assert "sequence" not in refused("score_map_boxes", maps=[maps(6, 7), maps(6, 6)])
