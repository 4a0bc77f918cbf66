"""Resizing, normalising and counting: the float64 steps around the boxes."""

import cv2
import numpy as np
import pytest

SOURCES = [(1, 1), (1, 5), (3, 2), (7, 7), (14, 14), (28, 28), (31, 17), (224, 224)]
TARGETS = [(1, 1), (5, 9), (224, 224), (256, 320), (375, 500)]


@pytest.mark.parametrize("source", SOURCES, ids=str)
@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("simd", ["scalar", "avx512"])
def test_cubic_is_bit_equal_to_opencv(engine, source, target, simd):
    before = engine.build_info()["simd"]
    try:
        engine.use_simd(simd)
    except ValueError as error:
        pytest.skip(reason=str(error))
    values = np.random.default_rng(sum(source)).standard_normal(source)
    wanted = cv2.resize(values, target[::-1], interpolation=cv2.INTER_CUBIC).reshape(target)
    resized = engine.resize(values, target)
    engine.use_simd(before)
    np.testing.assert_array_equal(resized, wanted)


@pytest.mark.parametrize("source", SOURCES, ids=str)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_linear_is_opencv_within_rounding(engine, source, target):
    values = np.random.default_rng(sum(source)).standard_normal(source)
    # OpenCV's weights are float32 where Intel's library does not take over.
    wanted = cv2.resize(values, target[::-1], interpolation=cv2.INTER_LINEAR).reshape(target)
    np.testing.assert_allclose(engine.resize(values, target, "linear"), wanted, atol=2e-4)


def test_linear_with_aligned_corners_hits_the_corners(engine):
    values = np.random.default_rng(0).standard_normal((4, 6))
    resized = engine.resize(values, (13, 21), "linear_corners")
    np.testing.assert_array_equal(resized[::4, ::4], values)
    ramp = np.broadcast_to(np.arange(6.0), (4, 6))
    np.testing.assert_allclose(engine.resize(ramp, (4, 11), "linear_corners")[0], np.arange(11) / 2, atol=1e-15)


def test_minmax_divides_after_subtracting(engine):
    values = np.random.default_rng(0).standard_normal((37, 53))
    wanted = values - values.min()
    wanted /= wanted.max()
    np.testing.assert_array_equal(engine.normalize_score_map(values), wanted)
    assert (wanted.min(), wanted.max()) == (0.0, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_maps_that_are_not_finite_become_zeros(engine, bad):
    values = np.random.default_rng(0).standard_normal((9, 21))
    values[4, 20] = bad
    assert not engine.normalize_score_map(values).any()
    assert not engine.normalize_score_map(np.full((4, 4), 0.7)).any()


def test_pixel_histogram_is_numpys(engine):
    rng = np.random.default_rng(0)
    edges = np.append(np.arange(0, 1, 0.001), [1, 2, 3])
    scores = np.concatenate([rng.random(5000), edges, np.nextafter(edges, -1), [1.0] * 40, [-0.5, 3.5]])
    mask = rng.choice(np.array([0, 1, 255], np.uint8), scores.size)
    counts = engine.pixel_histogram(scores, mask, edges)
    for kind in (0, 1):
        np.testing.assert_array_equal(counts[kind], np.histogram(scores[mask == kind], edges)[0])
