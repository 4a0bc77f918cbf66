"""Runs on data that has masks and no boxes."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from oracles.masked_tree import COUNTS, write_folder, write_openimages
from ranks import on_ranks

from wsolfast import data
from wsolfast.engine.assembly.build import open_eval_data
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.evaluation.score_maps import ScoreMaps
from wsolfast.engine.report.report import write_report
from wsolfast.engine.reproduce import COLUMNS, plan, reproduce
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import train
from wsolfast.metrics import PixelAccuracy, mask_overlaps


def trained_on(path, tiny, name, root, *overrides):
    recipe = tiny("data.options={}", f"data.name={name}", f"data.root={root}", "stage.epochs=1", *overrides)
    run = RunFolder.create(path, recipe)
    train(run)
    return run


@pytest.fixture
def masked(tiny, tmp_path, coarse_sweep):
    """A finished run on a folder of images with masks."""
    return trained_on(tmp_path / "masked", tiny, "folder", write_folder(tmp_path / "data"))


@pytest.fixture
def openimages(tiny, tmp_path):
    """A finished run on a tree in OpenImages30k's layout, at the benchmark's own thresholds."""
    root = write_openimages(tmp_path / "openimages")
    return trained_on(tmp_path / "oi", tiny, "openimages", root, "evaluate.batch_size=32")


def saved(run, name, split="test"):
    return json.loads((run.eval_path(split) / name).read_text())


def kept_maps(run, split):
    """Every score map that an evaluation left, in order."""
    count = len(open_eval_data(run.recipe, split))
    found = ScoreMaps(run.eval_path(split) / "maps").rows(range(count))
    return torch.stack([found[k] for k in range(count)])


def counted(run, split):
    dataset, maps = open_eval_data(run.recipe, split), kept_maps(run, split)
    rows = [k for k in range(len(dataset)) if dataset.mask(k) is not None]
    accuracy = PixelAccuracy()
    accuracy.update(maps[rows], [dataset.mask(k) for k in rows])
    return accuracy, maps, rows


def test_pixels_are_measured_where_there_are_no_boxes(masked):
    results = evaluate(masked)
    accuracy, maps, rows = counted(masked, "test")
    expected = accuracy.compute()
    assert rows == list(range(9))
    assert (results.num_images, results.images_without_mask) == (9, 1)
    assert results.pixel.images == 9
    for name in ("px_ap", "p_iou", "p_iou_threshold", "peak_iou", "peak_iou_per_image", "peak_t_per_image"):
        assert getattr(results.pixel, name) == expected[name]
    assert results.pixel.peak_threshold == expected["peak_t"]
    assert results.oracle_threshold == expected["cam_threshold"]
    chosen = counted(masked, "train_fullsup")[0].compute()["cam_threshold"]
    assert results.transferred_thresholds == chosen
    assert results.transferred == {name: accuracy.compute(at=chosen)[name] for name in chosen}
    assert (results.cam_threshold, results.cam_threshold_source) == (chosen["p_iou"], "transferred")
    assert results.error_split is None
    assert saved(masked, "results.json") == results.to_json()

    dataset = open_eval_data(masked.recipe, "test")
    table = saved(masked, "per_image.json")["images"]
    overlaps = mask_overlaps(maps[rows], [dataset.mask(k) for k in rows], chosen["p_iou"])
    assert [row["iou"] for row in table] == [round(overlap, 6) for overlap in overlaps]
    assert all(0 < row["iou"] < 1 for row in table)
    right = [row["predicted"] == row["label"] for row in table]
    assert results.metrics == {"top1_cls": 100 * sum(right) / 9, "top5_cls": 100.0}


def test_three_processes_find_the_same_pixels(tiny, tmp_path):
    masked = trained_on(tmp_path / "masked", tiny, "folder", write_folder(tmp_path / "data"))
    expected = evaluate_here(masked)
    shutil.copytree(masked.path, tmp_path / "shared")
    shutil.rmtree(tmp_path / "shared" / "eval")
    on_ranks(3, evaluate_here, RunFolder(tmp_path / "shared"))
    shared = RunFolder(tmp_path / "shared")
    for name in ("pixel", "metrics", "transferred", "transferred_thresholds", "oracle_threshold", "baselines"):
        assert saved(shared, "results.json")[name] == expected.to_json()[name]
    assert saved(shared, "per_image.json") == saved(masked, "per_image.json")


def evaluate_here(run):
    """The same on every process, with as many threads as the others have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return evaluate(run)
    finally:
        torch.set_num_threads(threads)


def test_a_central_box_and_gaussian_stand_beside_it(masked):
    baselines = evaluate(masked, gaussian=True).baselines
    dataset = open_eval_data(masked.recipe, "test")
    inside = sum(int(dataset.mask(k)[5:43, 5:43].sum()) for k in range(9))
    objects = sum(int(dataset.mask(k).sum()) for k in range(9))
    # 80 % of 48 px, give or take the pixels on the edge.
    assert baselines["center_box"]["p_iou"] == pytest.approx(100 * inside / (9 * 38**2 + objects - inside), abs=2)
    assert 0 < baselines["center_box"]["p_iou"] < baselines["center_gaussian"]["p_iou"] < 100
    assert baselines["center_gaussian"]["px_ap"] > baselines["center_box"]["px_ap"]


def test_boxes_and_masks_are_measured_together(trained):
    results = evaluate(trained)
    assert {"gt_known_loc", "p_iou", "peak_iou"} <= results.oracle_threshold.keys()
    assert results.transferred_thresholds.keys() == results.oracle_threshold.keys()
    assert {"gt_known_loc", "p_iou"} <= results.transferred.keys()
    assert {"gt_known_loc", "px_ap"} <= results.baselines["center_box"].keys()
    assert results.cam_threshold == results.transferred_thresholds["gt_known_loc"]
    assert results.transferred["p_iou"] <= results.pixel.p_iou


def test_a_crop_is_not_compared_with_the_mask_of_the_whole_image(masked, trained):
    from dataclasses import replace

    def cropped(run):
        return replace(run.recipe, evaluate=replace(run.recipe.evaluate, protocol="kg_center_crop", resize=40))

    with pytest.raises(data.DataError, match="no image has a true box or an object mask; protocol 'kg_center_crop'"):
        evaluate(masked, cropped(masked))
    assert evaluate(trained, cropped(trained)).pixel is None


def test_a_report_shows_pixels_instead_of_boxes(masked, tmp_path):
    results = evaluate(masked)
    page = write_report([masked.path], tmp_path / "page" / "index.html").read_text()
    assert f"with a PxAP of {results.pixel.px_ap:.1f}" in page
    assert ">PxAP</th>" in page
    assert "GT-known Loc</th>" not in page
    assert ">true box<" not in page
    assert (tmp_path / "page" / "report.png").is_file()


def test_a_table_of_recipes_has_columns_for_pixels(tmp_path, masked, tiny_file, coarse_sweep):
    root = masked.recipe.data.root
    tiny_file.write_text(
        tiny_file.read_text().replace('"synthetic"', '"folder"').split("[data.options]")[0]
        + tiny_file.read_text()[tiny_file.read_text().index("[[stage]]") :]
        + '\n[paper]\ntitle = "A paper"\nvenue = "A conference"\npx_ap = 60.0\n'
    )
    jobs, _ = plan(tmp_path, patterns=[str(tiny_file)], data={"folder": root}, overrides=["stage.epochs=1"])
    (row,) = reproduce(jobs, tmp_path).recipes.values()
    assert row.paper == {"px_ap": 60.0}
    assert set(row.mean) <= set(COLUMNS)
    assert {"px_ap", "p_iou", "p_iou_transferred", "peak_iou", "top1_cls"} <= set(row.mean)
    table = (tmp_path / "reproduce.md").read_text()
    assert (
        "| recipe | numbers | Top-1 Cls | PxAP | pIoU | pIoU, transferred | Peak-IoU | Peak-T | training images/s |"
        in table
    )
    assert "| tiny | paper | – | 60.00 | – |" in table
    assert "| centre box (folder test, wsolevaluation) | measured | – | " in table


def test_the_command_prints_pixels(masked, wsolfast):
    code, out, _ = wsolfast("eval", masked.path)
    assert code == 0
    assert "PxAP" in out
    assert "masks of 9 images" in out
    assert "regions at" in out
    assert "GT-known" not in out


def test_peak_t_of_maps_on_disk_is_shown_as_the_level_that_it_is(openimages, wsolfast, tmp_path):
    evaluate(openimages)
    root, maps = tmp_path / "openimages", tmp_path / "maps"
    for image_id, scores in zip(
        open_eval_data(openimages.recipe, "test").image_ids, kept_maps(openimages, "test").numpy(), strict=True
    ):
        (maps / image_id).parent.mkdir(parents=True, exist_ok=True)
        np.save(maps / f"{image_id}.npy", scores.astype(np.float64))
    shutil.copytree(root / "metadata", tmp_path / "metadata" / "openimages")
    words = (maps, "--metadata", tmp_path / "metadata", "--dataset", "openimages", "--mask-root", root)
    code, out, err = wsolfast("eval-maps", *words, "--interval", "0.05")
    assert code == 0, err
    row = next(line for line in out.splitlines() if line.startswith("Peak-T "))
    assert re.fullmatch(r"Peak-T +\d+( .*)?", row.rstrip()), row


def test_openimages_are_measured_as_the_drop_in_does(openimages, capsys):
    drop_in = pytest.importorskip(
        "wsolfast.compat.wsolevaluation", reason="the box engine is not compiled", exc_type=ImportError
    )
    results = evaluate(openimages)
    assert results.num_images == COUNTS["test"]  # the image whose masks are all empty counts as background
    root = openimages.recipe.data.root
    maps = kept_maps(openimages, "test").numpy()
    evaluator = drop_in.MaskEvaluator(
        metadata=drop_in.configure_metadata(f"{root}/metadata/test"),
        dataset_name="OpenImages",
        split="test",
        cam_threshold_list=list(np.arange(0, 1, 0.001)),
        iou_threshold_list=[50],
        mask_root=root,
        multi_contour_eval=False,
    )
    for score_map, image_id in zip(maps, open_eval_data(openimages.recipe, "test").image_ids, strict=True):
        large = drop_in._numpy.resize(score_map.astype(np.float64), (224, 224), "cubic")
        evaluator.accumulate(drop_in.normalize_scoremap(large), image_id)
    found, missed = evaluator.gt_true_score_hist[::-1].cumsum(), evaluator.gt_false_score_hist[::-1].cumsum()
    assert results.pixel.px_ap == evaluator.compute()
    assert results.pixel.p_iou == 100 * (found / (found[-1] + missed)).max()
    assert 0 < results.pixel.px_ap < 100
    assert saved(openimages, "per_image.json")["images"][-1]["iou"] == 0


def test_openimages_go_through_every_command(openimages, wsolfast, tmp_path):
    root = openimages.recipe.data.root
    assert wsolfast("data", "check", "openimages", root)[0] == 0
    code, out, _ = wsolfast("eval", openimages.path)
    assert (code, "PxAP" in out) == (0, True)
    code, out, _ = wsolfast("report", openimages.path, "--out", tmp_path / "page.html")
    assert code == 0
    photo = next(iter((tmp_path / "openimages" / "test").glob("*/*.jpg")))
    assert wsolfast("localize", openimages.path, photo)[0] == 0
    threshold = json.loads((openimages.path / "localized" / "boxes.json").read_text())["threshold"]
    assert threshold == saved(openimages, "results.json")["cam_threshold"]
    code, _, err = wsolfast("data", "check", "openimages", root, "metadata")
    assert (code, "expected OPTION=VALUE" in err) == (2, True)
    code, _, err = wsolfast("data", "check", "openimages", root, "metdata=x")
    assert (code, "did you mean 'metadata'?" in err) == (2, True)


@pytest.mark.realdata
def test_real_masks_are_measured(tiny, tmp_path, real_data, coarse_sweep):
    recipe = tiny("data.options={}", "data.name=folder", f"data.root={real_data / 'pets3_256'}", "stage.epochs=0")
    run = RunFolder.create(tmp_path / "pets", recipe)
    train(run)
    results = evaluate(run, limit=20)
    assert results.pixel.images == 20
    baseline = results.baselines["center_box"]
    # A box of 80 % around the centre holds most of a pet that fills its image.
    assert 35 < baseline["p_iou"] < 75
    assert baseline["gt_known_loc"] > 30
    assert 20 < results.pixel.px_ap < 90
    dataset = open_eval_data(run.recipe, "test")
    assert (dataset.mask(0) == 255).any()
