"""Score maps at all their cuts: boxes and best overlaps equal OpenCV's, cut by cut, on every path."""

import cv2
import numpy as np
import pytest
from oracles import opencv_boxes as oracle

ALL_CUTS = np.arange(0, 1, 0.001)


def score_map(rng, height, width, kind):
    """A map in [0, 1] whose maximum is 1, except for "dim"."""
    grid = rng.standard_normal((int(rng.integers(2, 9)), int(rng.integers(2, 9))))
    values = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width)
    if kind == "white":
        values = rng.random((height, width))
    if kind == "noisy":
        values = values + 0.1 * rng.standard_normal((height, width))
    if kind == "steep":
        values = 1 / (1 + np.exp(-12 * values))
    low, high = values.min(), values.max()
    values = (values - low) / (high - low) if high > low else np.zeros_like(values)
    if kind == "relu":
        values = np.maximum(values - 0.4, 0) / 0.6
    if kind == "plateaus":
        values = np.round(values * 5) / 5
    if kind == "dim":
        values = values * rng.uniform(0.002, 0.9)
    return np.clip(values, 0, 1)


KINDS = ("smooth", "noisy", "white", "steep", "relu", "plateaus", "dim")


def assert_equal_to_opencv(engine, values, thresholds, algorithm, truths=None, percentile=None):
    cut = {} if percentile is None else {"percentile": percentile}
    boxes, _ = oracle.compute_boxes(values, thresholds, multi=False, **cut)
    chosen = engine.choose_boxes(values[None], thresholds, engine.Rule(**cut), algorithm)
    np.testing.assert_array_equal(chosen[0], boxes)
    boxes, counts = oracle.compute_boxes(values, thresholds, multi=True, **cut)
    every = engine.Rule(selection="all", **cut)
    found, found_counts = engine.list_boxes(values[None], thresholds, every, algorithm)
    np.testing.assert_array_equal(found_counts[0], counts)
    np.testing.assert_array_equal(found, boxes)
    if truths is not None:
        ends = np.cumsum(counts)
        wanted = [oracle.best_overlap(boxes[end - n : end], truths) for n, end in zip(counts, ends, strict=True)]
        best = engine.best_overlaps(values[None], thresholds, truths, [0, len(truths)], every, algorithm)
        np.testing.assert_array_equal(best[0], wanted)


# Chunks of about a second; together 1,400 maps.
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", KINDS)
def test_random_maps_at_all_cuts(engine, kind, seed):
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    thresholds = (np.arange(255) + 0.5) / 255
    for n in range(20):
        height, width = rng.integers(1, 17, 2) if kind == "white" else rng.integers(1, 29, 2)
        algorithm = ("sweep", "runs", "ridges", "auto")[n % 4]
        values = score_map(rng, int(height), int(width), kind)
        corners = np.sort(rng.integers(0, [width, height], (2, 2, 2)), axis=1).reshape(2, 4).astype(float)
        assert_equal_to_opencv(engine, values, thresholds, algorithm, corners if n < 6 else None)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_224(engine, kind):
    rng = np.random.default_rng(KINDS.index(kind))
    truths = np.array([[30, 40, 150, 180], [5, 5, 60, 20.0]])
    if kind == "white":
        assert_equal_to_opencv(engine, score_map(rng, 224, 224, kind), np.array([0.2, 0.5, 0.9]), "auto", truths)
        return
    for algorithm in ("sweep", "runs", "ridges"):
        values = score_map(rng, 224, 224, kind)
        thresholds = ALL_CUTS if kind != "noisy" else ALL_CUTS[::40]
        assert_equal_to_opencv(engine, values, thresholds, algorithm, truths)


PERCENTILES = (0, 37.5, 50, 80, 85, 90, 95, 99.9, 100)


@pytest.mark.parametrize("kind", KINDS)
def test_random_maps_cut_at_a_percentile(engine, path, kind):
    rng = np.random.default_rng([7, KINDS.index(kind)])
    thresholds = np.arange(0, 1.3, 0.009)
    for percentile in PERCENTILES:
        height, width = rng.integers(1, 29, 2)
        values = score_map(rng, int(height), int(width), kind)
        assert_equal_to_opencv(engine, values, thresholds, path, np.array([[2, 1, 9, 8.0]]), percentile)


@pytest.mark.parametrize("kind", ["smooth", "relu", "plateaus"])
def test_maps_of_224_cut_at_a_percentile(engine, kind):
    rng = np.random.default_rng(KINDS.index(kind))
    truths = np.array([[30, 40, 150, 180], [5, 5, 60, 20.0]])
    for algorithm, percentile in zip(("sweep", "runs", "ridges", "auto"), (95, 90, 85, 80), strict=True):
        values = score_map(rng, 224, 224, kind)
        assert_equal_to_opencv(engine, values, ALL_CUTS, algorithm, truths, percentile)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_many_maps_of_224(engine, kind):
    rng = np.random.default_rng([99, KINDS.index(kind)])
    for n in range(2 if kind in ("white", "noisy") else 20):
        assert_equal_to_opencv(engine, score_map(rng, 224, 224, kind), ALL_CUTS, ("sweep", "runs", "ridges")[n % 3])


@pytest.mark.parametrize("kind", KINDS)
def test_paths_agree(engine, path, kind):
    values = score_map(np.random.default_rng(3), 61, 83, kind)[None]
    thresholds = ALL_CUTS[::5]
    truths, offsets = np.array([[10, 12, 50, 44.0]]), [0, 1]
    every = engine.Rule(selection="all")
    fresh = engine.build_info()["simd"]
    engine.use_simd("scalar")
    chosen = engine.choose_boxes(values, thresholds, engine.Rule(), "sweep")
    boxes, counts = engine.list_boxes(values, thresholds, every, "sweep")
    best = engine.best_overlaps(values, thresholds, truths, offsets, every, "sweep")
    engine.use_simd(fresh)
    np.testing.assert_array_equal(engine.choose_boxes(values, thresholds, engine.Rule(), path), chosen)
    found, found_counts = engine.list_boxes(values, thresholds, every, path)
    np.testing.assert_array_equal(found_counts, counts)
    np.testing.assert_array_equal(found, boxes)
    np.testing.assert_array_equal(engine.best_overlaps(values, thresholds, truths, offsets, every, path), best)


@pytest.mark.parametrize(("height", "width"), [(1, 2048), (2048, 1), (700, 2048), (2048, 3)])
def test_large_maps(engine, height, width):
    values = score_map(np.random.default_rng(0), height, width, "smooth")
    for algorithm in ("sweep", "runs", "ridges"):
        assert_equal_to_opencv(engine, values, np.array([0.0, 0.3, 0.7, 0.99]), algorithm)


def test_the_largest_map(engine):
    values = score_map(np.random.default_rng(0), 2048, 2048, "smooth")
    assert_equal_to_opencv(engine, values, np.array([0.25, 0.6]), "sweep")


def test_constant_and_empty_maps(engine):
    for values in (np.zeros((5, 7)), np.ones((5, 7)), np.full((5, 7), 0.5 / 255), np.full((1, 1), 0.3)):
        for algorithm in ("sweep", "runs", "ridges"):
            for percentile in (None, 90):
                assert_equal_to_opencv(
                    engine, values, ALL_CUTS[::100], algorithm, np.array([[0, 0, 3, 3.0]]), percentile
                )


def test_threads_change_nothing(engine):
    rng = np.random.default_rng(5)
    values = np.stack([score_map(rng, 40, 30, KINDS[n % len(KINDS)]) for n in range(24)])
    every = engine.Rule(selection="all")
    one = engine.list_boxes(values, ALL_CUTS[::10], every, threads=1)
    four = engine.list_boxes(values, ALL_CUTS[::10], every, threads=4)
    np.testing.assert_array_equal(one[0], four[0])
    np.testing.assert_array_equal(one[1], four[1])


def test_thresholds_in_any_order(engine):
    values = score_map(np.random.default_rng(8), 50, 40, "noisy")[None]
    order = np.random.default_rng(0).permutation(len(ALL_CUTS))
    chosen = engine.choose_boxes(values, ALL_CUTS, engine.Rule())
    np.testing.assert_array_equal(engine.choose_boxes(values, ALL_CUTS[order], engine.Rule()), chosen[:, order])


@pytest.mark.parametrize("value", [-1e-9, 1.0000001, np.nan, np.inf])
def test_values_outside_the_unit_range_are_refused(engine, value):
    values = np.full((1, 4, 4), 0.5)
    values[0, 2, 1] = value
    with pytest.raises(ValueError, match=r"outside \[0, 1\] or NaN"):
        engine.choose_boxes(values, np.zeros(1), engine.Rule())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"percentile": -1}, "percentile: expected 0 to 100"),
        ({"percentile": np.nan}, "percentile: expected 0 to 100"),
        ({"percentile": 90, "quantize": False}, "quantises maps and cuts relative to them"),
        ({"percentile": 90, "relative": False}, "quantises maps and cuts relative to them"),
    ],
)
def test_percentiles_that_nothing_has_are_refused(engine, fields, message):
    with pytest.raises(ValueError, match=message):
        engine.Rule(**fields)


def test_too_large_maps_are_refused(engine):
    with pytest.raises(ValueError, match="1x1 to 16382x16382"):
        engine.choose_boxes(np.zeros((1, 1, 17000), np.uint8), np.zeros(1), engine.Rule())
    rule = engine.Rule(quantize=False, relative=False)
    with pytest.raises(ValueError, match=r"2100x4096 is too large .* pass the thresholds in several calls"):
        engine.choose_boxes(np.zeros((1, 2100, 4096)), np.linspace(0, 1, 300), rule)


def test_maps_beyond_the_sweep_go_by_runs(engine):
    values = np.kron(score_map(np.random.default_rng(0), 21, 41, "noisy"), np.ones((100, 100)))
    assert_equal_to_opencv(engine, values, np.array([0.3, 0.6]), "sweep")
