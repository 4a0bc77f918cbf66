import cv2
import numpy as np
import pytest
import torch
from oracles.masked_tree import COUNTS, rendered, write_openimages
from PIL import Image

from wsolfast.data import DataError, check, open_dataset, open_source
from wsolfast.data.images.masks import unite_masks

BENCHMARK = "wsol_metadata/metadata/OpenImages"


@pytest.fixture
def tree(tmp_path):
    return write_openimages(tmp_path / "openimages")


def test_a_mask_is_the_union_of_its_objects_less_what_is_ignored(tree):
    dataset, shown = open_dataset("openimages", tree, "test"), rendered("test")
    assert dataset.has_masks
    assert dataset.class_names == ("0bt9lr", "0bt_c3")
    assert torch.equal(dataset.labels, shown.labels)
    for k in range(COUNTS["test"] - 1):
        found = dataset.mask(k).numpy()
        objects = (shown.mask(k).numpy() == 1).repeat(2, 0).repeat(2, 1)
        expected = objects.astype(np.uint8)
        expected[:30][~objects[:30]] = 255
        assert np.array_equal(found, expected)
        note = dataset.annotations(k)
        assert (note.size, len(note.boxes), note.mask) == ((48, 48), 0, None)
    assert not (dataset.mask(COUNTS["test"] - 1) == 1).any()


def test_training_images_have_labels_alone(tree):
    dataset = open_dataset("openimages", tree, "train_weaksup")
    assert len(dataset) == COUNTS["train_weaksup"]
    assert not dataset.has_masks
    with pytest.raises(RuntimeError, match="withheld from training"):
        dataset.mask(0)


@pytest.mark.parametrize("place", ["metadata", "elsewhere", "checkout"])
def test_metadata_lies_below_the_root_or_elsewhere(tmp_path, place):
    if place == "checkout":
        tree = write_openimages(tmp_path / "dataset" / "OpenImages")
        (tmp_path / "metadata").mkdir()
        (tree / "metadata").rename(tmp_path / "metadata" / "OpenImages")
    else:
        tree = write_openimages(tmp_path / "openimages")
        (tree / "metadata").rename(tmp_path / "openimages" / place)
    options = {"metadata": tree / place} if place == "elsewhere" else {}
    assert len(open_dataset("openimages", tree, "train_fullsup", **options)) == COUNTS["train_fullsup"]


def test_metadata_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(DataError, match=r"metadata: no such folder; give metadata=DIR"):
        open_dataset("openimages", tmp_path, "test")


def test_files_of_several_sizes_are_united_as_the_benchmark_does(tmp_path):
    rng = np.random.default_rng(0)
    files, parts = [], []
    for n, (width, height) in enumerate([(300, 200), (50, 70), (224, 224)]):
        part = (rng.random((height // 10, width // 10)) < 0.4).repeat(10, 0).repeat(10, 1).astype(np.uint8) * 255
        files.append(tmp_path / f"{n}.png")
        Image.fromarray(part).save(files[-1])
        grey = np.float32(cv2.imread(str(files[-1]), cv2.IMREAD_GRAYSCALE))
        parts.append(cv2.resize(grey, (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5)
    found = unite_masks(files[:2], files[2])
    objects = parts[0] | parts[1]
    assert np.array_equal(found, np.where(objects, 1, np.where(parts[2], 255, 0)))
    assert {0, 1, 255} == set(np.unique(found).tolist())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_any_level_above_black_is_the_object(tmp_path, mode):
    pixels = np.zeros((3, 4, 3), np.uint8)
    pixels[1] = 255
    Image.fromarray(pixels).convert(mode).save(tmp_path / "mask.png")
    assert unite_masks([tmp_path / "mask.png"]).tolist() == [[0] * 4, [1] * 4, [0] * 4]


def test_lists_without_masks_are_refused(tree):
    (tree / "metadata/test/localization.txt").write_text("")
    with pytest.raises(DataError, match="no mask for image test/"):
        open_dataset("openimages", tree, "test")


def test_a_right_tree_is_said_to_be_right(tree):
    report = check("openimages", tree)
    assert report.ok, report
    assert report.counts["test"].masks == COUNTS["test"]
    assert "10 images, 2 classes, 10 masks" in str(report)
    (note,) = report.notes["mask without an object"]
    assert note.endswith("0000000000000009.jpg")
    assert set(report.notes) == {"mask without an object"}


def test_masks_that_are_missing_or_broken_are_named(tree):
    missing, torn = sorted((tree / "test").glob("*/*_ignore.png"))[:2]
    missing.unlink()
    torn.write_bytes(torn.read_bytes()[:60])
    dataset = open_dataset("openimages", tree, "test")
    for file, message in ((missing, "no such image file"), (torn, "mask cannot be decoded|cannot be read")):
        k = dataset.image_ids.index(str(file.relative_to(tree)).replace("_ignore.png", ".jpg"))
        with pytest.raises(DataError, match=message):
            dataset.mask(k)
    report = check("openimages", tree)
    assert not report.ok
    assert len(report.problems["unusable mask"]) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("localization", "test/x.jpg,a.png,", r"localization\.txt, line 1: test/x\.jpg is not in image_ids\.txt"),
        ("localization", "../a.png", "expected an image id, a mask file and an ignore file"),
        ("localization", "{0},../a.png,", "is not a path below the data folder"),
        ("localization", "{0},a.png,b.png\n{0},a.png,b.png", "a second ignore file"),
        ("class_labels", "{0},-1", "no label for image|labels are whole numbers from 0"),
        ("image_ids", "", "empty; split 'test' needs one image id per line"),
    ],
)
def test_metadata_that_is_wrong_is_named(tree, name, text, message):
    first = (tree / "metadata/test/image_ids.txt").read_text().splitlines()[0]
    (tree / f"metadata/test/{name}.txt").write_text(text.format(first))
    with pytest.raises(DataError, match=message):
        open_dataset("openimages", tree, "test")


def test_all_faults_of_the_lists_are_told_at_once(tree):
    folder = tree / "metadata/test"
    first, second, third, fourth, *rest = (folder / "image_ids.txt").read_text().splitlines()
    labels = [f"{first},-1", f"{second},x", *(f"{image},1" for image in (third, *rest))]
    (folder / "class_labels.txt").write_text("\n".join(labels))
    masks = [f"{first},../a.png,", f"{second},a.png", f"{third},a.png,b.png", f"{third},a.png,b.png", "z,a.png,"]
    (folder / "localization.txt").write_text("\n".join([*masks, *(f"{image},a.png," for image in rest)]))
    told = check("openimages", tree).problems["split cannot be read"]
    assert [message.removeprefix(f"{folder}/") for message in told] == [
        f"class_labels.txt: {first}: labels are whole numbers from 0, got -1",
        f"class_labels.txt, line 2: expected an image id and 1 whole numbers, got '{second},x'",
        f"class_labels.txt: no label for image {fourth}",
        "localization.txt, line 1: '../a.png' is not a path below the data folder; write it relative, with /, "
        "without ..",
        f"localization.txt, line 2: expected an image id, a mask file and an ignore file, got '{second},a.png'",
        f"localization.txt, line 4: a second ignore file for {third}",
        "localization.txt, line 5: z is not in image_ids.txt",
        f"localization.txt: no mask for image {fourth}",
    ]


@pytest.mark.realdata
def test_the_benchmarks_own_metadata_is_read(tmp_path, real_data):
    counts = {"train_weaksup": 29_819, "train_fullsup": 2_500, "test": 5_000}
    for split, count in counts.items():
        dataset = open_dataset("openimages", tmp_path, split, metadata=real_data / BENCHMARK)
        assert len(dataset) == count
        assert len(dataset.class_names) == 100
        assert all(not name.startswith("class ") for name in dataset.class_names)
        assert sorted(set(dataset.labels.tolist())) == list(range(100))
        assert dataset.has_masks == (split != "train_weaksup")
    source = open_source("openimages", tmp_path, "test", metadata=real_data / BENCHMARK)
    names = [path.name for path in source.mask_paths()]
    assert sum(name.endswith("_ignore.png") for name in names) == count
    assert len(names) - count == 7_632
