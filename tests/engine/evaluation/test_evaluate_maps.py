"""``wsolfast eval-maps``: the numbers, the resumption, the comparison with OpenCV."""

import json
import os
import shutil
import signal
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles.benchmark_folder import BOXES, SIZES, smooth_map, write_boxes, write_maps, write_masks

from wsolfast import cli, ops
from wsolfast.data import DataError
from wsolfast.engine.evaluation import compare_opencv, map_files
from wsolfast.engine.evaluation.evaluate_maps import evaluate_maps
from wsolfast.engine.evaluation.measure import SplitMetrics
from wsolfast.engine.run.errors import BackendError, CheckError, Interrupted, MissingError, UsageError
from wsolfast.engine.run.progress import Progress
from wsolfast.metrics import PixelAccuracy


@pytest.fixture
def folder(tmp_path):
    """Metadata and score maps of four images."""
    write_boxes(tmp_path)
    write_maps(tmp_path)
    return tmp_path


def evaluate(folder, *, out="out", dataset="CUB", **options):
    where = (folder / "scoremaps", folder / "metadata", dataset, "test", folder / out)
    return evaluate_maps(*where, interval=0.05, **options)


def drop_in_numbers(folder, maps, multi):
    drop_in = pytest.importorskip("wsolfast.compat.wsolevaluation", exc_type=ImportError)
    counted = drop_in.BoxEvaluator(
        metadata=drop_in.configure_metadata(str(folder / "metadata" / "CUB" / "test")),
        dataset_name="CUB",
        split="test",
        cam_threshold_list=list(np.arange(0, 1, 0.05)),
        iou_threshold_list=[30, 50, 70],
        mask_root="",
        multi_contour_eval=multi,
    )
    for image_id in SIZES:
        counted.accumulate(maps[image_id], image_id)
    return counted


def read_maps(folder):
    return {image_id: np.load(folder / "scoremaps" / f"{image_id}.npy") for image_id in SIZES}


def test_the_numbers_are_the_drop_ins_on_its_own_files(folder):
    found = evaluate(folder).metrics
    counted = drop_in_numbers(folder, read_maps(folder), multi=True)
    assert [found[name] for name in ("iou30", "iou50", "iou70")] == counted.compute()
    assert found["max_box_acc_v2"] == np.average(counted.compute())
    single = drop_in_numbers(folder, read_maps(folder), multi=False)
    assert found["max_box_acc"] == found["gt_known_loc"] == single.compute()[1]
    curves = json.loads((folder / "out" / "curves.json").read_text())
    assert curves["max_box_acc"] == (single.num_correct[50] * 25).tolist()


def test_thresholds_of_another_split_are_measured_beside_the_best(folder):
    shutil.copytree(folder / "metadata" / "CUB" / "test", folder / "metadata" / "CUB" / "val")
    write_maps(folder, lambda rng: smooth_map(rng, grid=3))
    where = (folder / "scoremaps", folder / "metadata", "CUB")
    val = evaluate_maps(*where, "val", folder / "val", interval=0.05)
    assert val.split == "train_fullsup"
    write_maps(folder)
    found = evaluate(folder, thresholds_of=folder / "val")
    curves = json.loads((folder / "out" / "curves.json").read_text())
    for name in ("max_box_acc", "iou30", "iou70"):
        at = val.oracle_threshold[name]
        assert found.transferred_thresholds[name] == at
        assert found.transferred[name] == curves[name][curves["thresholds"].index(at)] <= found.metrics[name]
    best, elsewhere = found.oracle_threshold["gt_known_loc"], val.oracle_threshold["gt_known_loc"]
    assert found.cam_threshold == elsewhere != best
    with pytest.raises(MissingError, match="no results of score maps"):
        evaluate(folder, thresholds_of=folder)
    for thresholds, text in (
        (val.oracle_threshold | {"gt_known_loc": 0.123}, r"gt_known_loc: threshold 0\.123 was not counted"),
        ({"p_iou": 0.5}, "was measured on masks"),
        ({"gt_known_loc": 0.5}, "no threshold for 'max_box_acc'"),
    ):
        changed = replace(val, oracle_threshold=thresholds)
        (folder / "val" / "results.json").write_text(json.dumps(changed.to_json()))
        with pytest.raises(UsageError, match=rf"--thresholds-of: .*{text}"):
            evaluate(folder, thresholds_of=folder / "val")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_small_maps_of_any_type_are_resized_and_normalized(folder, dtype):
    cv2 = pytest.importorskip("cv2")
    scale = 255 if dtype == np.uint8 else 3
    write_maps(folder, lambda rng: (smooth_map(rng, grid=4, side=14) * scale).astype(dtype))
    maps = read_maps(folder)
    for image_id, scores in maps.items():
        scores = cv2.resize(scores.astype(np.float64), (224, 224), interpolation=cv2.INTER_CUBIC)
        scores -= scores.min()
        maps[image_id] = scores / scores.max()
    found = evaluate(folder, compare=4)
    assert [found.metrics[f"iou{level}"] for level in (30, 50, 70)] == drop_in_numbers(folder, maps, True).compute()
    assert found.compared.images == 4


def test_the_run_folder_says_everything_and_the_images_one_by_one(folder):
    found = evaluate(folder, protocol="spa", metrics="gt_known_loc,max_box_acc_v2")
    assert list(found.metrics) == ["gt_known_loc", "max_box_acc_v2"]
    assert json.loads((folder / "out" / "results.json").read_text()) == found.to_json()
    table = json.loads((folder / "out" / "per_image.json").read_text())["images"]
    assert [row["image_id"] for row in table] == list(SIZES)
    assert [tuple(row["size"]) for row in table] == list(SIZES.values())
    assert [len(row["gt_boxes"]) for row in table] == [len(BOXES[image_id]) for image_id in SIZES]
    right = sum(row["iou"] > 0.5 for row in table)
    assert found.metrics["gt_known_loc"] == right * 25
    assert found.baselines["center_box"]["gt_known_loc"] in (0, 25, 50, 75, 100)


def test_boxes_alone_cost_no_max_box_sweep(folder):
    found = evaluate(folder, metrics="gt_known_loc")
    assert list(found.metrics) == ["gt_known_loc"]
    assert "max_box_acc" not in json.loads((folder / "out" / "curves.json").read_text())


@pytest.fixture
def counted(monkeypatch):
    """The images that are counted, in batches of one."""
    update, seen = SplitMetrics.update, []

    def counting(self, batch):
        update(self, batch)
        seen.extend(batch.images)

    monkeypatch.setattr(map_files, "_BATCH", 1)
    monkeypatch.setattr(SplitMetrics, "update", counting)
    return seen


def stop_after(monkeypatch, images):
    """A signal arrives when the given number of images has been counted."""
    update = SplitMetrics.update

    def stopped(self, batch):
        update(self, batch)
        if batch.images.stop == images:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SplitMetrics, "update", stopped)


class Said(Progress):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def log(self, text):
        self.lines.append(text)


@pytest.mark.parametrize("annotated", ["boxes", "masks"])
def test_an_interrupted_evaluation_goes_on_with_the_same_digits(tmp_path, monkeypatch, counted, annotated):
    folder, options = tmp_path, {}
    if annotated == "boxes":
        write_boxes(folder)
    else:
        write_masks(folder)
        options = {"dataset": "OpenImages", "mask_root": folder / "dataset"}
    write_maps(folder)
    whole = evaluate(folder, out="whole", **options)
    assert counted == [0, 1, 2, 3]
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted, match=r"stopped; the same command goes on with the counters in .*out"):
            evaluate(folder, **options)
    assert not (folder / "out" / "results.json").exists()
    counted.clear()
    said = Said()
    resumed = evaluate(folder, progress=said, **options)
    assert counted == [3]
    assert said.lines[0].startswith("3 of 4 images are counted already")
    for key in ("metrics", "oracle_threshold", "baselines"):
        assert getattr(resumed, key) == getattr(whole, key)
    for name in ("curves.json", "per_image.json"):
        assert (folder / "out" / name).read_text() == (folder / "whole" / name).read_text()


def test_few_score_maps_are_in_memory_at_once(tmp_path, monkeypatch):
    image_ids = [f"{k}.jpg" for k in range(60)]
    at = tmp_path / "metadata" / "CUB" / "test"
    at.mkdir(parents=True)
    for name, rest in (
        ("image_ids", ""),
        ("class_labels", ",0"),
        ("image_sizes", ",40,30"),
        ("localization", ",0,0,9,9"),
    ):
        (at / f"{name}.txt").write_text("".join(f"{image_id}{rest}\n" for image_id in image_ids))
    (tmp_path / "scoremaps").mkdir()
    for image_id in image_ids:
        np.save(tmp_path / "scoremaps" / f"{image_id}.npy", np.random.default_rng(0).random((224, 224)))
    monkeypatch.setattr(map_files, "_BATCH", 5)
    tracemalloc.start()
    try:
        evaluate(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Three batches, one of them just read, and what a batch is counted with.
    assert peak < 25 * 224 * 224 * 8


@pytest.mark.parametrize("change", ["map", "protocol", "file"])
def test_counters_of_other_maps_or_settings_are_not_used(folder, change):
    evaluate(folder)
    options = {}
    if change == "map":
        file = folder / "scoremaps" / "a" / "0.jpg.npy"
        np.save(file, np.zeros((7, 7)))
    elif change == "protocol":
        options = {"protocol": "ts_cam"}
    else:
        (folder / "out" / "counters.pt").write_bytes(b"torn")
    said = Said()
    again = evaluate(folder, progress=said, **options)
    assert said.lines[0].endswith("starting over")
    assert again.metrics == evaluate(folder, out="fresh", **options).metrics


def test_masks_give_the_drop_ins_pxap(tmp_path):
    drop_in = pytest.importorskip("wsolfast.compat.wsolevaluation", exc_type=ImportError)
    for one_size in (True, False):
        root = tmp_path / str(one_size)
        write_masks(root, one_size)
        write_maps(root)
        found = evaluate(root, dataset="OpenImages", mask_root=root / "dataset", compare=2)
        counted = drop_in.MaskEvaluator(
            metadata=drop_in.configure_metadata(str(root / "metadata" / "OpenImages" / "test")),
            dataset_name="OpenImages",
            split="test",
            cam_threshold_list=list(np.arange(0, 1, 0.05)),
            iou_threshold_list=[50],
            mask_root=str(root / "dataset" / "OpenImages"),
            multi_contour_eval=False,
        )
        for image_id, scores in read_maps(root).items():
            counted.accumulate(scores, image_id)
        assert found.metrics["px_ap"] == counted.compute()
        assert found.compared.thresholds == 20
        rows = json.loads((root / "out" / "per_image.json").read_text())["images"]
        assert [row["image_id"] for row in rows] == list(SIZES)
        assert all(0 < row["iou"] < 1 for row in rows)


@pytest.mark.parametrize("every", [False, True], ids=["largest", "all"])
def test_a_difference_from_opencv_in_one_box_is_found(folder, monkeypatch, every):
    honest = ops.score_map_boxes

    def planted(maps, thresholds, rule):
        found = honest(maps, thresholds, rule)
        if (rule.selection == "all") == every:
            boxes = found.boxes if every else found.boxes[0]
            boxes[int(found.offsets[7]) if every else 7, 2] += 1
        return found

    monkeypatch.setattr(ops, "score_map_boxes", planted)
    name = "all contours" if every else "the largest contour"
    with pytest.raises(CheckError, match=rf"a/0\.jpg, threshold 0\.35, {name}: OpenCV finds boxes \[\["):
        evaluate(folder, compare=4)
    assert not (folder / "out" / "results.json").exists()


def test_a_difference_in_the_hits_is_found(folder, monkeypatch):
    honest = compare_opencv.rule_hits

    def planted(score_maps, sizes, *words):
        hits = honest(score_maps, sizes, *words)
        if sizes.tolist() == [[100, 60]]:
            hits[1][0, 4, 2] ^= True
        return hits

    monkeypatch.setattr(compare_opencv, "rule_hits", planted)
    with pytest.raises(CheckError, match=r"b/3\.jpg, threshold 0\.2, all contours: the loop's best overlap is 0\."):
        evaluate(folder, compare=4)


def test_a_difference_in_the_pixels_is_found(tmp_path, monkeypatch):
    write_masks(tmp_path)
    write_maps(tmp_path)
    honest = PixelAccuracy.count

    def planted(self, *words):
        counts = honest(self, *words)
        counts["scores"][1, 9] += 1
        return counts

    monkeypatch.setattr(PixelAccuracy, "count", planted)
    with pytest.raises(CheckError, match=r"a/0\.jpg, threshold 0\.45: NumPy counts \d+ object pixels"):
        evaluate(tmp_path, dataset="OpenImages", mask_root=tmp_path / "dataset", compare=1)


def test_comparing_needs_opencv_and_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(BackendError, match=r"pip install 'wsolfast\[fast\]'"):
        evaluate(folder, compare=1)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"metrics": "iou50,top1_loc"}, UsageError, "no 'top1_loc' here; choose from gt_known_loc"),
        ({"protocol": "mine"}, UsageError, "--protocol: unknown protocol 'mine'"),
        ({"dataset": "OpenImages"}, UsageError, "give their folder as --mask-root"),
        ({"dataset": "cub"}, UsageError, "has 'CUB'; give it in these letters"),
        ({"dataset": "absent"}, DataError, "test: no such folder; it holds the lists"),
    ],
)
def test_arguments_that_cannot_be_meant(folder, options, error, text):
    with pytest.raises(error, match=text):
        evaluate(folder, **options)


def test_maps_that_are_not_finite_are_counted_and_told(wsolfast, folder):
    np.save(folder / "scoremaps" / "a" / "1.jpg.npy", np.full((7, 7), np.nan))
    code, out, _ = wsolfast(*MAPS, "--compare", "opencv:4")
    assert code == 0
    assert "1 score map holds a NaN or an infinity: it counts as empty" in out


def test_broken_score_maps_are_named(folder):
    file = folder / "scoremaps" / "b" / "2.jpg.npy"
    np.save(file, np.zeros((3, 7, 7)))
    with pytest.raises(DataError, match=r"2\.jpg\.npy: expected a score map \[h, w\].*got float64 \[3, 7, 7\]"):
        evaluate(folder)
    file.write_bytes(b"torn")
    with pytest.raises(MissingError, match=r"2\.jpg\.npy: no readable score map"):
        evaluate(folder)
    file.unlink()
    with pytest.raises(MissingError, match=r"2\.jpg\.npy: missing; write the score map of every image"):
        evaluate(folder)


def test_a_folder_of_something_else_is_left_alone(folder):
    with pytest.raises(UsageError, match="holds something else"):
        evaluate(folder, out="scoremaps")


@pytest.fixture
def wsolfast(monkeypatch, capsys, folder):
    """Runs the command in the folder of the four images; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["wsolfast", "eval-maps", *words])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        told = capsys.readouterr()
        return exit_.value.code or 0, told.out, told.err

    return run


MAPS = ("scoremaps", "--metadata", "metadata", "--dataset", "CUB", "--interval", "0.1")


def test_the_command_prints_a_table_and_the_comparison(wsolfast, folder):
    code, out, _ = wsolfast(*MAPS, "--compare", "opencv:3")
    assert code == 0
    assert "3 images × 10 thresholds identical to OpenCV" in out
    assert "MaxBoxAccV2" in out
    code, out, _ = wsolfast(*MAPS, "--json", "--out", "elsewhere")
    first = json.loads((folder / "runs" / "maps-CUB-test" / "results.json").read_text())
    assert json.loads(out)["metrics"] == first["metrics"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((*MAPS, "--compare", "scipy:3"), 2, "expected opencv:N"),
        ((*MAPS, "--split", "train"), 2, "--split: expected test or train_fullsup"),
        ((*MAPS, "--mask-root", ".", "--thresholds-of", "."), 3, "localization.txt"),
        (("absent", *MAPS[1:]), 3, "absent/a/0.jpg.npy: missing"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(wsolfast, words, code, text):
    found, _, told = wsolfast(*words)
    assert found == code
    assert text in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"), [(MAPS[:3], "--dataset"), (MAPS[1:], "DIR"), ((*MAPS, "--limit", "3"), "--limit")]
)
def test_every_command_has_its_own_options(wsolfast, words, text):
    code, _, told = wsolfast(*words)
    assert code == 2
    assert text in told


def test_a_difference_from_opencv_is_exit_5(wsolfast, monkeypatch):
    monkeypatch.setattr(compare_opencv, "_quantized", lambda scores: np.uint8(np.round(scores * 255)))
    code, _, told = wsolfast(*MAPS, "--compare", "opencv:64")
    assert code == 5
    assert "a/0.jpg, threshold 0" in told


def test_counters_survive_without_pickled_code(folder):
    evaluate(folder)
    kept = torch.load(folder / "out" / "counters.pt", weights_only=True)
    assert kept["done"] == 4


def test_constant_maps_are_counted_and_told(wsolfast, folder):
    np.save(folder / "scoremaps" / "a" / "1.jpg.npy", np.full((7, 7), 0.3))
    code, out, _ = wsolfast(*MAPS)
    assert code == 0
    assert "1 score map has one value everywhere (maps_constant)" in out
    assert json.loads((folder / "runs" / "maps-CUB-test" / "results.json").read_text())["maps_constant"] == 1
