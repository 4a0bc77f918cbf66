from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles.made_up_results import made_up_row
from PIL import Image

from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.report import pictures
from wsolfast.engine.report.contact_sheet import choose_ranks, draw_contact_sheet, write_sheets
from wsolfast.engine.report.evidence import collect_evidence
from wsolfast.engine.report.training_charts import draw_training, training_charts
from wsolfast.engine.run.errors import MissingError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.run_records import read_evaluations
from wsolfast.engine.training.train import train
from wsolfast.recipe import load_recipe


def _rows(overlaps):
    return [made_up_row(k, iou=iou) for k, iou in enumerate(overlaps)]


def test_ranks_are_the_ends_and_the_middle_from_the_worst_up():
    overlaps = np.random.default_rng(0).permutation(21) / 20
    chosen = choose_ranks(_rows(overlaps), 3)
    by_iou = [f"i{k}" for k in np.argsort(overlaps)]
    assert list(chosen) == [*by_iou[:3], *by_iou[9:12], *by_iou[-3:]]
    assert [reason for (reason,) in chosen.values()] == ["worst"] * 3 + ["median"] * 3 + ["best"] * 3


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_few_images_are_shown_once(count):
    chosen = choose_ranks(_rows(np.arange(count) / 10), 4)
    assert len(chosen) == min(count, 3)


def test_spotlight_leaves_the_mask_and_darkens_the_rest():
    photo = Image.fromarray(np.random.default_rng(1).integers(128, 255, (40, 60, 3), dtype=np.uint8))
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 2:5] = True
    lit, before = np.asarray(pictures.spotlight(photo, mask)), np.asarray(photo)
    inside = np.kron(mask, np.ones((10, 10), dtype=bool))
    assert (lit[inside] == before[inside]).all()
    assert lit[~inside].max() < 110
    assert np.ptp(lit[~inside].astype(int), axis=-1).max() <= 8  # grey, but for the tint of the dark


def test_every_evaluation_gets_a_sheet_and_training_its_curves(trained, tmp_path, wsolfast):
    evaluate(trained)
    evaluate(trained, replace(trained.recipe, evaluate=replace(trained.recipe.evaluate, post="scg")))
    files, notes = write_sheets([trained.path], tmp_path / "sheets", each=2)
    assert [file.name for file in files] == ["run-training.png", "run-test.png", "run-test-scg.png"]
    assert notes == []
    plain, refined = (Image.open(file).size for file in files[1:])
    # Three columns, and a fourth with the map that SCG refined.
    assert refined[0] - plain[0] == 224 + 224 // 12
    (trained.path / "metrics.jsonl").unlink()
    trained.weights_path("localizer").unlink()
    files, notes = write_sheets([trained.path], tmp_path / "again", each=2)
    assert [file.name for file in files] == ["run-test.png", "run-test-scg.png"]
    assert len(notes) == 3
    assert all("the run is not finished" in note for note in notes[1:])
    code, said, _ = wsolfast("report", trained.path, "--out", tmp_path / "page" / "index.html", "--sheets")
    assert code == 0
    assert said.count("the run is not finished") == 2
    assert f"sheets: {tmp_path / 'page' / 'sheets' / 'run-test.png'}" in said


def test_a_run_that_was_not_measured_is_said_so(trained, tmp_path):
    files, notes = write_sheets([trained.path], tmp_path)
    assert [file.name for file in files] == ["run-training.png"]
    assert "no per-image table" in notes[0]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(MissingError, match="no run folder"):
        write_sheets([tmp_path], tmp_path / "sheets")


def test_boxes_stand_where_the_table_says(trained):
    """The picture of the worst image differs from its photograph along the box and nowhere far from it."""
    evaluate(trained)
    (run,) = read_evaluations(trained.path)
    sheet = draw_contact_sheet(run, 1, [])
    assert sheet.width == 2 * (224 // 6) + 3 * 224 + 2 * (224 // 12)
    colors = {color for _, color in sheet.getcolors(sheet.width * sheet.height)}
    assert {pictures.PREDICTED, pictures.TRUE} <= colors


def test_training_logs_the_accuracy_and_draws_it(trained):
    (run,) = read_evaluations(trained.path)
    shares = [row["accuracy"] for row in run.history]
    assert shares
    assert all(0 <= share <= 1 for share in shares)
    ((losses, accuracy, rate),) = training_charts(run)
    assert losses.title == accuracy.title == "CAM"
    assert (accuracy.y_label, rate.y_label) == ("training accuracy, %", "learning rate")
    assert [text for _, text in accuracy.y_ticks] == ["0", "25", "50", "75", "100"]
    assert draw_training(run).width > 2 * 3 * losses.width
    assert draw_training(replace(run, history=[])) is None


def test_labels_of_an_earlier_stage_are_evidence(tmp_path, coarse_sweep):
    """SPOL: what the segmentation stage would be taught of a test image."""
    overrides = ["data.options.num_train=16", "data.options.num_test=6", "data.options.num_val=4"]
    recipe = load_recipe("demo/spol", overrides)
    recipe = replace(recipe, stage=tuple(replace(stage, epochs=1) for stage in recipe.stage))
    run = RunFolder.create(tmp_path / "run", recipe)
    train(run)
    evaluate(run)
    (record,) = read_evaluations(run.path)
    found = collect_evidence(run, run.recipe, "test", list(record.images)[:3])
    assert list(found) == ["label by cam"]
    labels = torch.from_numpy(np.stack(found["label by cam"]))
    assert labels.shape == (3, recipe.data.resize, recipe.data.resize)
    assert torch.isin(labels, torch.tensor([0.0, 0.5, 1.0])).all()
