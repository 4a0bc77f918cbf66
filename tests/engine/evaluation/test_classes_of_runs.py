"""Classes of a run and of what it is measured on are matched by name."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from wsolfast.data import DataError
from wsolfast.engine.assembly.build import open_eval_data, open_training_data
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.training.train import StageTraining, train
from wsolfast.recipe import RecipeError


def write_coco(folder, split, ids):
    """Six images of red and green, whose categories are numbered by ``ids``."""
    generator, images, objects = np.random.default_rng(0), [], []
    for k in range(6):
        pixels = generator.integers(0, 60, (48, 48, 3), dtype=np.uint8)
        pixels[10:30, 8:40, k % 2] = 220
        Image.fromarray(pixels).save(folder / f"{split}{k}.png")
        images.append({"id": k, "file_name": f"{split}{k}.png"})
        category = ids[("red", "green")[k % 2]]
        objects.append({"id": k, "image_id": k, "category_id": category, "bbox": [8, 10, 32, 20]})
    content = {"images": images, "annotations": objects}
    content["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
    (folder / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture
def of_files(tiny, tmp_path):
    """Makes a recipe for the COCO files of a folder."""

    def make(annotations="{split}.json", **stage):
        recipe = tiny(f"data.root={tmp_path}", "data.name=folder", "stage.optim.lr=0.1", "stage.epochs=4")
        recipe = replace(recipe, data=replace(recipe.data, options={"annotations": annotations}))
        return replace(recipe, stage=(replace(recipe.stage[0], **stage),))

    return make


def maps_of(run):
    return {file.name: file.read_bytes() for file in (run.path / "eval/test/maps").iterdir()}


def test_a_test_file_that_numbers_by_itself_gives_the_same_numbers(of_files, tmp_path, coarse_sweep):
    write_coco(tmp_path, "train", {"red": 1, "green": 2})
    write_coco(tmp_path, "test", {"red": 1, "green": 2})
    run = RunFolder.create(tmp_path / "run", of_files())
    train(run)
    expected, maps = evaluate(run), maps_of(run)
    write_coco(tmp_path, "test", {"red": 9, "green": 2})
    assert evaluate(run).metrics == expected.metrics
    # Without the training file, too: it is the run that says who a class is.
    (tmp_path / "train.json").unlink()
    assert evaluate(run).metrics == expected.metrics
    assert maps_of(run) == maps
    assert run.class_names() == ["red", "green"]


def test_maps_of_images_whose_class_was_corrected_are_made_anew(of_files, tmp_path, coarse_sweep):
    write_coco(tmp_path, "train", {"red": 1, "green": 2})
    write_coco(tmp_path, "test", {"red": 1, "green": 2})
    run = RunFolder.create(tmp_path / "run", of_files())
    train(run)
    expected = evaluate(run)
    right = (tmp_path / "test.json").read_text()
    (tmp_path / "test.json").write_text(right.replace("red", "#").replace("green", "red").replace("#", "green"))
    # Every image has its other class.
    assert evaluate(run).metrics["top1_cls"] == 100 - expected.metrics["top1_cls"]
    swapped = maps_of(run)
    (tmp_path / "test.json").write_text(right)
    assert evaluate(run).metrics == expected.metrics
    assert maps_of(run) != swapped


def test_a_class_that_the_run_does_not_know_is_told_before_anything_runs(of_files, tmp_path):
    write_coco(tmp_path, "test", {"red": 1, "green": 2})
    with pytest.raises(DataError, match=r"split 'test' has the class 'green', which is not one of the 2 "):
        open_eval_data(of_files(), "test", ["red", "blue"])


def test_a_run_that_is_started_over_has_the_classes_of_its_new_data(of_files, tmp_path):
    RunFolder.create(tmp_path / "run", of_files()).keep_class_names(["dog", "cat"])
    assert RunFolder.create(tmp_path / "run", of_files(), exist_ok=True).class_names() == []


def test_outputs_of_a_network_that_is_taken_as_it_is_are_numbered_by_id(of_files, tmp_path):
    write_coco(tmp_path, "test", {"red": 1, "green": 2})
    (tmp_path / "test.csv").write_text("image,class_id,class_name,split\ntest0.png,3,red,test\n")
    recipe = of_files("test.csv", num_classes=4, epochs=0)
    assert open_eval_data(recipe, "test").labels.tolist() == [3]
    # The names that the network has, where they are those of the data; names of another kind say nothing.
    assert open_eval_data(recipe, "test", ["red", "a", "b", "c"]).labels.tolist() == [0]
    assert open_eval_data(recipe, "test", ["a", "b", "c", "d"]).labels.tolist() == [3]
    with pytest.raises(DataError, match=r"has the class id 3 \('red'\), and the network has 2 classes"):
        open_eval_data(of_files("test.csv", num_classes=2, epochs=0), "test")


def test_the_classifier_of_another_run_knows_the_same_classes(of_files, tmp_path):
    write_coco(tmp_path, "train", {"red": 1, "green": 2})
    write_coco(tmp_path, "test", {"red": 1, "green": 2})
    runs = [RunFolder.create(tmp_path / name, of_files(epochs=1)) for name in ("one", "two")]
    for run in runs:
        train(run)
    runs[1].keep_class_names(["green", "red"])
    recipe = runs[0].recipe
    mixed = replace(recipe, evaluate=replace(recipe.evaluate, classifier=str(runs[1].path)))
    with pytest.raises(RecipeError, match="two has other classes, or the same ones in another order"):
        evaluate(runs[0], mixed)


def test_training_goes_on_with_the_numbers_that_it_began_with(of_files, tmp_path):
    write_coco(tmp_path, "train", {"red": 1, "green": 2})
    recipe = of_files()
    assert open_training_data(recipe, recipe.stage[0]).labels.tolist() == [0, 1] * 3
    assert open_training_data(recipe, recipe.stage[0], ["green", "red"]).labels.tolist() == [1, 0] * 3


def test_a_validation_split_that_cannot_be_read_is_told_and_not_passed_over(of_files, tmp_path, coarse_sweep):
    for split in ("train", "test"):
        write_coco(tmp_path, split, {"red": 1, "green": 2})
    run = RunFolder.create(tmp_path / "run", of_files(epochs=1))
    train(run)
    evaluate(run)
    (tmp_path / "val.json").write_text("{")
    with pytest.raises(DataError, match=r"val.json: not a COCO file"):
        evaluate(run)


def test_training_images_of_one_class_are_told(of_files, tmp_path, caplog):
    write_coco(tmp_path, "train", {"red": 1, "green": 2})
    recipe = of_files()
    open_training_data(recipe, recipe.stage[0])
    assert caplog.messages == []
    file = tmp_path / "train.json"
    file.write_text(file.read_text().replace('"category_id": 2', '"category_id": 1'))
    open_training_data(recipe, recipe.stage[0])
    assert caplog.messages == [
        "data: every training image is of class 'red'; nothing is learned where nothing is told apart",
        "data: 1 of 2 classes have no training image ('green')",
    ]


@pytest.mark.parametrize(
    ("split", "damage", "told"),
    [
        ("val", lambda text: "{", r"val.json: not a COCO file"),
        (
            "test",
            lambda text: text.replace('"green"', '"grene"'),
            r"test1.png is of class 'grene', .* did you mean 'green'",
        ),
        (
            "test",
            lambda text: text.replace('"image_id": ', '"image_id": 9'),
            r"\(\d more: wsolfast data check names them",
        ),
    ],
)
def test_a_split_that_cannot_be_measured_ends_training_before_it_begins(
    of_files, tmp_path, monkeypatch, split, damage, told
):
    for name in ("train", "val", "test"):
        write_coco(tmp_path, name, {"red": 1, "green": 2})
    file = tmp_path / f"{split}.json"
    file.write_text(damage(file.read_text()))
    with monkeypatch.context() as patch:
        patch.setattr(StageTraining, "train", lambda self: pytest.fail("training has begun"))
        with pytest.raises(DataError, match=told):
            train(RunFolder.create(tmp_path / "run", of_files()))
    assert not (tmp_path / "run").exists()
    # A split that is not there is none.
    file.unlink()
    train(RunFolder.create(tmp_path / "run", of_files(epochs=1)))


def test_the_command_ends_with_3_where_a_split_cannot_be_read(wsolfast, tmp_path):
    for name in ("train", "test"):
        write_coco(tmp_path, name, {"red": 1, "green": 2})
    (tmp_path / "test.json").write_text("{")
    words = ["data.name=folder", "data.root=.", 'data.options={annotations="{split}.json"}', "stage.epochs=1"]
    code, _, err = wsolfast("train", "demo/cam", *words)
    assert (code, err.count("\n")) == (3, 1), err
    assert err.startswith("error: test.json: not a COCO file")
    assert not (tmp_path / "runs").exists()
