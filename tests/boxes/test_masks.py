"""Binary masks: boxes, counts and list order equal OpenCV's, on every path."""

import numpy as np
import pytest
from mask_shapes import SHAPES
from oracles import opencv_boxes as oracle

THRESHOLD = np.zeros(1)


def assert_equal_to_opencv(engine, masks, algorithms):
    largest, every = zip(*map(oracle.largest_and_all, masks), strict=True)
    largest, counts = np.array(largest), np.array([len(boxes) for boxes in every])
    every = np.array([box for boxes in every for box in boxes])
    for algorithm in algorithms:
        chosen = engine.choose_boxes(masks, THRESHOLD, engine.Rule(), algorithm)
        np.testing.assert_array_equal(chosen[:, 0], largest)
        boxes, found = engine.list_boxes(masks, THRESHOLD, engine.Rule(selection="all"), algorithm)
        np.testing.assert_array_equal(found[:, 0], counts)
        np.testing.assert_array_equal(boxes, every)


def random_masks(seed, count, height, width):
    rng = np.random.default_rng(seed)
    density = rng.uniform(0.05, 0.97, (count, 1, 1))
    return ((rng.random((count, height, width)) < density) * 255).astype(np.uint8)


@pytest.mark.parametrize("quarter", range(4))
def test_all_4x4_masks(engine, quarter):
    numbers = np.arange(quarter * 16384, (quarter + 1) * 16384)
    masks = ((numbers[:, None] >> np.arange(16)) & 1).astype(np.uint8).reshape(-1, 4, 4) * 255
    assert_equal_to_opencv(engine, masks, ("sweep", "runs", "ridges"))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("count", "height", "width"),
    [(12000, 5, 6), (10000, 7, 7), (8000, 9, 9), (3500, 13, 17), (500, 1, 12), (500, 12, 1), (100, 6, 140)],
    ids=str,
)
def test_random_masks(engine, count, height, width, seed):
    assert_equal_to_opencv(engine, random_masks(seed, count, height, width), ("sweep", "runs", "ridges"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(100, 120))
def test_many_random_masks(engine, seed):
    for count, height, width in ((40000, 5, 6), (40000, 7, 7), (20000, 9, 9), (10000, 13, 17), (200, 40, 130)):
        assert_equal_to_opencv(engine, random_masks(seed, count, height, width), ("sweep", "runs", "ridges"))


@pytest.mark.parametrize("name", SHAPES)
def test_shape(engine, path, name):
    masks = [SHAPES[name], SHAPES[name].T, SHAPES[name][::-1], SHAPES[name][:, ::-1]]
    for mask in masks:
        assert_equal_to_opencv(engine, np.ascontiguousarray(mask)[None], (path,))


def test_paths_agree_on_masks_wider_than_a_word(engine, path):
    assert_equal_to_opencv(engine, random_masks(7, 20, 30, 200), (path,))
