"""What an evaluation found, as files and objects of other tools."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles.made_up_results import made_up_results, made_up_row
from PIL import Image

from wsolfast import data
from wsolfast.data.images.decode import decode_grey
from wsolfast.engine.evaluation.score_maps import MapBatch, ScoreMaps
from wsolfast.engine.run.results import ImageTable
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.export.coco import run_lengths, write_coco
from wsolfast.export.findings import Findings
from wsolfast.export.objects import to_fiftyone, to_supervision
from wsolfast.metrics import get_protocol
from wsolfast.recipe import dump_recipe, load_recipe

SIZE = (32, 24)
NAMES = ["ant", "bee"]


@pytest.fixture
def run(tmp_path):
    """An evaluation of three images: a block in a corner each, of 8 x 8 cells; the second one's label is not kept."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.toml").write_text(dump_recipe(load_recipe("demo/cam")))
    maps = torch.zeros(3, 8, 8)
    maps[:, 2:6, 1:5] = 1
    classes, scores = torch.tensor([[0], [0], [1]]), torch.tensor([[0.75], [0.5], [1.0]])
    at = folder / "eval" / "test"
    seconds = dict.fromkeys(("decode", "copy", "network", "maps", "boxes", "write", "wait", "all"), 0.0)
    ScoreMaps(at / "maps").save(MapBatch(0, maps, classes, scores, seconds))
    rows = [
        made_up_row(k, image_id=f"test/{name}.jpg", label=label, size=SIZE)
        for k, (name, label) in enumerate((("a", 0), ("b", 1), ("c", 1)))
    ]
    (at / "per_image.json").write_text(json.dumps(ImageTable(NAMES, rows).to_json()))
    (at / "results.json").write_text(json.dumps(made_up_results(cam_threshold=0.5).to_json()))
    return RunFolder(folder)


def test_coco_is_read_back_by_the_folder_data_set(run, wsolfast):
    code, said, complaint = wsolfast("export", run.path, "--to", "coco")
    assert code == 0, complaint
    assert "3 images at threshold 0.5" in said
    source = data.open_dataset("folder", run.path, "test", annotations="export/test.json", images="images", resize=32)
    assert list(source.image_ids) == ["test/a.jpg", "test/b.jpg", "test/c.jpg"]
    assert source.class_names == ("ant", "bee")
    assert source.labels.tolist() == [0, 1, 1]
    note = source.annotations(0)
    assert note.size == SIZE
    # Columns 1 to 4 of 8 and rows 2 to 5 of 8, give or take half a cell of bicubic slope.
    torch.testing.assert_close(note.boxes[0], torch.tensor([4.0, 6.0, 20.0, 18.0]).double(), rtol=0, atol=2)
    content = json.loads((run.path / "export" / "test.json").read_text())
    assert [row["score"] for row in content["annotations"]] == [0.75, 0, 1]


def test_masks_are_read_back_and_agree_with_the_boxes(run, wsolfast):
    code, _, complaint = wsolfast("export", run.path, "--to", "masks", "--threshold", "0.5")
    assert code == 0, complaint
    folder = run.path / "export" / "test"
    mask = decode_grey(folder / "masks" / "test" / "a.png")
    assert mask.shape == (24, 32)
    assert set(np.unique(mask)) == {0, 255}
    rows, columns = np.nonzero(mask)
    np.testing.assert_allclose([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], [4, 6, 20, 18], atol=2)
    scores = np.asarray(Image.open(folder / "scores" / "test" / "a.png"))
    assert (scores.min(), scores.max()) == (0, 255)
    # Cut at half the levels, the scores are the mask.
    assert ((scores >= 129)[mask == 0]).sum() == 0
    code, _, _ = wsolfast("export", run.path, "--to", "masks", "--threshold", "0.9", "--out", run.path / "less")
    assert (decode_grey(run.path / "less" / "masks" / "test" / "a.png") > 0).sum() < (mask > 0).sum()


def test_without_an_evaluation_the_command_says_what_to_do(run, wsolfast):
    code, _, complaint = wsolfast("export", run.path, "--to", "coco", "--split", "tset")
    assert code == 3
    assert "no evaluation; there are: test" in complaint


def test_run_lengths_go_down_the_columns_and_start_with_background():
    mask = torch.tensor([[True, False, False], [True, True, False]])
    assert run_lengths(mask) == {"size": [2, 3], "counts": [0, 2, 1, 1, 2]}
    assert run_lengths(~mask) == {"size": [2, 3], "counts": [2, 1, 1, 2]}


def test_the_map_of_a_crop_is_zero_outside_it_and_an_empty_map_has_no_box(run, tmp_path):
    crop = next(p for p in map(get_protocol, ("wsolevaluation", "spa", "spol", "danet")) if p.frame == "input")
    crop = replace(crop, frame="crop", input_size=8, resize=16)
    maps = ScoreMaps(run.path / "eval" / "test" / "maps")
    table = ImageTable(NAMES, [made_up_row(0, size=[16, 16])])
    (finding,) = Findings(maps, table, crop, 0.5)
    torch.testing.assert_close(finding.score_map[4:12, 4:12], next(maps.all()).maps[0].double())
    assert float(finding.score_map.sum()) == 16
    written = write_coco(Findings(maps, table, crop, 1.0), tmp_path / "none.json")
    assert written["annotations"] == [] or written["annotations"][0]["bbox"][2] > 0


def test_supervision(run):
    supervision = pytest.importorskip("supervision", reason="needs supervision, of the extra 'export'")
    from wsolfast.export import read_findings

    findings = read_findings(run)
    detections = to_supervision(next(iter(findings)), findings.class_names)
    assert isinstance(detections, supervision.Detections)
    assert detections.class_id.tolist() == [0]
    assert detections.confidence.tolist() == [0.75]
    assert detections["class_name"].tolist() == ["ant"]
    assert detections.mask.shape == (1, 24, 32)
    x0, y0, x1, y1 = detections.xyxy[0]
    assert detections.mask[0].sum() == pytest.approx((x1 - x0) * (y1 - y0), rel=0.15)


def test_fiftyone(run):
    fiftyone = pytest.importorskip("fiftyone", reason="needs fiftyone, which brings a database and is in no extra")
    from wsolfast.export import read_findings

    findings = read_findings(run)
    finding = next(iter(findings))
    sample = fiftyone.Sample(filepath="ant.png", **to_fiftyone(finding, findings.class_names))
    (detection,) = sample.localization.detections
    assert (detection.label, detection.confidence) == ("ant", 0.75)
    x, y, width, height = detection.bounding_box
    assert [x * 32, y * 24, (x + width) * 32, (y + height) * 24] == pytest.approx(finding.boxes[0].tolist())
    assert detection.mask.sum() == finding.mask.sum()
    assert sample.score_map.map.shape == (24, 32)


@pytest.mark.parametrize(("package", "convert"), [("supervision", to_supervision), ("fiftyone", to_fiftyone)])
def test_a_tool_that_is_not_installed_is_named(run, monkeypatch, package, convert):
    from wsolfast.export import read_findings

    monkeypatch.setitem(sys.modules, package, None)
    findings = read_findings(run)
    with pytest.raises(ImportError, match=f"{package} is not installed; pip install"):
        convert(next(iter(findings)), findings.class_names)
