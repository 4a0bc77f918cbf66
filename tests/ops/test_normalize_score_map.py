import cv2
import numpy as np
import pytest
import torch

from wsolfast import ops
from wsolfast.ops import BoxRule
from wsolfast.testing import seeded

PLAIN = BoxRule(normalization="none", quantize=False)
LINEAR = BoxRule(interpolation="linear", normalization="none", quantize=False)


@pytest.mark.parametrize("source", [(1, 1), (7, 7), (14, 14), (28, 28), (5, 19), (3, 2), (40, 31)])
@pytest.mark.parametrize("target", [(224, 224), (13, 20), (1, 9)])
def test_cubic_is_opencvs_to_the_last_bit(source, target):
    maps = seeded((2, *source), dtype=torch.float64, seed=source[0])
    expected = [cv2.resize(one.numpy(), target[::-1], interpolation=cv2.INTER_CUBIC) for one in maps]
    assert np.array_equal(ops.normalize_score_map(maps, target, PLAIN).numpy(), np.stack(expected))


@pytest.mark.parametrize("corners", [False, True])
def test_linear_is_torchs(corners):
    rule = BoxRule(interpolation="linear_corners" if corners else "linear", normalization="none", quantize=False)
    maps = seeded((2, 7, 5), dtype=torch.float64)
    for size in ((224, 224), (3, 11), (1, 1)):
        expected = torch.nn.functional.interpolate(maps[None], size, mode="bilinear", align_corners=corners)[0]
        # Positions are computed by other formulas.
        torch.testing.assert_close(ops.normalize_score_map(maps, size, rule), expected, rtol=0, atol=1e-13)


def test_minmax_is_wsolevaluations_to_the_last_bit():
    maps = seeded((4, 7, 7), dtype=torch.float32)
    for one, found in zip(maps, ops.normalize_score_map(maps, (30, 24), BoxRule()), strict=True):
        expected = cv2.resize(one.double().numpy(), (24, 30), interpolation=cv2.INTER_CUBIC)
        expected = expected - expected.min()
        assert np.array_equal(found.numpy(), expected / expected.max())


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({"normalization": "minmax"}, [[0.0, 0.5], [0.75, 1.0]]),
        ({"normalization": "minmax_eps", "eps": 4.0}, [[0.0, 0.25], [0.375, 0.5]]),
        ({"normalization": "max"}, [[0.0, 0.5], [0.75, 1.0]]),
        ({"normalization": "min"}, [[0.0, 2.0], [3.0, 4.0]]),
        ({"normalization": "none"}, [[0.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_normalizations_by_hand(switches, expected):
    maps = torch.tensor([[[0.0, 2.0], [3.0, 4.0]]])
    rule = BoxRule(interpolation="none", quantize=False, **switches)
    assert ops.normalize_score_map(maps, None, rule)[0].tolist() == expected


def test_max_cuts_negatives_and_min_max_shifts_them():
    maps = torch.tensor([[[-1.0, 0.0, 1.0]]])
    for normalization, expected in (("max", [0.0, 0.0, 1.0]), ("minmax", [0.0, 0.5, 1.0]), ("min", [0.0, 1.0, 2.0])):
        rule = BoxRule(interpolation="none", normalization=normalization)
        assert ops.normalize_score_map(maps, None, rule)[0, 0].tolist() == expected


def test_order_of_resize_and_normalisation_matters():
    maps = torch.tensor([[[0.0, 4.0]]])
    after = BoxRule(interpolation="linear", quantize=False)
    before = BoxRule(interpolation="linear", quantize=False, normalize_first=True)
    # Three pixels from two: the outer ones lie inside the image, the middle one between the sources.
    assert ops.normalize_score_map(maps, (1, 1), after).item() == 0.0
    assert ops.normalize_score_map(maps, (1, 1), before).item() == 0.5


@pytest.mark.parametrize("normalization", ["minmax", "minmax_eps", "max", "min"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_map_with_a_non_finite_value_becomes_zero_and_spoils_no_other(normalization, value):
    maps = torch.tensor([[[value, 1.0]], [[0.0, 1.0]]])
    rule = BoxRule(interpolation="none", normalization=normalization, eps=1e-10)
    found = ops.normalize_score_map(maps, None, rule)
    assert not found[0].any()
    assert found[1, 0, 1] > 0.9


def test_a_nan_that_cubic_spreads_zeroes_the_map():
    maps = seeded((1, 4, 4))
    maps[0, 2, 2] = float("nan")
    assert not ops.normalize_score_map(maps, (16, 16), BoxRule()).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8])
def test_every_dtype_is_widened_first(dtype):
    maps = (torch.rand(2, 5, 6) * 200).to(dtype)
    assert torch.equal(
        ops.normalize_score_map(maps, (9, 9), BoxRule()), ops.normalize_score_map(maps.double(), (9, 9), BoxRule())
    )


@pytest.mark.parametrize(
    ("maps", "size", "rule", "message"),
    [
        (torch.zeros(3, 4), None, BoxRule(), r"expected maps of shape \[N, h, w\], got \[3, 4\]"),
        (torch.zeros(1, 0, 4), None, BoxRule(), "no pixels"),
        (torch.zeros(1, 2, 2, dtype=torch.cfloat), None, BoxRule(), "real-valued"),
        (torch.zeros(1, 2, 2), (0, 4), BoxRule(), "positive size"),
        (torch.zeros(1, 2, 2), (4, 4), BoxRule(interpolation="none"), 'interpolation="none"'),
    ],
)
def test_bad_input_is_named(maps, size, rule, message):
    with pytest.raises(ValueError, match=message):
        ops.normalize_score_map(maps, size, rule)
