"""PxAP of the drop-in against OpenCV and ``numpy.histogram``."""

import cv2
import numpy as np
import pytest
from oracles.benchmark_folder import MASKS, smooth_map, write_maps, write_masks

drop_in = pytest.importorskip(
    "wsolfast.compat.wsolevaluation", reason="the box engine is not compiled", exc_type=ImportError
)

STEP = 0.05


@pytest.fixture
def openimages(tmp_path):
    write_masks(tmp_path)
    return tmp_path


def evaluator(root, **changes):
    settings = {
        "metadata": drop_in.configure_metadata(str(root / "metadata" / "OpenImages" / "test")),
        "dataset_name": "OpenImages",
        "split": "test",
        "cam_threshold_list": list(np.arange(0, 1, STEP)),
        "iou_threshold_list": [50],
        "mask_root": str(root / "dataset" / "OpenImages"),
        "multi_contour_eval": False,
    }
    return drop_in.MaskEvaluator(**settings | changes)


def published_mask(root, masks, ignore):
    def read(path):
        grey = np.float32(cv2.imread(str(root / "dataset" / "OpenImages" / path), cv2.IMREAD_GRAYSCALE))
        return cv2.resize(grey, (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5

    found = np.logical_or.reduce([read(mask) for mask in masks])
    ignored = read(ignore) & ~found if ignore else np.zeros_like(found)
    return found, ignored


def test_pxap_is_that_of_numpys_histograms(openimages, capsys):
    rng, counted = np.random.default_rng(4), evaluator(openimages)
    edges = np.append(np.arange(0, 1, STEP), [1.0, 2.0, 3.0])
    inside, outside = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for image_id, (masks, ignore) in MASKS.items():
        scores = np.round(smooth_map(rng), 2)
        found, ignored = published_mask(openimages, masks, ignore)
        mask = drop_in.get_mask(counted.mask_root, masks, ignore)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, np.where(found, 1, np.where(ignored, 255, 0)))
        inside += np.histogram(scores[found], edges)[0]
        outside += np.histogram(scores[~found & ~ignored], edges)[0]
        counted.accumulate(scores, image_id)
    assert (mask == 255).any()
    np.testing.assert_array_equal(counted.gt_true_score_hist, inside)
    np.testing.assert_array_equal(counted.gt_false_score_hist, outside)
    assert counted.gt_true_score_hist.dtype == np.float64

    area, found, wrong, recall = 0.0, 0.0, 0.0, 0.0
    for right, other in zip(inside[::-1], outside[::-1], strict=True):
        found, wrong, before = found + right, wrong + other, recall
        recall = found / inside.sum()
        area += found / (found + wrong) * (recall - before) if found + wrong else 0.0
    assert counted.compute() == pytest.approx(100 * area, rel=1e-13)
    assert capsys.readouterr().out == f"Mask AUC on split test: {counted.compute()}\n"


def test_an_object_wins_over_an_ignored_region(tmp_path):
    both = np.zeros((224, 224), np.uint8)
    both[:100] = 255
    cv2.imwrite(str(tmp_path / "both.png"), both)
    assert set(np.unique(drop_in.get_mask(str(tmp_path), ["both.png"], "both.png"))) == {0, 1}


def test_a_data_set_without_object_pixels_has_no_pxap(openimages):
    with pytest.raises(RuntimeError, match="object pixel"):
        evaluator(openimages).compute()


def test_masks_are_for_openimages_only(openimages):
    with pytest.raises(ValueError, match="OpenImages"):
        evaluator(openimages, dataset_name="CUB")


def test_a_map_of_another_size_is_refused(openimages):
    with pytest.raises(IndexError, match=r"expected shape \(224, 224\), got \(28, 28\)"):
        evaluator(openimages).accumulate(np.zeros((28, 28)), "a/0.jpg")


def test_a_split_is_evaluated_from_files(openimages, capsys):
    counted = evaluator(openimages)
    maps = write_maps(openimages)
    for image_id in MASKS:
        counted.accumulate(np.load(maps / f"{image_id}.npy"), image_id)
    folders = [str(openimages / name) for name in ("scoremaps", "metadata", "dataset")]
    found = drop_in.evaluate_wsol(*folders, "OpenImages", "test", False, False, [50], cam_curve_interval=STEP)
    assert found == counted.compute()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "Loading and evaluating cams."
    assert printed[1:3] == [f"Mask AUC on split test: {found}", f"localization: {found}"]
