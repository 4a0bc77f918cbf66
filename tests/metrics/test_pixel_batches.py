"""Masks are counted in batches of one size: every counter is that of the images one by one."""

import cv2
import numpy as np
import pytest
import torch

from wsolfast import ops
from wsolfast.metrics import PixelAccuracy, frames, functional, mask_overlaps
from wsolfast.metrics.protocols import get_protocol
from wsolfast.ops import BoxRule

SIZE, RULE = 20, get_protocol("wsolevaluation").rule
SCALED = BoxRule(interpolation="none", normalization="minmax_eps", eps=1e-10)
LINEAR = BoxRule(interpolation="linear", normalization="none")
EDGES = np.append(np.arange(0, 1, 0.25), [1.0, 2.0, 3.0])


def mixed(count=60):
    """Maps and masks of several sizes and types, ordinary and odd ones, in no order."""
    rng = np.random.default_rng(5)
    shapes, sides = [(4, 4), (3, 7), (1, 1), (1, 5)], [(24, 24), (24, 9), (1, 1), (40, 31), (3, 1)]
    maps, masks = [], []
    for n in range(count):
        one = torch.from_numpy(rng.random(shapes[rng.integers(4)]))
        if n % 5 == 0:
            one[:] = (0.7, float("nan"), 0.0, float("inf"))[n // 5 % 4]
        elif n % 5 == 1:
            one[0, -1] = (float("nan"), -float("inf"))[n // 5 % 2]
        maps.append(one.to((torch.float64, torch.float32, torch.float16)[n % 3]))
        mask = rng.choice([0, 1, 255], sides[rng.integers(5)], p=[(0.5, 0.4, 0.1), (1, 0, 0), (0, 0, 1)][n % 7 % 3])
        mask = torch.from_numpy(mask.astype(np.uint8))
        masks.append((mask, mask.long(), mask == 1, mask.mT.contiguous().mT)[n % 4])
    return maps, masks


def counted_by_hand(score_map, mask):
    """The counters of one image, from NumPy's and OpenCV's own functions."""
    mask = (mask.to(torch.uint8) if mask.dtype == torch.bool else mask).numpy().astype(np.uint8)
    scores = ops.normalize_score_map(score_map[None], (SIZE, SIZE), RULE)[0].numpy()
    small = cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
    levels = torch.floor(ops.normalize_score_map(score_map[None], None, SCALED) * 255)
    levels = np.floor(ops.normalize_score_map(levels, mask.shape, LINEAR)[0].numpy() + 0.5).astype(np.int64)
    first = score_map.flatten()[0]
    counters = {
        "images": np.int64(1),
        "maps_constant": np.int64(bool((score_map == first).all() & first.isfinite())),
        "scores": np.stack([np.histogram(scores[small == kind], EDGES)[0] for kind in (0, 1)]),
        "levels": np.stack([np.bincount(levels[mask == kind], minlength=256) for kind in (0, 1)]),
        "image_ious": np.zeros(256, np.int64),
    }
    if (mask == 1).any():
        curve = functional.mask_iou_curve(torch.from_numpy(counters["levels"]))
        counters["image_ious"] = np.round(curve * 2**40).astype(np.int64)
    return counters


def assert_counts(found, maps, masks):
    alone = [counted_by_hand(one, mask) for one, mask in zip(maps, masks, strict=True)]
    for name, value in found.items():
        assert value.dtype == torch.int64
        assert np.array_equal(value.numpy(), sum(one[name] for one in alone)), name


@pytest.mark.parametrize("pixels", [1, 2000, 1 << 22])
def test_counters_are_those_of_the_images_one_by_one(monkeypatch, pixels):
    monkeypatch.setattr(frames, "_BATCH_PIXELS", pixels)
    maps, masks = mixed()
    found = PixelAccuracy(SIZE, EDGES[:-3]).count(maps, masks)
    assert_counts(found, maps, masks)
    assert found["images"] == 60
    assert 0 < found["maps_constant"] < 60
    assert found["image_ious"].any()


def test_one_map_for_all_images_is_that_map_many_times():
    _, masks = mixed()
    maps = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0)).expand(60, -1, -1)
    for shown in (maps, torch.full((1, 2, 2), 0.5).expand(60, -1, -1)):
        assert_counts(PixelAccuracy(SIZE, EDGES[:-3]).count(shown, masks), shown, masks)


def test_a_tensor_of_maps_is_a_list_of_them():
    _, masks = mixed(12)
    wide = torch.rand(12, 8, 6, generator=torch.Generator().manual_seed(0))
    for maps in (wide, wide.mT, wide[:, ::2, ::3]):
        assert_counts(PixelAccuracy(SIZE, EDGES[:-3]).count(maps, masks), maps, masks)


def test_no_image_counts_nothing():
    for maps in (torch.zeros(0, 3, 3), []):
        assert not any(value.any() for value in PixelAccuracy(SIZE).count(maps, []).values())
        assert mask_overlaps(maps, [], 0.5) == []


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.6, 1.0])
def test_overlaps_are_those_of_the_images_one_by_one(threshold):
    maps, masks = mixed()
    expected = []
    for one, mask in zip(maps, masks, strict=True):
        shown = ops.normalize_score_map(one[None], (SIZE, SIZE), RULE)[0].numpy() >= threshold
        mask = mask.numpy().astype(np.uint8)
        small = cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
        union = ((small == 1) | (shown & (small == 0))).sum()
        expected.append((shown & (small == 1)).sum() / union if (small == 1).any() else 0.0)
    assert mask_overlaps(maps, masks, threshold, size=SIZE) == expected
    assert len(set(expected)) > 10


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_outside_the_range_is_refused(threshold):
    with pytest.raises(ValueError, match=r"mask_overlaps: expected a threshold in \[0, 1\], got"):
        mask_overlaps(torch.zeros(1, 2, 2), [torch.ones(2, 2, dtype=torch.uint8)], threshold)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.uint8, 2), (torch.uint8, 254), (torch.int8, -1), (torch.int8, 100)]
    + [(dtype, value) for dtype in (torch.uint16, torch.int64) for value in (2, 256, 257, 511)],
)
def test_the_first_mask_of_its_size_with_another_value_is_named(dtype, value):
    masks = [torch.zeros(side, 3, dtype=dtype) for side in (3, 4, 3, 4, 4)]
    masks[3][1, 1] = masks[4][0, 0] = value
    with pytest.raises(ValueError, match="PixelAccuracy: mask 3 holds values other than 0"):
        PixelAccuracy(SIZE).count(torch.zeros(5, 2, 2), masks)


def test_a_mask_without_pixels_is_refused():
    masks = [torch.zeros(2, 2, dtype=torch.bool), torch.zeros(0, 2, dtype=torch.bool)]
    with pytest.raises(ValueError, match=r"expected masks .* with pixels, mask 1 is torch.bool \[0, 2\]"):
        PixelAccuracy(SIZE).count(torch.zeros(2, 2, 2), masks)


def test_batches_are_of_one_size_and_bounded():
    maps = [torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(2, 2).double()] * 5
    targets = [(1000, 1000), (1000, 1000), (1000, 1000)] * 4 + [(3000, 3000), None, None]
    found = list(frames.same_sizes(maps, targets))
    assert sorted(n for index, _, _ in found for n in index) == list(range(15))
    for index, batch, (height, width) in found:
        assert len(batch) == len(index)
        assert len(index) == 1 or len(index) * height * width <= 1 << 22
        for k, n in enumerate(index):
            assert batch[k].shape == maps[n].shape
            assert batch.dtype == maps[n].dtype
            assert (height, width) == (targets[n] or maps[n].shape)
    assert max(len(index) for index, _, _ in found) == 4
