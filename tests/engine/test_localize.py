"""``localize`` and ``evaluate`` say the same of the same image."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.evaluation.score_maps import ScoreMaps
from wsolfast.engine.localize import localize
from wsolfast.engine.report.pictures import draw_boxes, overlay
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.methods.cam import CAM
from wsolfast.recipe import dump_recipe, parse_recipe

CLASSES = 6


@pytest.fixture
def photos(tmp_path):
    """A data set of image files, each of its own size."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    root.mkdir()
    rows = ["image,class_id,class_name,width,height,x0,y0,x1,y1,split"]
    for k in range(2 * CLASSES):
        width, height = (int(side) for side in rng.integers(50, 90, 2))
        # The border, which a central crop cuts off, is of another colour than what it surrounds.
        pixels = np.tile(rng.integers(0, 256, 3, dtype=np.uint8), (height, width, 1))
        pixels[9:-9, 9:-9] = rng.integers(0, 256, (height - 18, width - 18, 3)) // 2 + rng.integers(0, 128, 3)
        Image.fromarray(pixels).save(root / f"{k}.png")
        split = "test" if k < CLASSES else "train"
        rows.append(f"{k}.png,{k % CLASSES},class {k % CLASSES},{width},{height},8,8,40,40,{split}")
    (root / "annotations.csv").write_text("\n".join(rows) + "\n")
    return root


def untrained(tiny, tmp_path, photos, *overrides):
    data = ("data.name=folder", f"data.root={photos}", "data.options={}")
    recipe = tiny(*data, "stage.epochs=0", "evaluate.batch_size=1", "evaluate.topk=6", *overrides)
    return RunFolder.create(tmp_path / "run", recipe)


def kept_maps(run):
    found = ScoreMaps(run.eval_path("test") / "maps").rows(range(CLASSES))
    return [found[k] for k in range(CLASSES)]


@pytest.mark.parametrize("crop", ["center_crop", "ten_crop"])
@pytest.mark.parametrize("method", ["nl_ccam", "ci_cam"])
@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_an_image_is_localised_as_it_is_evaluated(tiny, tmp_path, photos, coarse_sweep, crop, method, amp):
    changes = (f"stage.method={method}", "stage.model={nl_positions=[]}", f"runtime.amp={amp}")
    run = untrained(tiny, tmp_path, photos, *changes, "runtime.channels_last=true")
    evaluate(run)
    without_crop = kept_maps(run)
    run.replace_recipe(parse_recipe(dump_recipe(run.recipe), "cropped", [f"evaluate.{crop}=true"]))
    threshold = evaluate(run).cam_threshold
    maps = kept_maps(run)
    # Or the test would say nothing of who ranks the classes.
    assert any((one != other).any() for one, other in zip(maps, without_crop, strict=True))
    rows = json.loads((run.eval_path("test") / "per_image.json").read_text())["images"]
    files = [photos / row["image_id"] for row in rows]
    predicted = localize(run, files, tmp_path / "predicted").images
    for row, found in zip(rows, predicted, strict=True):
        assert (found.class_id, found.score) == (row["predicted"], row["score"])
    for row, file, score_map in zip(rows, files, maps, strict=True):
        of_label = localize(run, [file], tmp_path / "label", class_name=str(row["label"]))
        (found,) = of_label.images
        assert of_label.threshold == threshold
        assert found.class_id == row["label"]
        assert found.boxes == [row["box"]]
        picture = draw_boxes(overlay(Image.open(file), score_map, fade=True), found.boxes, dashed=not found.localized)
        np.testing.assert_array_equal(Image.open(found.overlay), picture)


def test_photos_and_other_files_are_never_replaced_by_overlays(tiny, tmp_path, photos, wsolfast):
    untrained(tiny, tmp_path, photos)
    run, mine = tmp_path / "run", photos / "0-2.png"
    (run / "classes.json").write_text(json.dumps([f"class {k}" for k in range(CLASSES)]))
    mine.write_bytes(b"another program's")
    before = {file.name: file.read_bytes() for file in photos.iterdir()}
    for _ in range(2):
        code, _, err = wsolfast("localize", run, photos / "0.png", photos / "1.png", "--out", photos)
        assert code == 0, err
        told = json.loads((photos / "boxes.json").read_text())
        assert [image["overlay"] for image in told["images"]] == [f"{photos}/0-3.png", f"{photos}/1-2.png"]
        assert {name: (photos / name).read_bytes() for name in before} == before
    # An overlay that is looked at is a photo, too.
    own = (photos / "1-2.png").read_bytes()
    code, _, err = wsolfast("localize", run, photos / "1-2.png", "--out", photos)
    assert code == 0, err
    assert (photos / "1-2.png").read_bytes() == own
    (photos / "boxes.json").write_text("[]")
    code, _, err = wsolfast("localize", run, photos / "1.png", "--out", photos)
    assert (code, err.count("\n")) == (2, 1)
    assert "boxes.json exists and is not of this command" in err
    assert (photos / "boxes.json").read_text() == "[]"


@pytest.fixture
def flat(monkeypatch):
    """Every map of CAM has one value everywhere."""
    original = CAM.localize_features

    def flattened(self, *arguments, **options):
        found = original(self, *arguments, **options)
        return dataclasses.replace(found, localization_map=torch.full_like(found.localization_map, 0.3))

    monkeypatch.setattr(CAM, "localize_features", flattened)


def test_a_constant_map_is_counted_and_gives_no_box(tiny, tmp_path, photos, coarse_sweep, wsolfast, flat):
    run = untrained(tiny, tmp_path, photos).path
    code, out, err = wsolfast("eval", run)
    assert code == 0, err
    assert f"{CLASSES} score maps have one value everywhere (maps_constant)" in out
    assert json.loads((run / "eval/test/results.json").read_text())["maps_constant"] == CLASSES
    code, out, err = wsolfast("localize", run, photos / "0.png", "--out", "found")
    assert code == 0, err
    assert "no box: its score map has one value everywhere" in out
    assert json.loads((tmp_path / "found/boxes.json").read_text())["images"][0]["boxes"] == []
    code, _, err = wsolfast("export", run, "--to", "coco", "--out", "found.json")
    assert code == 0, err
    assert json.loads((tmp_path / "found.json").read_text())["annotations"] == []
    code, _, err = wsolfast("export", run, "--to", "masks", "--out", "masks")
    assert code == 0, err
    assert not np.asarray(Image.open(tmp_path / "masks/masks/0.png")).any()


def test_maps_that_show_something_are_not_called_constant(tiny, tmp_path, photos, coarse_sweep, wsolfast):
    run = untrained(tiny, tmp_path, photos).path
    code, out, _ = wsolfast("eval", run)
    assert code == 0
    assert "maps_constant" not in out
    assert json.loads((run / "eval/test/results.json").read_text())["maps_constant"] == 0


def test_odd_photos_do_not_keep_the_others_from_being_localised(tiny, tmp_path, photos):
    run = untrained(tiny, tmp_path, photos)
    run.keep_class_names([f"class {k}" for k in range(CLASSES)])
    exif = Image.Exif()
    exif[0x0112], exif[0x0128] = 6, 2
    files = [photos / name for name in ("turned.jpg", "broken.jpg", "0.png")]
    Image.new("RGB", (60, 40)).save(files[0], exif=exif)
    # A ResolutionUnit that is a text, which Pillow reads and cannot write.
    files[0].write_bytes(files[0].read_bytes().replace(b"\x01\x28\x00\x03", b"\x01\x28\x00\x02"))
    files[1].write_bytes(files[0].read_bytes()[:-300])
    found = localize(run, files, tmp_path / "out")
    assert [one.file for one in found.images] == [str(files[0]), str(files[2])]
    assert found.images[0].size == [40, 60]
    assert [one.file for one in found.failed] == [str(files[1])]
    stored = RunFolder.create(tmp_path / "stored", tiny("data.name=folder", f"data.root={photos}", "stage.epochs=0"))
    stored.keep_class_names([f"class {k}" for k in range(CLASSES)])
    recipe = stored.recipe
    stored.replace_recipe(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, options={"orient": False})))
    assert localize(stored, files[:1], tmp_path / "as stored").images[0].size == [60, 40]
