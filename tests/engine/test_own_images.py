"""``wsolfast init`` and the recipe that it writes, up to a trained run."""

import json
import shlex
import shutil

import pytest
from PIL import Image

from wsolfast import backbones
from wsolfast._compat import import_torchvision
from wsolfast.backbones import class_names_of
from wsolfast.data import DataError, render_images
from wsolfast.engine.own_images import TORCHVISION, first_steps
from wsolfast.engine.run.errors import UsageError
from wsolfast.recipe import load_recipe


@pytest.fixture
def animals(tmp_path):
    """Makes a folder of sixteen rendered images."""

    def make(layout="classes", name="my animals"):
        render_images(tmp_path / name, layout=layout, images=16, classes=2, size=48)
        return tmp_path / name

    return make


def commands_of(said):
    return [line.strip() for line in said.splitlines() if line.startswith("  wsolfast ")]


def type_all(wsolfast, commands):
    for command in commands:
        code, said, complaint = wsolfast(*shlex.split(command)[1:])
        assert code == 0, f"{command}\n{said}{complaint}"


def test_without_boxes_the_classes_are_validated(animals, wsolfast):
    root = animals()
    code, said, complaint = wsolfast("init", root, "--weights", "none")
    assert (code, complaint) == (0, "")
    assert f"found: class folders in {root}" in said
    assert "train_weaksup: 16 images, 2 classes" in said
    assert "wrote: my-animals.toml: cam on small with no weights, 60 epochs, validated on a fifth held out" in said
    recipe = load_recipe("my-animals.toml")
    assert recipe.data.name == "imagefolder"
    assert recipe.stage[0].validate.held_out == 0.2
    train, *others = commands_of(said)
    assert train == "wsolfast train my-animals.toml"
    assert [command.split()[1] for command in others] == ["localize", "report"]
    type_all(wsolfast, [f"{train} stage.epochs=1 data.resize=32", *others])


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_with_boxes_they_are_measured(animals, wsolfast, layout):
    root = animals(layout)
    code, said, _ = wsolfast("init", root, "--weights", "none", "--out", "mine.toml")
    assert code == 0
    assert "test: 4 images, 2 classes, 4 boxes" in said
    assert load_recipe("mine.toml").stage[0].validate is None
    train, *others = commands_of(said)
    assert others == ["wsolfast eval runs/mine", "wsolfast report runs/mine"]
    type_all(wsolfast, [f"{train} stage.epochs=1 data.resize=32", *others])
    # A second look finds what the first one wrote.
    assert ("annotations.csv" in [file.name for file in root.iterdir()]) == (layout == "coco")
    assert wsolfast("init", root, "--out", "again.toml")[0] == 0


def test_import_writes_the_table_and_says_how_to_look_it_through(animals, wsolfast):
    root = animals("voc")
    code, said, complaint = wsolfast("data", "import", root)
    assert (code, complaint) == (0, "")
    assert said.splitlines() == [
        "Pascal VOC: train 10, val 2, test 4; 2 classes, 6 boxes",
        f"written: {root / 'annotations.csv'}",
        f"look it through: wsolfast data check folder '{root}'",
    ]
    type_all(wsolfast, [said.rpartition("through: ")[2]])
    code, _, complaint = wsolfast("data", "import", root)
    assert code == 3
    assert complaint == f"error: {root}: the CSV that data.name=folder reads is there; there is nothing to import\n"
    code, _, complaint = wsolfast("data", "render-images", root)
    assert code == 3
    assert "was begun with other settings" in complaint


def test_folders_of_splits_without_boxes_validate_on_their_own_split(animals, tmp_path):
    root = animals(name="all")
    for split, numbers in (("train", range(12)), ("val", range(12, 16))):
        for image in sorted(root.rglob("*.jpg")):
            if int(image.stem) in numbers:
                (tmp_path / "set" / split / image.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(image, tmp_path / "set" / split / image.parent.name)
    steps = first_steps(tmp_path / "set", tmp_path / "set.toml")
    recipe = load_recipe(steps.recipe)
    assert recipe.stage[0].validate.split == "train_fullsup"
    assert any("boxes cannot be measured on it" in line for line in steps.lines)
    assert recipe.stage[0].backbone.weights == "MobileNet_V2_Weights.IMAGENET1K_V1"
    assert (recipe.stage[0].backbone.layout, recipe.stage[0].backbone.freeze_bn) == ("stride16", True)


def test_a_set_without_a_test_split_is_measured_on_the_validation_split(animals, tmp_path):
    root = animals("voc")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{k:04d}\n" for k in range(10)))
    (root / "ImageSets/Main/val.txt").write_text("".join(f"{k:04d}\n" for k in range(10, 16)))
    steps = first_steps(root, tmp_path / "a.toml", weights="none")
    assert load_recipe(steps.recipe).evaluate.split == "train_fullsup"
    assert steps.commands[1] == "wsolfast eval runs/a"


def test_nothing_that_is_there_is_overwritten(animals, wsolfast, tmp_path):
    root = animals("coco")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert wsolfast("init", root)[0] == 0
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "my-animals.toml").write_text("mine")
    code, _, complaint = wsolfast("init", root)
    assert code == 2
    assert complaint == "error: my-animals.toml exists and is not replaced; give another file: --out FILE.toml\n"
    assert (tmp_path / "my-animals.toml").read_text() == "mine"


def test_what_cannot_be_trained_on_is_one_line_and_exit_3(animals, wsolfast, tmp_path):
    root = animals()
    shutil.rmtree(root / "plain_red_bird")
    code, _, complaint = wsolfast("init", root)
    assert code == 3
    assert "one class, 'barred_blue_fish', and a classifier tells at least two apart" in complaint
    assert complaint.count("\n") == 1
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "flat/a.png")
    code, _, complaint = wsolfast("init", tmp_path / "flat")
    assert code == 3
    assert "nothing that tells their classes" in complaint
    assert wsolfast("init", tmp_path / "none")[0] == 3
    for name in ("a.jpg", "b.jpg"):
        (root / "barred_blue_fish" / name).touch()
    with pytest.raises(DataError, match=r"a.jpg: the file is empty \(2 problems: wsolfast data check imagefolder '.*'"):
        first_steps(root, tmp_path / "x.toml")
    assert not (tmp_path / "x.toml").exists()


def test_what_was_imported_goes_when_it_has_faults(animals, tmp_path):
    root = animals("coco")
    text = (root / "instances.json").read_text()
    content = json.loads(text)
    for note in content["annotations"]:
        note["bbox"][0] = 500
    (root / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="lies outside the image"):
        first_steps(root, tmp_path / "a.toml")
    assert not (root / "annotations.csv").exists()
    (root / "instances.json").write_text(text)
    assert first_steps(root, tmp_path / "a.toml").recipe.exists()


def test_the_same_image_twice_and_empty_folders_are_notes(animals, tmp_path):
    root = animals()
    first, second = sorted(place for place in root.iterdir() if place.is_dir())
    image = sorted(first.iterdir())[0]
    shutil.copy(image, second / "copy.jpg")
    (root / "moth").mkdir()
    (root / "notes.txt").write_text("no image")
    steps = first_steps(root, tmp_path / "a.toml")
    assert f"note: 1 image of the same bytes as another one, first {second / 'copy.jpg'} and {image}" in steps.lines
    assert f"note: {root / 'moth'}: no image in it, so it is no class" in steps.lines


def test_networks_are_named_as_torchvision_and_timm_name_them(animals, tmp_path):
    models = import_torchvision().models
    for backbone, enum in TORCHVISION.items():
        assert len(class_names_of(enum)) == 1000
        assert models.get_weight(enum) in models.get_model_weights(backbone)
    assert set(TORCHVISION) < set(backbones.list_backbones())
    root = animals()
    for number, (given, weights) in enumerate([("timm:resnet18", "pretrained"), ("vgg16", TORCHVISION["vgg16"])]):
        steps = first_steps(root, tmp_path / f"{number}.toml", backbone=given)
        spec = load_recipe(steps.recipe).stage[0].backbone
        assert (spec.name, spec.weights) == (given, weights)
    with pytest.raises(UsageError, match="--backbone: expected timm:NAME or one of densenet161,"):
        first_steps(root, tmp_path / "x.toml", backbone="resnet")
