"""A run whose method gives boxes: trained, interrupted, measured, shown and exported, without a threshold."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast import data
from wsolfast.engine.assembly.build import eval_protocol, open_eval_data
from wsolfast.engine.assembly.network import Network
from wsolfast.engine.evaluation import eval_pass
from wsolfast.engine.evaluation.eval_split import EvalShard
from wsolfast.engine.evaluation.evaluate import evaluate, evaluate_shard
from wsolfast.engine.evaluation.score_maps import ScoreMaps
from wsolfast.engine.localize import localize
from wsolfast.engine.report.contact_sheet import write_sheets
from wsolfast.engine.report.report import write_report
from wsolfast.engine.run.errors import Interrupted, UsageError
from wsolfast.engine.run.results import EvalResults, ImageTable
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training import artefacts
from wsolfast.engine.training.train import train
from wsolfast.export import read_findings, to_fiftyone, to_supervision
from wsolfast.metrics import BoxAccuracy, GivenBoxes, center_box
from wsolfast.recipe import RecipeError, dump_recipe, parse_recipe

PSOL = """
[data]
name = "synthetic"
crop = 48
[data.options]
num_classes = 2
size = 64
num_train = 16
num_val = 4
num_test = 10
[[stage]]
name = "cam"
method = "cam"
epochs = 1
batch_size = 8
resize = 56
backbone = {name = "small"}
[[stage]]
name = "ddt"
method = "ddt"
epochs = 1
batch_size = 8
resize = 96
backbone = {name = "small", weights = "stage.cam"}
[[stage]]
name = "box"
method = "psol.box"
epochs = 2
batch_size = 8
uses = {pseudo_box = "ddt"}
crop_area = [0.2, 1.0]
backbone = {name = "small", weights = "stage.cam"}
[evaluate]
protocol = "psol_regressor"
resize = 56
center_crop = true
classifier = "cam"
batch_size = 4
[runtime]
workers = 0
device = "cpu"
[[variant]]
name = "ddt"
set = ["evaluate.localizer=ddt", "evaluate.protocol=psol"]
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = RunFolder.create(tmp_path_factory.mktemp("psol") / "run", parse_recipe(PSOL, "psol"))
    train(run)
    return run, evaluate(run)


@pytest.fixture
def trained(whole, tmp_path):
    """A copy of the run, not yet measured."""
    shutil.copytree(whole[0].path, tmp_path / "copy", ignore=shutil.ignore_patterns("eval", ".lock"))
    return RunFolder(tmp_path / "copy")


def changed(run, *overrides):
    return parse_recipe(dump_recipe(run.recipe), run.recipe.name, overrides)


def kept(run, name="test"):
    return list(ScoreMaps(run.eval_path(name) / "maps").all())


def test_ddts_boxes_are_those_of_its_own_size(whole):
    run, _ = whole
    exported = artefacts.load(run, run.recipe.stage[2])
    assert exported.keys() == {"pseudo_box"}
    assert exported["pseudo_box"].shape == (16, 4)
    # 96 pixels are 12 cells of the small network's stride 8, or 6 of stride 16.
    cells = exported["pseudo_box"] * 12
    torch.testing.assert_close(cells, cells.round(), rtol=0, atol=1e-9)  # twelfths in double precision
    seven = exported["pseudo_box"] * 7
    assert (seven - seven.round()).abs().max() > 0.01


def test_numbers_are_those_of_the_networks_boxes_and_have_no_threshold(whole):
    run, results = whole
    dataset, protocol = open_eval_data(run.recipe, "test"), eval_protocol(run.recipe)
    assert (protocol.resize, protocol.input_size) == (56, 48)
    predictor = Network(run, run.recipe, 2).predictor
    samples = [dataset[k] for k in range(10)]
    notes = [dataset.annotations(k) for k in range(10)]
    image, wide = (torch.stack([getattr(sample, name) for sample in samples]) for name in ("image", "wide"))
    boxes, classes, _ = predictor(image, wide, dataset.labels)
    sizes, truths = torch.tensor([note.size for note in notes]), [note.boxes for note in notes]
    accuracy = BoxAccuracy(protocol)
    accuracy.update_given_boxes(GivenBoxes(boxes, torch.full((10, 2), 48), sizes), truths, dataset.labels, classes)
    expected = accuracy.compute()
    assert results.metrics == {name: expected[name] for name in results.metrics}
    assert {"gt_known_loc", "top1_loc", "top5_loc", "max_box_acc_v2"} < set(results.metrics)
    centre = BoxAccuracy(protocol)
    centre.update_boxes(center_box(sizes), truths, dataset.labels, classes)
    assert results.baselines["center_box"]["gt_known_loc"] == centre.compute()["gt_known_loc"]
    written = json.loads((run.eval_path("test") / "results.json").read_text())
    assert written["cam_threshold"] is None
    assert written["thresholds"] is None
    assert written["cam_threshold_source"] == "none"
    assert written["oracle_threshold"] == {}
    assert not {"transferred", "transferred_thresholds", "transferred_threshold", "maps_constant"} & set(written)
    assert json.loads((run.eval_path("test") / "curves.json").read_text()) == {}
    assert EvalResults.read(run.eval_path("test") / "results.json").gives_boxes
    assert sum(vars(results.error_split).values()) == pytest.approx(100)
    # Nothing is chosen on train_fullsup, so nothing is computed of it.
    assert not run.eval_path("train_fullsup").exists()
    table = ImageTable.read(run.eval_path("test") / "per_image.json")
    for row, box, sample in zip(table.images, boxes, samples, strict=True):
        # Rows have hundredths of a pixel, and convolutions of other batch sizes sum in another order.
        np.testing.assert_allclose(row.box, sample.placement.boxes_to_image(box), atol=0.01)


def test_an_interrupted_evaluation_goes_on_with_the_boxes_that_are_there(trained, whole, interrupt):
    interrupt(ScoreMaps, "save", 2)
    with pytest.raises(Interrupted):
        evaluate(trained)
    assert len(kept(trained)) == 2
    results = evaluate(trained)
    assert results.metrics == whole[1].metrics
    assert results.error_split == whole[1].error_split


def test_another_protocol_measures_the_boxes_that_are_kept(trained, monkeypatch):
    recipe = changed(trained, "evaluate.protocol=spa", "evaluate.center_crop=false", "evaluate.resize=48")
    first = evaluate(trained, recipe)
    monkeypatch.setattr(eval_pass, "compute_score_maps", None)
    other = evaluate(trained, changed(recipe_run(trained, recipe), "evaluate.protocol=wsolevaluation"))
    assert other.metrics["max_box_acc_v2"] == first.metrics["max_box_acc_v2"]
    assert other.metrics["gt_known_loc"] == other.metrics["max_box_acc"]


def recipe_run(run, recipe):
    run.replace_recipe(recipe)
    return run


def test_shards_find_what_one_evaluation_does(trained, whole):
    assert evaluate_shard(trained, None, EvalShard(1, 2)) is None
    found = evaluate_shard(trained, None, EvalShard(2, 2))
    assert found.metrics == whole[1].metrics


def test_ten_crops_rank_the_classes_of_boxes(trained, whole):
    found = evaluate(trained, changed(trained, "evaluate.ten_crop=true"))
    assert found.metrics["gt_known_loc"] == whole[1].metrics["gt_known_loc"]


def test_a_variant_measures_the_boxes_that_it_learnt_from(trained):
    recipe = changed(trained)
    found = evaluate(trained, replace(recipe, evaluate=replace(recipe.evaluate, variant="ddt")))
    assert (found.variant, found.cam_threshold, found.gives_boxes) == ("ddt", 0.0, False)


@pytest.mark.parametrize("post", ["scg", "grad_cam"])
def test_a_refinement_is_refused_in_one_line(trained, wsolfast, post):
    with pytest.raises(
        RecipeError, match=f"evaluate.post: psol.box gives boxes and no maps, which {post} could refine"
    ):
        evaluate(trained, changed(trained, f"evaluate.post={post}"))
    code, _, complaint = wsolfast("eval", trained.path, "--post", post)
    assert code == 2
    assert complaint.count("\n") == 1


def test_localize_gives_the_networks_box(trained, tmp_path, wsolfast):
    dataset = data.open_dataset("synthetic", None, "test", **trained.recipe.data.options)
    pixels = dataset[0].image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    told = localize(trained, [tmp_path / "a.png"], tmp_path / "out")
    evaluate(trained)
    (first, *_) = ImageTable.read(trained.eval_path("test") / "per_image.json").images
    assert told.threshold is None
    (box,) = told.images[0].boxes
    # Both are rounded to hundredths, and one image is convolved like four but for the order of sums.
    assert box == pytest.approx(first.box, abs=0.011)
    assert json.loads((tmp_path / "out" / "boxes.json").read_text())["threshold"] is None
    shown = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert shown.shape == pixels.shape
    # The image under the box is as it was: no map lies over it.
    assert (shown == pixels).all(-1).mean() > 0.5
    with pytest.raises(UsageError, match=r"--threshold: psol\.box gives boxes and no maps"):
        localize(trained, [tmp_path / "a.png"], tmp_path / "out", threshold=0.3)
    code, _, complaint = wsolfast("localize", trained.path, tmp_path / "a.png", "--threshold", "0.3")
    assert (code, complaint.count("\n")) == (2, 1)


def test_a_report_draws_the_box_and_says_that_there_is_no_threshold(whole, tmp_path):
    run, _ = whole
    page = write_report([run.path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "gives boxes and no score maps, so it has no threshold, and no curve over thresholds" in page
    assert "Boxes are as the method gives them." in page
    assert 'id="thresholds"' not in page
    assert "oracle threshold" not in page
    assert "transferred threshold" not in page
    assert (tmp_path / "report.png").is_file()
    files, notes = write_sheets([run.path], tmp_path / "sheets", each=2)
    assert not [note for note in notes if "score map" in note]
    assert any(file.name.endswith("-test.png") for file in files)


def test_exports_hold_the_boxes_and_no_masks(whole, wsolfast, tmp_path):
    run, _ = whole
    table = ImageTable.read(run.eval_path("test") / "per_image.json")
    findings = read_findings(run)
    found = {finding.image_id: finding for finding in findings}
    assert findings.threshold is None
    for row in table.images:
        finding = found[row.image_id]
        assert finding.mask is finding.score_map is None
        assert finding.boxes[0].tolist() == pytest.approx(row.box, abs=0.006)  # rows have hundredths
    code, said, complaint = wsolfast("export", run.path, "--to", "coco", "--out", tmp_path / "boxes.json")
    assert code == 0, complaint
    assert "10 images with boxes as they are given" in said
    content = json.loads((tmp_path / "boxes.json").read_text())
    assert content["info"]["cam_threshold"] is None
    assert not any("segmentation" in row for row in content["annotations"])
    (x, y, width, height), area = content["annotations"][0]["bbox"], content["annotations"][0]["area"]
    assert [x, y, x + width, y + height] == pytest.approx(table.images[0].box, abs=0.02)  # both have hundredths
    assert area == pytest.approx(width * height, abs=1)  # sides are rounded to hundredths, of 64 pixels at most
    code, _, complaint = wsolfast("export", run.path, "--to", "masks")
    assert code == 2
    assert (
        complaint == "error: masks: the method gives boxes and no maps, so there are no masks; export to coco instead\n"
    )
    code, _, complaint = wsolfast("export", run.path, "--to", "coco", "--threshold", "0.5")
    assert code == 2
    assert "--threshold: psol gives boxes and no maps, nothing is cut; leave it out" in complaint


def test_objects_of_other_tools_have_no_masks(whole):
    finding = next(iter(read_findings(whole[0])))
    supervision = pytest.importorskip("supervision")
    detections = to_supervision(finding, ["a", "b"])
    assert isinstance(detections, supervision.Detections)
    assert detections.mask is None
    np.testing.assert_allclose(detections.xyxy, finding.boxes.float())


def test_fiftyone_gets_boxes_alone(whole, monkeypatch):
    made = SimpleNamespace(
        Detection=lambda **given: given, Detections=lambda detections: detections, Heatmap=lambda **given: given
    )
    monkeypatch.setitem(sys.modules, "fiftyone", made)
    fields = to_fiftyone(next(iter(read_findings(whole[0]))), ["a", "b"])
    assert fields.keys() == {"localization"}
    assert all("mask" not in detection for detection in fields["localization"])
