"""Class folders, with and without folders of splits."""

import os
import shutil
import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast.data import SPLITS, DataError, SplitMissingError, check, open_dataset, open_source, pack


@pytest.fixture
def classes(write_image, tmp_path):
    """Two class folders with ten and five images, and what else lies in such folders."""
    for name, count in (("black cat", 10), ("Käfer", 5)):
        for number in range(count):
            write_image(f"{name}/{number}.jpg")
    for name in (".hidden/a.jpg", "Käfer/._0.jpg", "__MACOSX/Käfer/0.jpg"):
        write_image(name)
    (tmp_path / "black cat" / "notes.txt").write_text("no image")
    (tmp_path / "Käfer" / "Thumbs.db").write_bytes(b"no image")
    return tmp_path


@pytest.fixture
def splits(write_image, tmp_path):
    for name in ("train/ant/a.jpg", "train/ant/more/b.PNG", "train/bee/c.jpg", "val/bee/d.jpg", "test/ant/e.jpg"):
        write_image(name)
    return tmp_path


def ids(name, root, split, **options):
    return open_source(name, root, split, **options).image_ids


def test_folders_are_classes_and_all_is_trained_on(classes):
    source = open_source("imagefolder", classes, "train_weaksup")
    assert source.class_names == ["Käfer", "black cat"]
    assert Counter(source.labels.tolist()) == {0: 5, 1: 10}
    assert source.image_ids[:2] == ["Käfer/0.jpg", "Käfer/1.jpg"]
    assert len(open_dataset("imagefolder", classes, "train_weaksup", resize=16)[0].image) == 3
    for split in ("train_fullsup", "test"):
        with pytest.raises(SplitMissingError, match=f"split '{split}' is empty; val_share and test_share make"):
            open_source("imagefolder", classes, split)


def test_shares_are_of_each_class_and_do_not_move(classes, write_image):
    shares = {"val_share": 0.2, "test_share": 0.3}
    found = {split: ids("imagefolder", classes, split, **shares) for split in SPLITS}
    assert {split: Counter(name.split("/")[0] for name in names) for split, names in found.items()} == {
        "train_weaksup": {"black cat": 5, "Käfer": 2},
        "train_fullsup": {"black cat": 2, "Käfer": 1},
        "test": {"black cat": 3, "Käfer": 2},
    }
    assert len({name for names in found.values() for name in names}) == 15
    # Another class changes nothing for those that were there.
    write_image("wasp/0.jpg")
    assert ids("imagefolder", classes, "test", **shares) == found["test"]
    assert "wasp/0.jpg" in ids("imagefolder", classes, "train_weaksup", **shares)
    with pytest.raises(DataError, match=r"test_share is a share from 0 up to, but not, 1; got 1$"):
        open_source("imagefolder", classes, "test", test_share=1.0)
    with pytest.raises(DataError, match=r"val_share and test_share are 1.2 together; expected below 1"):
        open_source("imagefolder", classes, "test", test_share=0.6, val_share=0.6)


def test_folders_of_splits(splits):
    source = open_source("imagefolder", splits, "train_weaksup")
    assert source.image_ids == ["train/ant/a.jpg", "train/ant/more/b.PNG", "train/bee/c.jpg"]
    assert source.labels.tolist() == [0, 0, 1]
    validation = open_source("imagefolder", splits, "train_fullsup")
    assert (validation.image_ids, validation.labels.tolist()) == (["val/bee/d.jpg"], [1])
    assert validation.class_names == ["ant", "bee"]
    assert ids("imagefolder", splits, "test") == ["test/ant/e.jpg"]
    with pytest.raises(DataError, match="has folders of splits, so val_share and test_share have no use"):
        open_source("imagefolder", splits, "test", test_share=0.5)
    shutil.rmtree(splits / "val")
    with pytest.raises(SplitMissingError, match="no folder val or valid or validation, so no split 'train_fullsup'"):
        open_source("imagefolder", splits, "train_fullsup")
    (splits / "train").rename(splits / "Training")
    assert ids("imagefolder", splits, "train_weaksup")[0] == "Training/ant/a.jpg"


def test_a_class_may_be_called_train(write_image, tmp_path):
    write_image("train/a.jpg")
    write_image("plane/a.jpg")
    assert open_source("imagefolder", tmp_path, "train_weaksup").class_names == ["plane", "train"]


def test_folders_of_splits_without_classes_are_no_classes(write_image, tmp_path):
    for name in ("train/a.jpg", "val/a.jpg"):
        write_image(name)
    with pytest.raises(
        DataError, match=r"train: holds images and no folders of classes; expected .*/train/CLASS/IMAGE"
    ):
        open_source("imagefolder", tmp_path, "train_weaksup")


def test_a_name_that_is_no_text_is_told(classes):
    try:
        os.rename(classes / "Käfer", os.fsencode(classes) + b"/K\xe4fer")
    except OSError:
        pytest.skip(reason="this file system takes UTF-8 only")
    with pytest.raises(DataError, match=r"the name of the folder b'K\\xe4fer' is not UTF-8; rename it"):
        open_source("imagefolder", classes, "train_weaksup")


def test_one_name_in_two_spellings_of_its_letters_is_one_class(write_image, tmp_path):
    write_image("train/ant/b.jpg")
    write_image(f"train/{unicodedata.normalize('NFC', 'Käfer')}/a.jpg")
    write_image(f"val/{unicodedata.normalize('NFD', 'Käfer')}/a.jpg")
    source = open_source("imagefolder", tmp_path, "train_fullsup")
    assert source.labels.tolist() == [0]
    assert source.path(0).is_file()


def test_what_is_wrong_is_named(splits, write_image):
    for name in ("bea", "wasp"):
        write_image(f"val/{name}/a.jpg")
    with pytest.raises(DataError) as caught:
        open_source("imagefolder", splits, "train_fullsup")
    assert [fault.partition(": ")[2] for fault in caught.value.faults] == [
        f"{splits / 'train'} has no such class; did you mean 'bee'?",
        f"{splits / 'train'} has no such class; classes are matched by the names of their folders",
    ]
    report = check("imagefolder", splits)
    assert not report.ok
    assert report.unreadable == ["train_fullsup"]
    write_image("valid/bee/a.jpg")
    with pytest.raises(DataError, match=r"valid: .*/val is a folder of split 'train_fullsup', too; join or rename"):
        open_source("imagefolder", splits, "test")


def test_empty_folders_and_loose_images_are_remarks(classes, write_image, tmp_path):
    (tmp_path / "moth").mkdir()
    write_image("b.jpg")
    write_image("a.jpg")
    assert open_source("imagefolder", classes, "train_weaksup").remarks == [
        f"{tmp_path / 'moth'}: no image in it, so it is no class",
        f"{tmp_path / 'a.jpg'} and 1 more: in no folder of a class, so not used",
    ]
    shutil.rmtree(classes / "Käfer")
    shutil.rmtree(classes / "black cat")
    with pytest.raises(DataError, match=r"no folder of a class with an image in it; expected .*/CLASS/IMAGE.jpg"):
        open_source("imagefolder", classes, "train_weaksup")


def test_check_says_that_nothing_can_be_measured_and_that_this_is_right(splits):
    report = check("imagefolder", splits, decode=True)
    assert report.ok, str(report)
    assert report.notes["split without boxes or masks"] == [
        "train_fullsup: boxes cannot be measured on it, the classes of a validation can",
        "test: boxes cannot be measured on it, the classes of a validation can",
    ]
    (splits / "train/ant/a.jpg").write_bytes(b"")
    assert "the file is empty" in str(check("imagefolder", splits))


def test_masks_lie_in_a_tree_like_that_of_the_images(splits):
    drawn = np.zeros((30, 40), np.uint8)
    drawn[3:9, 4:20] = 1
    (splits / "masks/test/ant").mkdir(parents=True)
    Image.fromarray(drawn).save(splits / "masks/test/ant/e.png")
    dataset = open_dataset("imagefolder", splits, "test", masks="masks")
    assert torch.equal(dataset.mask(0), torch.from_numpy(drawn))
    assert dataset.annotations(0).mask == splits / "masks/test/ant/e.png"
    report = check("imagefolder", splits, masks="masks")
    assert report.counts["test"].masks == 1
    # An image of a split with masks that has none is a fault.
    assert list(report.problems) == ["image without a box"]
    with pytest.raises(DataError, match=r"none: no such folder; data.options.masks names the folder of the masks"):
        open_source("imagefolder", splits, "test", masks="none")
    with pytest.raises(DataError, match="is not a path below the data folder"):
        open_source("imagefolder", splits, "test", masks="../masks")


def test_masks_of_class_folders_are_no_classes(write_image, tmp_path):
    for name in ("ant", "bee"):
        for number in range(4):
            write_image(f"{name}/{number}.jpg")
            path = tmp_path / "masks" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (40, 30), 1).save(path)
    source = open_source("imagefolder", tmp_path, "test", masks="masks", test_share=0.5)
    assert source.class_names == ["ant", "bee"]
    assert len(source.image_ids) == 4
    assert all(source.mask(index).all() for index in range(4))


def test_shards_of_class_folders(classes, tmp_path_factory):
    output = tmp_path_factory.mktemp("shards")
    assert pack("imagefolder", classes, output / "a").images == {"train_weaksup": 15}
    assert list(open_source("shards", output / "a", "train_weaksup").class_names) == ["Käfer", "black cat"]
