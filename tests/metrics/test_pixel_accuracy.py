import cv2
import numpy as np
import pytest
import torch
from oracles import published_metrics as oracle
from oracles.random_images import images, masks

from wsolfast.metrics import PixelAccuracy

MAPS, SIZES, BOXES, *_ = images(8, seed=11)
MASKS = masks(SIZES, BOXES)


def filled(index, **options):
    metric = PixelAccuracy(**options)
    metric.update(MAPS[index], [MASKS[n] for n in index])
    return metric


def test_px_ap_is_the_published_evaluators():
    step = 0.01
    found = filled(range(8), size=32, thresholds=np.arange(0, 1, step)).compute()
    ap, iou = oracle.px_ap([m.numpy() for m in MAPS], [m.numpy() for m in MASKS], step, 32)
    # The first, empty entry of the recall is dropped there: one rounding of the sum.
    assert found["px_ap"] == pytest.approx(ap, abs=1e-10)
    assert found["p_iou"] == pytest.approx(iou, abs=1e-10)
    assert 0 < found["px_ap"] < 100
    assert found["curves"]["p_iou"][round(found["p_iou_threshold"] / step)] == found["p_iou"]


def test_peak_iou_is_the_best_of_256_thresholds():
    found = filled(range(8), size=8).compute()
    peak, threshold, per_image = oracle.peak_iou([m.numpy() for m in MAPS], [m.numpy() for m in MASKS])
    assert found["peak_iou"] == pytest.approx(peak, abs=1e-10)
    assert found["peak_t"] == threshold
    # Per-image overlaps are kept as multiples of 2^-40.
    assert found["peak_iou_per_image"] == pytest.approx(per_image, abs=1e-9)


def test_a_perfect_map_is_perfect():
    mask = torch.zeros(40, 40, dtype=torch.uint8)
    mask[10:30, 5:25] = 1
    metric = PixelAccuracy(size=40)
    metric.update(mask[None].float(), [mask])
    found = metric.compute()
    assert found["px_ap"] == found["p_iou"] == found["peak_iou"] == found["peak_iou_per_image"] == 100
    # 255 (1 - 1e-10) truncates to 254: the eps of the original costs the highest level.
    assert found["peak_t"] == 1


def test_ignored_pixels_leave_every_number():
    mask = MASKS[0].clone()
    noisy = MAPS[:1].repeat_interleave(8, 1).repeat_interleave(8, 2)[0, : mask.shape[0], : mask.shape[1]]
    whole, cut = PixelAccuracy(size=16), PixelAccuracy(size=16)
    mask[:, -20:] = 255
    whole.update(noisy[None], [mask])
    mask_all = mask.clone()
    mask_all[mask == 255] = 0
    cut.update(noisy[None], [mask_all])
    scores = whole.state_dict()["scores"]
    assert scores.sum() < cut.state_dict()["scores"].sum()
    assert torch.equal(scores[1], cut.state_dict()["scores"][1])


def test_an_image_without_an_object_counts_as_background():
    empty = torch.zeros_like(MASKS[1])
    metric = filled([0], size=16)
    before, counted = metric.compute(), metric.state_dict()["scores"]
    metric.update(MAPS[1:2], [empty])
    after = metric.state_dict()["scores"]
    assert torch.equal(after[1], counted[1])
    assert (after[0] - counted[0]).sum() == 16 * 16
    assert metric.compute()["px_ap"] < before["px_ap"]
    assert metric.compute()["peak_iou_per_image"] == before["peak_iou_per_image"] / 2
    alone = PixelAccuracy(size=16)
    alone.update(MAPS[1:2], [empty])
    with pytest.raises(ValueError, match="no object pixel in any mask"):
        alone.compute()


def test_overlaps_at_the_thresholds_of_another_split():
    test, other = filled(range(4), size=16), filled(range(4, 8), size=16)
    chosen = other.compute()["cam_threshold"]
    own, transferred = test.compute(), test.compute(at=chosen)
    assert transferred["cam_threshold"] == chosen != own["cam_threshold"]
    assert transferred["peak_iou"] == own["curves"]["peak_iou"][chosen["peak_iou"]]
    assert transferred["p_iou"] == own["curves"]["p_iou"][round(chosen["p_iou"] * 1000)]
    assert transferred["px_ap"] == own["px_ap"]
    for name in chosen:
        assert transferred[name] <= own[name]
    with pytest.raises(ValueError, match=r"p_iou: threshold 0\.00005 was not counted|5e-05 was not counted"):
        test.compute(at=chosen | {"p_iou": 0.00005})


def test_any_split_gives_identical_numbers():
    whole = filled(range(8), size=16)
    for left in ([0], [3, 1, 7], [5, 6, 4, 2]):
        merged = filled(left, size=16)
        merged.merge_state(filled([n for n in range(8) if n not in left], size=16))
        assert merged.compute() == whole.compute()


@pytest.mark.parametrize("shape", [(50, 33), (7, 9), (224, 300), (500, 375), (1, 1)])
def test_masks_shrink_as_opencv_does(shape):
    """Every pixel of the score map has a bin of its own, so the counts of object pixels are the shrunk mask."""
    mask = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
    ranks = torch.arange(64 * 64, dtype=torch.float64) / (64 * 64 - 1)
    metric = PixelAccuracy(size=64, thresholds=ranks[:-1].tolist())
    background, found = metric.count(ranks.reshape(1, 64, 64), [torch.from_numpy(mask)])["scores"]
    expected = cv2.resize(mask, (64, 64), interpolation=cv2.INTER_NEAREST).ravel()
    assert np.array_equal(found[: 64 * 64].numpy(), expected)
    assert np.array_equal(background[: 64 * 64].numpy(), 1 - expected)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(4, 4), "masks of integers or bool"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), r"mask 0 is torch.uint8 \[1, 4, 4\]"),
        (torch.full((4, 4), 2, dtype=torch.uint8), "mask 0 holds values other than"),
    ],
)
def test_bad_masks_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        PixelAccuracy().update(MAPS[:1], [bad])


def test_other_errors_speak():
    with pytest.raises(ValueError, match="2 score maps, but 1 masks"):
        PixelAccuracy().update(MAPS[:2], MASKS[:1])
    with pytest.raises(ValueError, match="no image was counted"):
        PixelAccuracy().compute()
    with pytest.raises(ValueError, match="another size"):
        PixelAccuracy(size=16).merge_state(PixelAccuracy(size=32))
