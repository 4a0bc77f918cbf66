"""Boxes, overlaps and counters of the drop-in against OpenCV, one threshold after the other."""

import numpy as np
import pytest
from oracles import opencv_boxes
from oracles.benchmark_folder import BOXES, SIZES, smooth_map

drop_in = pytest.importorskip(
    "wsolfast.compat.wsolevaluation", reason="the box engine is not compiled", exc_type=ImportError
)

STEP = 0.01


def ring(side=24):
    """One-pixel rings inside each other, with a tail of area zero: ties of outer and hole contours."""
    scores = np.zeros((side, side))
    for margin, value in ((2, 0.9), (5, 0.7), (8, 1.0)):
        scores[margin, margin : side - margin] = scores[side - 1 - margin, margin : side - margin] = value
        scores[margin : side - margin, margin] = scores[margin : side - margin, side - 1 - margin] = value
    scores[2, side - 2 :] = 0.9
    return scores


def lines():
    """Lines and single pixels, all of area zero: the one found first wins."""
    scores = np.zeros((17, 31))
    scores[3, 4:20] = 0.5
    scores[9, 2:5] = scores[12, 12] = scores[16, 30] = 1.0
    scores[np.arange(5), 20 + np.arange(5)] = 0.75
    return scores


MAPS = {
    "smooth": smooth_map,
    "noisy": lambda rng: rng.random((40, 57)),
    "plateaus": lambda rng: np.round(rng.random((33, 20)) * 4) / 4,
    "rings": lambda rng: ring(),
    "lines": lambda rng: lines(),
    "checkers": lambda rng: (np.indices((16, 16)).sum(0) % 2).astype(float),
    "zero": lambda rng: np.zeros((9, 12)),
    "below one level": lambda rng: np.full((9, 12), 1 / 256),
    "maximum below one": lambda rng: rng.random((30, 30)) * 0.4,
    "one pixel": lambda rng: np.ones((1, 1)),
}


@pytest.mark.parametrize("multi", [False, True], ids=["largest", "every"])
@pytest.mark.parametrize("name", MAPS)
def test_boxes_are_opencvs_in_its_order(name, multi):
    scores = MAPS[name](np.random.default_rng(3))
    thresholds = list(np.arange(0, 1, STEP))
    boxes, counts = drop_in.compute_bboxes_from_scoremaps(scores, thresholds, multi_contour_eval=multi)
    wanted, wanted_counts = opencv_boxes.compute_boxes(scores, thresholds, multi)
    assert counts == wanted_counts
    assert [len(found) for found in boxes] == counts
    assert all(found.dtype == np.int64 and found.shape[1] == 4 for found in boxes)
    np.testing.assert_array_equal(np.concatenate(boxes), wanted)


def test_thresholds_may_be_none_or_outside_the_grid():
    scores = smooth_map(np.random.default_rng(0))
    assert drop_in.compute_bboxes_from_scoremaps(scores, []) == ([], [])
    boxes, counts = drop_in.compute_bboxes_from_scoremaps(scores, [-0.5, 1.0, 1.5])
    np.testing.assert_array_equal(np.concatenate(boxes), [[0, 0, 223, 223], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert counts == [1, 1, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_shorter_floats_are_widened_and_then_exact(dtype):
    scores = smooth_map(np.random.default_rng(1), dtype=dtype)
    boxes, _ = drop_in.compute_bboxes_from_scoremaps(scores, [0.2, 0.5])
    wanted, _ = opencv_boxes.compute_boxes(scores.astype(np.float64), [0.2, 0.5], False)
    np.testing.assert_array_equal(np.concatenate(boxes), wanted)


@pytest.mark.parametrize(
    ("scores", "error", "text"),
    [
        ([[0.5]], TypeError, "numpy array"),
        (np.zeros((3, 3), dtype=np.uint8), TypeError, "uint8"),
        (np.zeros((3, 3), dtype=np.longdouble), TypeError, "float64, float32 or float16"),
        (np.zeros((1, 3, 3)), ValueError, "2-d"),
        (np.array([[0.0, np.nan]]), ValueError, "NaN"),
        (np.array([[0.0, 1.0 + 2**-52]]), ValueError, r"\[0, 1\]"),
        (np.array([[0.0, -5e-324]]), ValueError, r"\[0, 1\]"),
        (np.array([[0.0, np.inf]]), ValueError, r"\[0, 1\]"),
        (np.zeros((0, 0)), ValueError, "score map"),
    ],
)
def test_score_maps_that_are_refused(scores, error, text):
    with pytest.raises(error, match=text):
        drop_in.compute_bboxes_from_scoremaps(scores, [0.5])


def test_negative_zero_is_a_score():
    drop_in.check_scoremap_validity(np.array([[-0.0, 1.0]]))


def test_overlaps_are_inclusive_and_exact():
    rng = np.random.default_rng(5)
    corners = rng.integers(0, 30, (40, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    found = drop_in.calculate_multiple_iou(boxes[:25], boxes[25:])
    assert found.shape == (25, 15)
    assert found.dtype == np.float64
    wanted = [[opencv_boxes.best_overlap([a], b[None]) for b in boxes[25:]] for a in boxes[:25]]
    np.testing.assert_array_equal(found, wanted)
    assert drop_in.calculate_multiple_iou(np.array([[3, 3, 3, 3]]), np.array([[3, 3, 4, 3]])) == 0.5


@pytest.mark.parametrize(
    ("boxes", "convention", "error"),
    [
        ([[0, 0, -1, 3]], "x0y0x1y1", RuntimeError),
        ([[5, 0, 4, 3]], "x0y0x1y1", RuntimeError),
        ([5, 5, 6, 4], "x0y0x1y1", RuntimeError),
        ([[1, 2, 3]], "xywh", RuntimeError),
        ([[[1, 2, 3, 4]]], "xywh", RuntimeError),
        ([[1, 2, 3, 4]], "yxyx", ValueError),
    ],
)
def test_boxes_of_another_convention_are_refused(boxes, convention, error):
    with pytest.raises(error):
        drop_in.check_box_convention(np.array(boxes), convention)


def test_boxes_of_a_convention_pass():
    drop_in.check_box_convention(np.array([5, 4, 5, 4]), "x0y0x1y1")
    drop_in.check_box_convention(np.array([[5, 5, 3, 0]]), "xywh")


def test_resized_boxes_are_truncated():
    assert drop_in.resize_bbox((111, 108, 441, 193), (500, 375), (224, 224)) == (49, 64, 197, 115)
    assert drop_in.resize_bbox((0, 0, 499, 374), (500, 375), (224, 224)) == (0, 0, 223, 223)
    with pytest.raises(RuntimeError):
        drop_in.resize_bbox((5, 5, 4, 9), (10, 10), (224, 224))


def evaluator(metadata_root, multi, **changes):
    settings = {
        "metadata": drop_in.configure_metadata(str(metadata_root / "CUB" / "test")),
        "dataset_name": "CUB",
        "split": "test",
        "cam_threshold_list": list(np.arange(0, 1, STEP)),
        "iou_threshold_list": [30, 50, 70],
        "mask_root": "",
        "multi_contour_eval": multi,
    }
    return drop_in.BoxEvaluator(**settings | changes)


@pytest.mark.parametrize("multi", [False, True], ids=["largest", "every"])
def test_counters_are_those_of_the_loop_over_thresholds(metadata_root, multi):
    rng = np.random.default_rng(11)
    counted = evaluator(metadata_root, multi)
    wanted = {level: np.zeros(len(counted.cam_threshold_list)) for level in (30, 50, 70)}
    for image_id, (width, height) in SIZES.items():
        scores = 0.9 * smooth_map(rng, grid=9) + 0.1 * rng.random((224, 224)) * (image_id == "b/2.jpg")
        truths = [
            [int(c * 224.0 / s) for c, s in zip(box, (width, height) * 2, strict=True)] for box in BOXES[image_id]
        ]
        boxes, counts = opencv_boxes.compute_boxes(scores, counted.cam_threshold_list, multi)
        for t, end in enumerate(np.cumsum(counts)):
            best = opencv_boxes.best_overlap(boxes[end - counts[t] : end], np.array(truths))
            for level in wanted:
                wanted[level][t] += best >= level / 100
        counted.accumulate(scores, image_id)
    assert counted.cnt == 4
    for level, numbers in counted.num_correct.items():
        assert numbers.dtype == np.float64
        np.testing.assert_array_equal(numbers, wanted[level])
    assert 0 < wanted[50].max() < 4
    assert counted.compute() == [wanted[level].max() * 100 / 4 for level in (30, 50, 70)]


def test_a_refused_map_is_not_counted(metadata_root):
    counted = evaluator(metadata_root, True)
    with pytest.raises(ValueError, match="NaN"):
        counted.accumulate(np.full((224, 224), np.nan), "a/0.jpg")
    with pytest.raises(KeyError):
        counted.accumulate(np.zeros((224, 224)), "unknown.jpg")
    assert counted.cnt == 0


def test_normalization_is_in_place_and_zero_where_nothing_stands_out():
    scores = np.array([[1.0, 3.0], [2.0, 5.0]])
    assert drop_in.normalize_scoremap(scores) is scores
    np.testing.assert_array_equal(scores, [[0, 0.5], [0.25, 1]])
    for flat in (np.full((2, 2), 3.0), np.array([[0.0, np.nan]])):
        np.testing.assert_array_equal(drop_in.normalize_scoremap(flat), np.zeros_like(flat))
