"""SEM against loops, and against the values that its specification computed by hand."""

import math

import pytest
import torch

from wsolfast.backbones import StageInfo
from wsolfast.refinements import FeatureError, LinearHead, Seen, get_refinement
from wsolfast.testing import assert_close, seeded

STAGES = (StageInfo("conv4", 6, 8), StageInfo("conv5", 6, 8))


def sem(**options):
    return get_refinement("sem")(STAGES, **options)


def seen(features, maps, **more):
    """A batch as a method without a linear classifier shows it."""
    classes = torch.zeros(maps.shape[:2], dtype=torch.int64)
    return Seen((64, 64), {"conv5": features}, classes, maps=maps, **more)


def by_loops(features, scores, seeds, aggregate="max"):
    """SEM of one image: ``features`` [C, P] and ``scores`` [P] of its positions, in plain Python."""
    places = range(features.shape[1])
    vectors = [features[:, p].tolist() for p in places]
    length = [max(math.sqrt(sum(x * x for x in vector)), 1e-8) for vector in vectors]
    first = sorted(places, key=lambda p: (-float(scores[p]), p))[:seeds]
    found = []
    for p in places:
        dots = [sum(x * y for x, y in zip(vectors[p], vectors[q], strict=True)) for q in first]
        cosines = [dot / length[p] / length[q] for dot, q in zip(dots, first, strict=True)]
        found.append(max(cosines) if aggregate == "max" else sum(cosines) / len(cosines))
    low, high = min(found), max(found)
    # Cosines of one differ by rounding.
    return [(value - low) / (high - low) if high > low + 1e-12 else 0.0 for value in found]


@pytest.mark.parametrize(("seeds", "expected"), [(1, [1, 0.707107, 0, 0]), (2, [1, 1, 0.707107, 0])])
def test_hand_checked_values(seeds, expected):
    features = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.float64).view(1, 2, 2, 2)
    maps = torch.tensor([0.9, 0.5, 0.2, 0], dtype=torch.float64).view(1, 1, 2, 2)
    found = sem(seeds=seeds)(seen(features, maps)).flatten()
    assert_close(found, torch.tensor(expected), tolerance=1e-6)  # the values are given to six digits


@pytest.mark.parametrize("aggregate", ["max", "mean"])
@pytest.mark.parametrize("seeds", [1, 5, 60])
@pytest.mark.parametrize("last", [torch.contiguous_format, torch.channels_last])
def test_equals_loops(seeds, aggregate, last):
    features = seeded((2, 6, 5, 3), dtype=torch.float64).contiguous(memory_format=last)
    maps = seeded((2, 3, 5, 3), dtype=torch.float64, seed=1)
    features[0, :, 1, 1] = 0
    maps[1, 0] = maps[1, 0].round()  # many positions are equally activated
    found = sem(seeds=seeds, aggregate=aggregate)(seen(features, maps))
    for image in range(2):
        for m in range(3):
            expected = by_loops(features[image].flatten(1), maps[image, m].flatten(), seeds, aggregate)
            assert_close(found[image, m].flatten(), torch.tensor(expected, dtype=torch.float64))


def test_of_equally_activated_positions_the_first_are_seeds():
    features = torch.eye(6, dtype=torch.float64).view(1, 6, 2, 3)
    maps = torch.tensor([[0.0, 1, 1], [1, 1, 0]], dtype=torch.float64)[None, None]
    assert sem(seeds=2)(seen(features, maps)).flatten().tolist() == [0, 1, 1, 0, 0, 0]


def test_fewer_positions_than_seeds_are_all_seeds_and_the_map_is_constant():
    found = sem(seeds=60)(seen(seeded((1, 6, 3, 3)).relu() + 0.1, seeded((1, 1, 3, 3), seed=1)))
    # Each is a seed of its own: a cosine of one but for rounding, which min-max must not blow up.
    assert torch.equal(found, torch.zeros(1, 1, 3, 3))


def test_a_zero_feature_is_like_nothing():
    features = torch.zeros(1, 6, 2, 2)
    features[0, :, 0, 0] = 1
    assert sem(seeds=1)(seen(features, torch.ones(1, 1, 2, 2))).flatten().tolist() == [1, 0, 0, 0]
    assert not sem()(seen(torch.zeros(1, 6, 2, 2), torch.ones(1, 1, 2, 2))).any()


def test_a_linear_classifier_gives_the_class_map_before_any_relu():
    hidden, weight, bias = seeded((2, 4, 3, 5)), seeded((7, 4), seed=1), seeded((7,), seed=2)
    classes = torch.tensor([[3, 0], [6, 6]])
    for relu_maps in (False, True):
        head = LinearHead(hidden, weight, bias, relu_maps)
        maps = torch.einsum("nmc,nchw->nmhw", weight[classes], hidden)
        found = sem(seeds=4)(Seen((64, 64), {}, classes, head=head))
        assert_close(found, sem(seeds=4)(seen(hidden, maps)))
    features = seeded((2, 6, 3, 5), seed=3)
    found = sem(seeds=4, features="backbone")(Seen((64, 64), {"conv5": features}, classes, head=head))
    assert_close(found, sem(seeds=4)(seen(features, maps)))


def test_maps_of_another_size_are_resized_to_the_features():
    features, maps = seeded((1, 6, 2, 3)), torch.rand(1, 1, 8, 12)
    small = torch.nn.functional.interpolate(maps, (2, 3), mode="bilinear")
    assert torch.equal(sem(seeds=2)(seen(features, maps)), sem(seeds=2)(seen(features, small)))


def test_bfloat16_features_are_compared_in_float32():
    features, maps = seeded((1, 6, 4, 4), dtype=torch.bfloat16), seeded((1, 1, 4, 4), seed=1)
    found = sem(seeds=3)(seen(features, maps))
    assert found.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sem(seeds=3)(seen(features, maps)), found)
    assert torch.equal(sem(seeds=3)(seen(features.float(), maps)), found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "sem: seeds: expected at least 1, got 0"),
        ({"seeds": 1.5}, "sem: seeds: expected a whole number, got 1.5"),
        ({"aggregate": "sum"}, "aggregate: .*'sum'"),
        ({"features": "conv4"}, "features: .*'conv4'"),
    ],
)
def test_an_option_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        sem(**options)


def test_the_exit_code_of_features_without_a_map():
    assert FeatureError.exit_code == 1
