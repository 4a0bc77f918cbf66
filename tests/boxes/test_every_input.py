"""Every mask of 5×5 and every map of 3×3 with four levels: nothing is left to chance."""

import numpy as np
import pytest
from oracles import opencv_boxes as oracle
from test_masks import assert_equal_to_opencv

ALGORITHMS = ("sweep", "runs", "ridges")
LEVELS = np.array([0, 1, 128, 255], np.uint8)
# Cuts below, at and between all levels for each maximum; one in between leaves the same mask as one of them.
THRESHOLDS = np.array([0, 0.004, 0.5, 0.5021, 0.9, 1.0])


def masks_of(numbers, side):
    bits = (numbers[:, None] >> np.arange(side * side)) & 1
    return bits.astype(np.uint8).reshape(-1, side, side) * 255


@pytest.mark.exhaustive
def test_all_5x5_masks(engine):
    """Largest contour and all contours, in their order, of 33,554,432 masks; 13 minutes of one core."""
    for first in range(0, 2**25, 2**16):
        assert_equal_to_opencv(engine, masks_of(np.arange(first, first + 2**16), 5), ALGORITHMS)


@pytest.fixture(scope="module")
def every_3x3_mask():
    """Largest boxes [512, 4], counts of boxes [512] and lists of boxes of the masks by number, from OpenCV."""
    masks = masks_of(np.arange(512), 3)
    largest, lists = zip(*map(oracle.largest_and_all, masks), strict=True)
    return np.array(largest), np.array([len(boxes) for boxes in lists]), [np.array(boxes) for boxes in lists]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_3x3_maps_of_four_levels(engine, every_3x3_mask, algorithm):
    """All 262,144 maps, at every cut that leaves another mask."""
    largest, counts, lists = every_3x3_mask
    for first in range(0, 4**9, 4**7):
        digits = (np.arange(first, first + 4**7)[:, None] >> (2 * np.arange(9))) & 3
        maps = LEVELS[digits]
        cuts = (THRESHOLDS * maps.max(1, keepdims=True)).astype(np.int64)
        numbers = (maps[:, None, :] > cuts[:, :, None]) @ (1 << np.arange(9))
        maps = maps.reshape(-1, 3, 3)
        chosen = engine.choose_boxes(maps, THRESHOLDS, engine.Rule(), algorithm)
        np.testing.assert_array_equal(chosen, largest[numbers])
        boxes, found = engine.list_boxes(maps, THRESHOLDS, engine.Rule(selection="all"), algorithm)
        np.testing.assert_array_equal(found, counts[numbers])
        np.testing.assert_array_equal(boxes, np.concatenate([lists[number] for number in numbers.ravel()]))
