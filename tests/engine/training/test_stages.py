"""Several stages in one run: each resumes bit for bit, one localises, another one ranks the classes."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from wsolfast.engine.assembly.stage_refs import classifier_of, localizer_of
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.localize import localize
from wsolfast.engine.report.report import write_report
from wsolfast.engine.run.errors import Interrupted, MissingError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training import artefacts
from wsolfast.engine.training.train import train
from wsolfast.methods.cam import CAM
from wsolfast.methods.spol import SPOLCam, SPOLSeg
from wsolfast.recipe import RecipeError, parse_recipe

STAGES = """
[data]
name = "synthetic"
resize = 40
crop = 32
options = {num_classes = 2, size = 48, num_train = 20, num_val = 4, num_test = 6}
[[stage]]
name = "cam"
method = "spol.cam"
epochs = 2
batch_size = 8
backbone = {name = "small"}
model = {width = 8}
[[stage]]
name = "seg"
method = "spol.seg"
epochs = 2
batch_size = 8
uses = {pseudo_mask = "cam"}
backbone = {name = "small"}
model = {width = 8}
[[stage]]
name = "classifier"
method = "cam"
epochs = 1
batch_size = 8
resize = 48
backbone = {name = "small"}
[evaluate]
protocol = "spol"
classifier = "classifier"
batch_size = 4
resize = 40
[runtime]
workers = 0
device = "cpu"
"""
STEPS = 6  # of the first and of the second stage
EXPORT_BATCHES = 5


def recipe_of(*overrides):
    return parse_recipe(STAGES, "three", overrides)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted."""
    run = RunFolder.create(tmp_path_factory.mktemp("whole") / "run", recipe_of())
    train(run)
    return run


def files_of(run):
    found = {stage.name: run.weights_path(stage.name) for stage in run.recipe.stage}
    return found | {file.name: file for file in (run.path / "stages").rglob("artefacts/*")}


def assert_same_run(one, other):
    mine, theirs = files_of(one), files_of(other)
    assert mine.keys() == theirs.keys()
    for name, file in mine.items():
        tensors, twins = load_file(file), load_file(theirs[name])
        assert tensors.keys() == twins.keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, twins[key]), (name, key)


@pytest.mark.parametrize(("method", "step"), [(SPOLCam, 2), (SPOLCam, STEPS), (SPOLSeg, 2), (SPOLSeg, STEPS), (CAM, 2)])
def test_a_run_that_is_stopped_in_any_stage_continues_bit_for_bit(whole, tmp_path, interrupt, method, step):
    run = RunFolder.create(tmp_path / "run", recipe_of())
    interrupt(method, "training_step", step)
    with pytest.raises(Interrupted, match=f"stopped at step {step}; .*--resume"):
        train(run)
    torch.rand(7)
    train(RunFolder(run.path))
    assert_same_run(whole, run)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_export_that_is_stopped_continues_bit_for_bit(whole, tmp_path, monkeypatch, interrupt, batch):
    monkeypatch.setattr(artefacts, "_IMAGES_PER_FILE", 4)
    run = RunFolder.create(tmp_path / "run", recipe_of())
    interrupt(SPOLCam, "export", batch)
    with pytest.raises(Interrupted, match="stopped in the export of cam"):
        train(run)
    folder = run.path / "stages" / "cam" / "artefacts"
    assert len(list(folder.iterdir())) == batch
    assert not run.weights_path("cam").exists()
    written = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    train(RunFolder(run.path))
    assert len(list(folder.iterdir())) == EXPORT_BATCHES
    assert all((folder / name).stat().st_mtime_ns == time for name, time in written.items())
    parts = [load_file(file)["pseudo_mask"] for file in sorted(folder.iterdir())]
    (file,) = (whole.path / "stages" / "cam" / "artefacts").iterdir()
    assert torch.equal(torch.cat(parts), load_file(file)["pseudo_mask"])
    assert all(
        torch.equal(tensor, load_file(whole.weights_path("seg"))[name])
        for name, tensor in load_file(run.weights_path("seg")).items()
    )


def test_what_is_exported_covers_whole_images_at_the_fused_resolution(whole):
    (file,) = (whole.path / "stages" / "cam" / "artefacts").iterdir()
    mask = load_file(file)["pseudo_mask"]
    assert mask.shape == (20, 5, 5)  # stride 8 of 40 pixels, not of the crop
    assert mask.dtype == torch.float16


def test_a_damaged_export_is_named_and_written_again(tmp_path, interrupt):
    run = RunFolder.create(tmp_path / "run", recipe_of("stage.seg.epochs=1"))
    interrupt(SPOLSeg, "training_step", 1)
    with pytest.raises(Interrupted):
        train(run)
    (file,) = (run.path / "stages" / "cam" / "artefacts").iterdir()
    intact = load_file(file)["pseudo_mask"].clone()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(MissingError, match=r"00000\.safetensors: damaged; delete .*model\.safetensors and resume"):
        train(RunFolder(run.path))
    run.weights_path("cam").unlink()
    train(RunFolder(run.path))
    assert torch.equal(load_file(file)["pseudo_mask"], intact)


def kept(run, split):
    """Everything that the networks said, in order."""
    parts = [load_file(file) for file in sorted((run.eval_path(split) / "maps").iterdir())]
    return {name: torch.cat([part[name] for part in parts]) for name in ("maps", "classes", "scores")}


def test_one_stage_localises_and_another_ranks(whole):
    found = evaluate(whole)
    assert (found.method, found.localizer, found.classifier) == ("spol", "seg", "classifier")
    assert 0 <= found.metrics["gt_known_loc"] <= 100
    maps = kept(whole, "test")
    assert maps["maps"].shape == (6, 32, 32)
    by_cam = evaluate(whole, recipe_of("evaluate.localizer=cam"))
    assert by_cam.localizer == "cam"
    assert kept(whole, "test-cam")["maps"].shape == (6, 4, 4)
    assert torch.equal(kept(whole, "test-cam")["scores"], maps["scores"])
    own = evaluate(whole, recipe_of("evaluate.localizer=seg", "evaluate.classifier=cam"))
    assert own.classifier == "cam"
    assert not torch.equal(kept(whole, "test")["scores"], maps["scores"])


def test_a_finished_run_may_rank_the_classes(whole, tmp_path):
    one = STAGES.split("[[stage]]")
    alone = "[[stage]]".join([one[0], one[3].split("[evaluate]")[0]]) + "[runtime]\nworkers = 0\n"
    run = RunFolder.create(tmp_path / "alone", parse_recipe(alone, "alone"))
    train(run)
    before = evaluate(whole).metrics["gt_known_loc"]
    found = evaluate(whole, recipe_of(f"evaluate.classifier={run.path}"))
    assert found.classifier == str(run.path)
    assert found.metrics["gt_known_loc"] == before
    assert torch.allclose(kept(whole, "test")["scores"].sum(1), torch.ones(6), atol=1e-5)

    more = parse_recipe(alone.replace("num_classes = 2", "num_classes = 3"), "more")
    other = RunFolder.create(tmp_path / "more", more)
    train(other)
    with pytest.raises(RecipeError, match="knows 3 classes, the data set has 2"):
        evaluate(whole, recipe_of(f"evaluate.classifier={other.path}"))


def test_image_files_are_localised_and_named_by_both(whole, tmp_path):
    evaluate(whole)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)).save(tmp_path / "a.png")
    found = localize(whole, [tmp_path / "a.png"], tmp_path / "out").images[0]
    assert found.class_id in (0, 1)
    assert 0.5 <= found.score <= 1
    told = localize(whole, [tmp_path / "a.png"], tmp_path / "out", class_name=str(1 - found.class_id)).images[0]
    assert told.class_id == 1 - found.class_id
    assert told.boxes == found.boxes
    assert told.score == pytest.approx(1 - found.score, abs=1e-5)


def test_the_report_shows_all_stages(whole, tmp_path):
    evaluate(whole)
    page = write_report([whole.path], tmp_path / "page.html").read_text()
    for text in ("SPOL", "SPOL, cam", "SPOL, seg", "SPOL, classifier"):
        assert text in page


@pytest.mark.parametrize(
    ("overrides", "localizer", "classifier"),
    [
        ([], "seg", "classifier"),
        (["evaluate.classifier=cam"], "classifier", "cam"),
        (["evaluate.localizer=seg", "evaluate.classifier=cam"], "seg", "cam"),
        (["evaluate.localizer=cam", "evaluate.classifier=cam"], "cam", None),
    ],
)
def test_who_localises_and_who_ranks(overrides, localizer, classifier):
    recipe = recipe_of(*overrides)
    assert localizer_of(recipe).stage.name == localizer
    assert getattr(getattr(classifier_of(recipe), "stage", None), "name", None) == classifier


def test_a_run_that_tells_no_classes_cannot_rank_them(tmp_path):
    run = RunFolder.create(tmp_path / "masks", recipe_of("evaluate.localizer=seg"))
    with pytest.raises(RecipeError, match="its stage 'seg' does not classify"):
        classifier_of(recipe_of(f"evaluate.classifier={run.path}"))


def test_masks_without_a_classifier_are_ranked_by_the_last_stage_that_can():
    two = parse_recipe(
        STAGES.split('[[stage]]\nname = "classifier"')[0] + '[evaluate]\nprotocol = "spol"\n', "two", ["data.crop=32"]
    )
    assert localizer_of(two).stage.name == "seg"
    assert classifier_of(two).stage.name == "cam"


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["evaluate.localizer=mask"], RecipeError, "no stage 'mask'; there are: cam, classifier, seg"),
        (["evaluate.classifier=nobody"], MissingError, "neither a stage .* nor a run folder: 'nobody'"),
        (["evaluate.localizer=cam", "evaluate.classifier=seg"], RecipeError, "stage 'seg' does not classify"),
        (["stage.seg.model.prior=gauss"], RecipeError, "stage.seg: spol: prior: expected one of paper, released"),
        (["stage.seg.uses={}"], ValueError, "give it uses ="),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path, overrides, error, message):
    recipe = recipe_of("stage.cam.epochs=0", *overrides)
    run = RunFolder.create(tmp_path / "run", recipe)
    with pytest.raises(error, match=message):
        classifier_of(recipe) and train(run)
