"""Properties of boxes for every map, whatever the truth: symmetries, monotonicity, bounds, and clear refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

THRESHOLDS = np.arange(0, 1, 0.05)
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
# Few levels, so that plateaus, holes and ties are common.
MAPS = SHAPES.flatmap(lambda shape: arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 60, 120, 121, 255])))

quick = settings(max_examples=60, deadline=None)


def every_box(engine, values, end="exclusive"):
    """Boxes of each threshold, in list order."""
    rule = engine.Rule(selection="all", box_end=end)
    boxes, counts = engine.list_boxes(values[None], THRESHOLDS, rule)
    return np.split(boxes, np.cumsum(counts[0])[:-1])


def as_sets(boxes):
    return [sorted(map(tuple, some.tolist())) for some in boxes]


@quick
@given(values=MAPS)
def test_boxes_of_a_mirrored_map_are_mirrored(engine, values):
    if values.max() == 0:
        return
    mirrored = every_box(engine, np.ascontiguousarray(values[:, ::-1]))
    width = values.shape[1]
    back = [np.stack([width - b[:, 2], b[:, 1], width - b[:, 0], b[:, 3]], axis=1) for b in mirrored]
    assert as_sets(back) == as_sets(every_box(engine, values))


@quick
@given(values=MAPS)
def test_boxes_of_a_transposed_map_are_transposed(engine, values):
    transposed = every_box(engine, np.ascontiguousarray(values.T))
    assert as_sets([b[:, [1, 0, 3, 2]] for b in transposed]) == as_sets(every_box(engine, values))


@quick
@given(values=MAPS, top=st.integers(0, 3), left=st.integers(0, 70))
def test_a_frame_of_zeros_shifts_boxes_and_keeps_their_order(engine, values, top, left):
    if values.max() == 0:
        return
    framed = every_box(engine, np.pad(values, ((top, 2), (left, 1))))
    for inner, outer in zip(every_box(engine, values), framed, strict=True):
        np.testing.assert_array_equal(inner + np.array([left, top, left, top]), outer)


@quick
@given(values=MAPS)
def test_union_boxes_shrink_while_the_threshold_rises(engine, values):
    rule = engine.Rule(selection="union", box_end="inclusive")
    boxes = engine.choose_boxes(values[None], THRESHOLDS, rule)[0]
    if values.max() == 0:
        assert not boxes.any()
        return
    assert (np.diff(boxes[:, :2], axis=0) >= 0).all()
    assert (np.diff(boxes[:, 2:], axis=0) <= 0).all()


@quick
@given(values=MAPS, corners=arrays.arrays(np.int64, (2, 2, 2), elements=st.integers(0, 12)))
def test_the_chosen_box_overlaps_no_better_than_all_boxes(engine, values, corners):
    truths = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    best = [
        engine.best_overlaps(values[None], THRESHOLDS, truths, [0, 2], engine.Rule(selection=selection))[0]
        for selection in ("contour_area", "all")
    ]
    assert (best[0] <= best[1]).all()
    assert (best[1] <= 1).all()


@quick
@given(values=MAPS, shift=st.integers(1, 5))
def test_algorithms_agree_at_any_thresholds(engine, values, shift):
    thresholds = np.linspace(-0.1, 1.1, 7 * shift)
    for selection in ("contour_area", "box_area", "pixel_area", "union"):
        for connectivity in (8,) if selection == "contour_area" else (8, 4):
            rule = engine.Rule(selection=selection, connectivity=connectivity, comparison=">=")
            sweep, *others = (
                engine.choose_boxes(values[None], thresholds, rule, name) for name in ("sweep", "runs", "ridges")
            )
            for other in others:
                np.testing.assert_array_equal(sweep, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"selection": "largest"}, "selection: expected one of contour_area, box_area, pixel_area, union, all"),
        ({"connectivity": 6}, "connectivity: expected 4 or 8"),
        ({"comparison": "<"}, "comparison: expected one of >, >="),
        ({"box_end": "open"}, "box_end: expected one of"),
    ],
)
def test_rules_are_checked(engine, arguments, message):
    with pytest.raises(ValueError, match=message):
        engine.Rule(**arguments)


def test_shapes_are_checked(engine):
    maps, rule, every = np.zeros((2, 3, 4)), engine.Rule(), engine.Rule(selection="all")
    with pytest.raises(ValueError, match=r"expected maps \[N, H, W\], got shape \[3, 4\]"):
        engine.choose_boxes(maps[0], THRESHOLDS, rule)
    with pytest.raises(ValueError, match="selection 'all' needs list_boxes"):
        engine.choose_boxes(maps, THRESHOLDS, every)
    with pytest.raises(ValueError, match="list_boxes needs selection 'all'"):
        engine.list_boxes(maps, THRESHOLDS, rule)
    with pytest.raises(ValueError, match=r"expected gt_boxes \[G, 4\]"):
        engine.best_overlaps(maps, THRESHOLDS, np.zeros((1, 3)), [0, 1, 1], rule)
    with pytest.raises(ValueError, match=r"expected gt_offsets \[N \+ 1\]"):
        engine.best_overlaps(maps, THRESHOLDS, np.zeros((1, 4)), [0, 1], rule)
    with pytest.raises(ValueError, match="gt_offsets must rise from 0"):
        engine.best_overlaps(maps, THRESHOLDS, np.zeros((1, 4)), [0, 2, 1], rule)
    with pytest.raises(ValueError, match="expected scalar, avx2 or avx512"):
        engine.use_simd("neon")
    with pytest.raises(ValueError, match="edges must not decrease"):
        engine.pixel_histogram(np.zeros(3), np.zeros(3, np.uint8), np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="an interpolation to reach it"):
        engine.resize(np.zeros((2, 2)), (4, 4), "none")


def test_maps_without_true_boxes_overlap_nothing(engine):
    maps = np.ones((2, 3, 4))
    best = engine.best_overlaps(maps, THRESHOLDS, np.array([[0, 0, 3, 2.0]]), [0, 0, 1], engine.Rule())
    assert (best[0] == -1).all()
    assert (best[1] == 1).all()
    levels = np.array([0.0])
    hits = engine.box_sweep_hits(maps, THRESHOLDS, np.zeros((1, 4)), [0, 0, 1], levels, engine.Rule())
    assert not hits[0].any()
    assert hits[1].all()
