"""Two lines of Python: what they return is what the command line writes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import wsolfast as library
from wsolfast.data import DataError
from wsolfast.engine.run.errors import MissingError, UsageError
from wsolfast.engine.targets import training_recipe
from wsolfast.recipe import RecipeError

TINY = (
    "stage.epochs=1",
    "data.options={num_train=16, num_val=8, num_test=8, size=48}",
    "stage.batch_size=8",
    "runtime.workers=0",
    "runtime.device=cpu",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained and measured run."""
    folder = tmp_path_factory.mktemp("api")
    run = library.train("demo/cam", *TINY, runs=folder, quiet=True)
    results = library.evaluate(run, quiet=True)
    assert results.num_images == 8
    assert results.to_json() == json.loads((run.path / "eval/test/results.json").read_text())
    return run


@pytest.fixture(scope="module")
def localizer(run):
    return library.load(run)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)


def same(one, other):
    """Two answers say the same of one image, whatever it was given as."""
    assert (one.size, one.class_ids, one.scores) == (other.size, other.class_ids, other.scores)
    assert torch.equal(one.maps, other.maps)
    assert all(map(torch.equal, one.boxes, other.boxes))


def test_an_image_is_the_same_as_a_path_a_picture_an_array_and_a_tensor(localizer, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    (expected,) = library.localize(localizer, tmp_path / "a.png")
    assert expected.name == str(tmp_path / "a.png")
    assert expected.size == (70, 40)
    assert expected.maps.shape[0] == len(expected.boxes) == len(expected.scores) == 1
    assert expected.class_names == [localizer.class_names[expected.class_ids[0]]]
    given = (str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, tensor, pixels[None], tensor[None])
    for image in given:
        for images in (image, [image]):
            (found,) = localizer(images)
            same(found, expected)
    np.testing.assert_array_equal(np.asarray(found.image), pixels)
    assert found.name == "image 0"


def test_grey_transparent_and_turned_pictures_are_seen_as_their_files_are(localizer, pixels, tmp_path):
    (grey,) = localizer(pixels[..., 0])
    (same_grey,) = localizer(Image.fromarray(pixels[..., 0]))
    same(grey, same_grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    veil = np.dstack([pixels, np.full(pixels.shape[:2], 90, np.uint8)])
    Image.fromarray(veil).save(tmp_path / "veil.png")
    for name in ("turned.png", "veil.png"):
        (of_file,) = localizer(tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            (of_picture,) = localizer(picture)
        same(of_file, of_picture)
    assert localizer(tmp_path / "turned.png")[0].size == (40, 70)


def test_many_images_are_localised_as_each_alone(run, pixels, tmp_path):
    alone = library.load(run)
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (int(side), 50, 3), dtype=np.uint8) for side in rng.integers(30, 90, 40)]
    found = alone(images)
    assert [one.size for one in found] == [(50, len(image)) for image in images]
    for one, image in list(zip(found, images, strict=True))[::13]:
        (expected,) = alone(image)
        assert one.class_ids == expected.class_ids
        # The order in which convolutions sum depends on the size of a batch: a few units in the last place of float32.
        torch.testing.assert_close(one.maps, expected.maps, rtol=0, atol=1e-5)
    assert alone([]) == []


def test_topk_gives_each_class_the_place_that_it_has_alone(localizer, pixels):
    (three,) = localizer(pixels, topk=3)
    assert three.scores == sorted(three.scores, reverse=True)
    assert len(set(three.class_ids)) == 3
    for rank, class_id in enumerate(three.class_ids):
        (one,) = localizer(pixels, class_name=class_id)
        assert one.class_ids == [class_id]
        assert one.scores == [three.scores[rank]]
        assert torch.equal(one.maps[0], three.maps[rank])
        assert torch.equal(one.boxes[0], three.boxes[rank])
        (named,) = localizer(pixels, class_name=localizer.class_names[class_id])
        same(named, one)
    assert len(localizer(pixels, topk=99)[0].class_ids) == len(localizer.class_names)


def test_a_threshold_cuts_the_map_and_a_whole_picture_is_not_localised(localizer, pixels):
    (low,), (high,) = localizer(pixels, threshold=0.0), localizer(pixels, threshold=0.9)
    assert (low.threshold, high.threshold) == (0.0, 0.9)
    assert torch.equal(low.maps, high.maps)
    assert low.localized == [False]
    assert high.localized == [True]
    areas = [float((one.boxes[0][0, 2:] - one.boxes[0][0, :2]).prod()) for one in (low, high)]
    assert areas[0] == 40 * 70 > areas[1]
    # Dashes say that the box is no answer.
    assert (np.asarray(low.overlay()) != np.asarray(localizer(pixels, threshold=0.0001)[0].overlay())).mean() < 0.2


def test_folders_and_patterns_are_searched(localizer, run, pixels, tmp_path, wsolfast):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "deep/c.png"):
        Image.fromarray(pixels).convert("RGB").save(tmp_path / "in" / name, format="PNG")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    every = [tmp_path / "in" / name for name in ("a.JPG", "b.png", "deep/c.png")]
    assert [one.name for one in localizer(tmp_path / "in")] == list(map(str, every))
    assert [one.name for one in localizer(str(tmp_path / "in" / "*.png"))] == [str(every[1])]
    assert [one.name for one in localizer(str(tmp_path / "in" / "**" / "*.png"))] == list(map(str, every[1:]))
    # Overlays of the first call, in the same folder, are no photos of the second.
    for _ in range(2):
        code, out, err = wsolfast("localize", run.path, tmp_path / "in", "--out", tmp_path / "in", "--json", "-", "-q")
        assert code == 0, err
        told = json.loads(out)
        assert [image["file"] for image in told["images"]] == list(map(str, every))
        assert told == json.loads((tmp_path / "in" / "boxes.json").read_text())
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match="no image in this folder"):
        localizer(tmp_path / "empty")


def test_the_command_line_says_what_python_returns(localizer, run, pixels, tmp_path, wsolfast):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"?")
    words = (
        "localize",
        run.path,
        "a.png",
        "broken.png",
        "--topk",
        2,
        "--no-overlays",
        "--out",
        "o",
        "--threshold",
        0.4,
    )
    code, out, err = wsolfast(*words, "--json", "-")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: broken.png: not an image")
    told, (one,) = json.loads(out), localizer(tmp_path / "a.png", topk=2, threshold=0.4)
    (image,) = told["images"]
    assert [failure["file"] for failure in told["failed"]] == ["broken.png"]
    assert [file.name for file in sorted((tmp_path / "o").glob("[!.]*"))] == ["boxes.json"]
    for rank, row in enumerate([image, *image["others"]]):
        assert (row["class_id"], row["class_name"]) == (one.class_ids[rank], one.class_names[rank])
        assert (row["score"], row["localized"]) == (round(one.scores[rank], 6), one.localized[rank])
        np.testing.assert_array_equal(row["boxes"], one.boxes[rank].numpy().round(2))
    assert (told["threshold"], told["threshold_source"]) == (0.4, "given")
    code, out, _ = wsolfast(*words, "--json", "found.json")
    assert code == 1
    assert json.loads((tmp_path / "found.json").read_text())["images"] == told["images"]
    assert "as asked for" in out


def test_a_recipe_is_loaded_with_weights_and_leaves_nothing(run, pixels, tmp_path, monkeypatch, localizer):
    monkeypatch.chdir(tmp_path)
    kept = run.weights_path("localizer")
    known = f"stage.num_classes={len(localizer.class_names)}"
    loaded = library.load("demo/cam", *TINY, known, weights=kept)
    assert list(tmp_path.iterdir()) == []
    (one,), (other,) = loaded(pixels, threshold=0.5), localizer(pixels, threshold=0.5)
    assert torch.equal(one.maps, other.maps)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3.5, "expected paths, PIL images, arrays or tensors, got float"),
        (np.zeros((4, 4, 3)), r"an array of float64 with shape \[4, 4, 3\]; give uint8"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"shape \[4, 3, 4\]; give uint8"),
        (np.zeros((0, 4, 3), np.uint8), "not empty"),
    ],
)
def test_what_is_no_image_is_refused(localizer, given, message):
    with pytest.raises(UsageError, match=message):
        localizer([given])


def test_wrong_calls_are_refused(localizer, run, pixels, tmp_path):
    (tmp_path / "note.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"note\.jpg: not an image"):
        localizer(tmp_path / "note.jpg")
    with pytest.raises(MissingError, match=r"no image at .*absent\.jpg"):
        library.localize(localizer, tmp_path / "absent.jpg")
    with pytest.raises(UsageError, match="topk: expected 1 or more"):
        localizer(pixels, topk=0)
    with pytest.raises(UsageError, match="1 for a class that is given, got 2"):
        localizer(pixels, topk=2, class_name=0)
    with pytest.raises(UsageError, match=r"threshold: expected a share in \[0, 1\], got 3"):
        localizer(pixels, threshold=3)
    with pytest.raises(RecipeError, match="changes go with a recipe; a run has its own"):
        library.load(run, "stage.epochs=2")
    with pytest.raises(RecipeError, match="give a recipe"):
        library.train()
    with pytest.raises(RecipeError, match="no recipe named 'spaa'"):
        library.train("spaa", data="folder")


def test_a_methods_name_trains_it_on_a_folder_of_ones_own(tmp_path, caplog):
    recipe = training_recipe("spa", ["stage.epochs=2"], data="folder", root=tmp_path)
    (stage,) = recipe.stage
    assert (recipe.name, stage.method, stage.epochs, recipe.data.root) == ("spa", "spa", 2, str(tmp_path))
    # The public weights, since those of the small sets are not beside the data.
    assert stage.backbone.weights == "MobileNet_V2_Weights.IMAGENET1K_V1"
    assert "are taken instead" in caplog.text
    (tmp_path / "mobilenet_v2_backbone_torchvision_folded.pt").write_bytes(b"")
    recipe = training_recipe("spa", data="folder", root=tmp_path)
    assert recipe.stage[0].backbone.weights == "mobilenet_v2_backbone_torchvision_folded.pt"
    # Options of rendered images are none of a folder.
    assert training_recipe("demo/cam", data="folder", root=tmp_path).data.options == {}


def test_names_are_there_without_importing_torch():
    probe = "import sys, wsolfast; assert 'torch' not in sys.modules; wsolfast.load; assert 'torch' in sys.modules"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
