"""Commands that read a run change nothing of what it knows of itself."""

import json

import pytest
from PIL import Image

from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.localize import localize
from wsolfast.engine.report.report import write_report
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run_recipes import Job, run_recipes
from wsolfast.recipe import dump_recipe, parse_recipe

WRITTEN = ("eval", "report", "export", "localized")


def known(run):
    """Content and time of every file but those that evaluations, reports and exports are."""
    files = (file for file in run.path.rglob("*") if file.is_file() and not file.name.startswith(".lock"))
    return {
        file: (file.read_bytes(), file.stat().st_mtime_ns)
        for file in files
        if file.relative_to(run.path).parts[0] not in WRITTEN
    }


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (40, 30), (200, 60, 90)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_no_command_that_reads_changes_what_a_run_knows(trained, wsolfast, photo):
    before = known(trained)
    assert {file.name for file in before} >= {"recipe.toml", "classes.json", "env.json", "model.safetensors"}
    run = trained.path
    for words in (
        ("eval", run, "--protocol", "spa", "runtime.workers=1"),
        ("eval", run, "--split", "train_fullsup"),
        ("eval", run, "data.options.num_test=4", "--post", "scg", "evaluate.scg.layers=['conv5']"),
        ("eval", run, "evaluate.resize=24"),
        ("eval", run, "--shard", "1/2"),
        # The results of the maps that the first part replaced went with them.
        ("eval", run, "--shard", "2/2"),
        ("localize", run, photo, "--device", "cpu"),
        ("report", run, "--sheets"),
        ("export", run, "--to", "coco"),
        ("export", run, "--to", "masks"),
        ("export", run, "--to", "torch"),
    ):
        code, _, err = wsolfast(*words)
        assert code == 0, (words, err)
        assert known(trained) == before, words


def test_a_run_that_knows_no_classes_is_shown_with_those_of_its_evaluation(tiny, tmp_path, coarse_sweep, photo):
    run = RunFolder.create(tmp_path / "run", tiny("stage.epochs=0"))
    assert run.shown_class_names() == []
    before = known(run)
    evaluate(run, limit=3)
    names = json.loads((run.eval_path("test-limit-3") / "per_image.json").read_text())["class_names"]
    assert len(names) == 2
    assert run.shown_class_names() == names
    # They decide nothing: the next evaluation numbers its classes by itself.
    assert run.class_names() == []
    assert known(run) == before
    (found,) = localize(run, [photo], tmp_path / "boxes").images
    assert found.class_name in names
    # What training kept goes before.
    run.keep_class_names(["a", "b"])
    assert run.shown_class_names() == ["a", "b"]


def test_the_evaluation_of_another_split_keeps_the_maps_that_its_results_rest_on(trained):
    other = parse_recipe(dump_recipe(trained.recipe), "tiny", ["evaluate.resize=24"])
    evaluate(trained, parse_recipe(dump_recipe(other), "tiny", ["evaluate.split=train_fullsup"]))
    folder = trained.eval_path("train_fullsup")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    found = evaluate(trained)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert list((trained.eval_path("test") / "train_fullsup" / "maps").glob("*.safetensors"))
    assert evaluate(trained).transferred_thresholds == found.transferred_thresholds
    write_report([trained.path], trained.path / "report" / "index.html")


def test_a_finished_row_of_reproduce_keeps_its_recipe(trained, tiny):
    evaluate(trained)
    before = known(trained)
    job = Job(trained.path, tiny("runtime.workers=1"))
    (outcome,) = run_recipes([job], Progress(quiet=True))
    assert outcome.results is not None
    assert known(trained) == before
