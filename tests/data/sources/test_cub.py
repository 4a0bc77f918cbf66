import shutil

import pytest
import torch
from PIL import Image

from wsolfast.data import DataError, check, open_dataset, open_source

CLASSES = ("001.Albatross", "002.Wren")
# key, path, class, train, box as x y width height
IMAGES = (
    ("1", "001.Albatross/a_1.jpg", 1, 0, "3.0 4.0 20.0 10.0"),
    ("2", "001.Albatross/a_2.jpg", 1, 1, "0.0 0.0 40.0 30.0"),
    ("3", "001.Albatross/a_3.jpg", 1, 1, "1.0 2.0 3.0 4.0"),
    ("4", "002.Wren/w 1.jpg", 2, 1, "1.0 2.0 3.0 4.0"),
    ("5", "002.Wren/w_2.jpg", 2, 0, "5.5 6.0 30.0 20.0"),
    ("6", "002.Wren/w_3.jpg", 2, 1, "1.0 2.0 3.0 4.0"),
)


@pytest.fixture
def tree(tmp_path, write_image, write_text):
    write_text("images.txt", "".join(f"{key} {path}\n" for key, path, *_ in IMAGES))
    write_text("image_class_labels.txt", "".join(f"{key} {label}\n" for key, _, label, _, _ in IMAGES))
    write_text("train_test_split.txt", "".join(f"{key} {train}\n" for key, _, _, train, _ in IMAGES))
    write_text("bounding_boxes.txt", "".join(f"{key} {box}\n" for key, *_, box in IMAGES))
    write_text("classes.txt", "".join(f"{k} {name}\n" for k, name in enumerate(CLASSES, 1)))
    for _, path, *_ in IMAGES:
        write_image(f"images/{path}")
    return tmp_path


def test_official_split_labels_and_boxes(tree):
    train, test = open_dataset("cub", tree, "train_weaksup"), open_dataset("cub", tree, "test")
    assert train.image_ids == ("001.Albatross/a_2.jpg", "001.Albatross/a_3.jpg", "002.Wren/w 1.jpg", "002.Wren/w_3.jpg")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert test.image_ids == ("001.Albatross/a_1.jpg", "002.Wren/w_2.jpg")
    assert test.labels.tolist() == [0, 1]
    assert test.class_names == CLASSES
    assert [test.annotations(i).boxes.tolist() for i in range(2)] == [[[3, 4, 23, 14]], [[5.5, 6, 35.5, 26]]]
    assert test.annotations(0).size == (40, 30)
    assert train[2].image.shape == (3, 30, 40)


def test_folder_above_is_found_too(tree, tmp_path_factory):
    above = tmp_path_factory.mktemp("above")
    shutil.copytree(tree, above / "CUB_200_2011")
    assert len(open_dataset("cub", above, "test")) == 2


def test_validation_images_leave_the_training_split(tree):
    kept = open_dataset("cub", tree, "train_weaksup", val_per_class=1)
    held_out = open_dataset("cub", tree, "train_fullsup", val_per_class=1)
    assert {*kept.image_ids, *held_out.image_ids} == {path for _, path, _, train, _ in IMAGES if train}
    assert len(kept) + len(held_out) == 4
    assert held_out.labels.tolist() == [0, 1]
    assert len(held_out.annotations(0).boxes) == 1
    assert len(open_dataset("cub", tree, "test", val_per_class=1)) == 2


def test_without_a_choice_train_fullsup_says_how_to_get_one(tree):
    with pytest.raises(DataError, match=r"no train_fullsup split; give metadata=DIR .* or val_per_class=5"):
        open_dataset("cub", tree, "train_fullsup")


def test_benchmark_metadata_brings_cubv2(tree, write_text, write_image):
    write_text("metadata/CUB/val/image_ids.txt", "001.Albatross/77.jpg\n002.Wren/78.jpg")
    write_text("metadata/CUB/val/class_labels.txt", "001.Albatross/77.jpg,0\n002.Wren/78.jpg,1\n")
    write_text("metadata/CUB/val/image_sizes.txt", "001.Albatross/77.jpg,560,419\n002.Wren/78.jpg,40,30\n")
    rows = "002.Wren/78.jpg,1,2,11,12\n001.Albatross/77.jpg,176,136,459,291\n002.Wren/78.jpg,0,0,4,4\n"
    write_text("metadata/CUB/val/localization.txt", rows)
    write_image("v2/002.Wren/78.jpg")
    options = {"metadata": tree / "metadata/CUB", "val_images": tree / "v2"}
    dataset = open_dataset("cub", tree, "train_fullsup", **options)
    assert dataset.annotations(0).size == (560, 419)
    assert dataset.annotations(0).boxes.tolist() == [[176, 136, 459, 291]]
    assert dataset.annotations(1).boxes.tolist() == [[1, 2, 11, 12], [0, 0, 4, 4]]
    assert dataset[1].image.shape == (3, 30, 40)
    with pytest.raises(DataError, match=r"v2/001.Albatross/77.jpg: no such image file"):
        dataset[0]
    with pytest.raises(DataError, match=r"metadata/CUB/test: no such folder; it holds the lists"):
        open_dataset("cub", tree, "test", **options)
    write_text("metadata/CUB/train/image_ids.txt", "001.Albatross/a_2.jpg\n")
    write_text("metadata/CUB/train/class_labels.txt", "001.Albatross/a_2.jpg,0\n")
    assert open_source("cub", tree, "train_weaksup", **options).annotation(0).boxes.shape == (0, 4)
    write_text("metadata/CUB/val/localization.txt", "003.Gull/1.jpg,1,2,3,4\n")
    with pytest.raises(DataError, match=r"localization.txt, line 1: 003.Gull/1.jpg is not in image_ids.txt"):
        open_dataset("cub", tree, "train_fullsup", **options)
    write_text("metadata/CUB/val/class_labels.txt", "001.Albatross/77.jpg,0\n")
    with pytest.raises(DataError, match=r"class_labels.txt: no label for image 002.Wren/78.jpg"):
        open_dataset("cub", tree, "train_fullsup", **options)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("images.txt", None, r"images.txt: missing; it holds the image paths"),
        ("classes.txt", None, r"classes.txt: missing; it holds the class names"),
        ("image_class_labels.txt", "1 1\n", r"image_class_labels.txt: image \d is missing in image_class_labels.txt"),
        ("images.txt", "1 a.jpg\n", r"image \d is missing in images.txt; the two files must list the same images"),
        ("images.txt", "1 a.jpg\n1 b.jpg\n", r"images.txt, line 2: the id 1 is listed already"),
        ("bounding_boxes.txt", "1 2.0 3.0\n", r"bounding_boxes.txt: image 1 needs 4 numbers, got '2.0 3.0'"),
        ("train_test_split.txt", "".join(f"{k} 1\n" for k in range(1, 7)), r"split.txt: split 'test' is empty"),
        ("image_class_labels.txt", "".join(f"{k} 3\n" for k in range(1, 7)), r"image 1 has class 3, classes.txt has 2"),
        ("bounding_boxes.txt", "".join(f"{k} 1 2 0 4\n" for k in range(1, 7)), r"the box of image 1 has no area"),
        ("bounding_boxes.txt", "".join(f"{k} nan 2 3 4\n" for k in range(1, 7)), r"the box of image 1 has no area"),
        ("bounding_boxes.txt", "".join(f"{k} 1 2 inf 4\n" for k in range(1, 7)), r"the box of image 1 has no area"),
        (
            "train_test_split.txt",
            "".join(f"{k} 2\n" for k in range(1, 7)),
            r"image 1 is 1 \(training\) or 0 \(test\), got 2",
        ),
        ("images.txt", "".join(f"{k} ../{k}.jpg\n" for k in range(1, 7)), r"'../1.jpg' is not a path below"),
    ],
)
def test_broken_lists_are_named(tree, write_text, name, text, message):
    (tree / name).unlink()
    if text is not None:
        write_text(name, text)
    with pytest.raises(DataError, match=message):
        open_dataset("cub", tree, "test")


@pytest.mark.realdata
def test_official_annotations_give_the_published_counts_and_the_benchmarks_boxes(real_data, tmp_path):
    for file in (real_data / "cub200_annotations").glob("*.txt"):
        shutil.copy(file, tmp_path)
    metadata = real_data / "wsol_metadata/metadata/CUB"
    train, test = open_dataset("cub", tmp_path, "train_weaksup"), open_dataset("cub", tmp_path, "test")
    assert (len(train), len(test), len(test.class_names)) == (5994, 5794, 200)
    listed = open_dataset("cub", tmp_path, "test", metadata=metadata)
    assert sorted(listed.image_ids) == sorted(test.image_ids)
    by_id = {image_id: i for i, image_id in enumerate(test.image_ids)}
    for i in range(0, len(listed), 97):
        j = by_id[listed.image_ids[i]]
        assert listed.labels[i] == test.labels[j]
        path = tmp_path / "images" / listed.image_ids[i]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", listed.annotations(i).size).save(path)
        ours, theirs = test.annotations(j), listed.annotations(i)
        assert ours.size == theirs.size
        # The benchmark cut the boxes that overrun their image.
        overruns = bool((ours.boxes[0, 2:] > torch.tensor(ours.size)).any())
        assert torch.equal(ours.boxes, theirs.boxes) != overruns
    fullsup = open_dataset("cub", tmp_path, "train_fullsup", metadata=metadata)
    assert len(fullsup) == 1000
    held_out = open_dataset("cub", tmp_path, "train_fullsup", val_per_class=5)
    assert held_out.labels.bincount().tolist() == [5] * 200
    assert len(open_dataset("cub", tmp_path, "train_weaksup", val_per_class=5)) == 4994


def test_the_list_of_classes_may_be_in_any_order(tree, write_text):
    write_text("classes.txt", "2 002.Wren\n1 001.Albatross\n")
    dataset = open_dataset("cub", tree, "test")
    assert (dataset.class_names, dataset.labels.tolist()) == (CLASSES, [0, 1])
    write_text("classes.txt", "2 001.Albatross\n1 001.Albatross\n")
    with pytest.raises(DataError, match=r"classes.txt: class '001.Albatross' has the id 1 here and 2 above"):
        open_dataset("cub", tree, "test")
    write_text("classes.txt", "x 001.Albatross\n")
    with pytest.raises(DataError, match=r"classes.txt: the id of a class is a whole number, got 'x'"):
        open_dataset("cub", tree, "test")


def test_an_image_has_one_id(tree, write_text):
    write_text("images.txt", "".join(f"{key} {path}\n" for key, path, *_ in IMAGES).replace("a_3", "a_2"))
    with pytest.raises(DataError, match=r"images.txt: 001.Albatross/a_2.jpg is image 2 and image 3"):
        open_dataset("cub", tree, "test")


@pytest.mark.parametrize("box", ["1 2 nan 4", "nan 2 3 4", "1 2 inf 4", "1 2 -3 4"])
def test_all_boxes_without_an_area_are_named(tree, write_text, box):
    write_text("bounding_boxes.txt", "".join(f"{key} {box}\n" for key, *_ in IMAGES))
    with pytest.raises(DataError, match=r"the box of image 1 has no area: .* \(5 more: wsolfast data check"):
        open_dataset("cub", tree, "test")


def test_an_image_is_of_training_or_of_test(tree, write_text):
    write_text("train_test_split.txt", "".join(f"{key} {2 if key == '3' else 1}\n" for key, *_ in IMAGES))
    with pytest.raises(DataError, match=r"train_test_split.txt: image 3 is 1 \(training\) or 0 \(test\), got 2"):
        open_dataset("cub", tree, "test")


def faults_of(tree, **options):
    """Return the lines of ``data check`` about the splits, without the folder in front."""
    return [told.removeprefix(f"{tree}/") for told in check("cub", tree, **options).problems["split cannot be read"]]


def test_a_look_through_the_lists_tells_all_faults_each_once(tree, write_text):
    write_text("classes.txt", "1 001.Albatross\n2\nx 003.Gull\n")
    write_text("images.txt", "1 001.Albatross/a_1.jpg\n1 b.jpg\n3\n")
    write_text("image_class_labels.txt", "1 1\n2 one\n3 1 1\n")
    (tree / "train_test_split.txt").unlink()
    write_text("bounding_boxes.txt", "1 1 2 3\n")
    assert faults_of(tree) == [
        "classes.txt, line 2: expected an id and a value, got '2'",
        "classes.txt: the id of a class is a whole number, got 'x'",
        "images.txt, line 2: the id 1 is listed already; remove one of the lines",
        "images.txt, line 3: expected an id and a value, got '3'",
        "image_class_labels.txt: image 2 needs 1 numbers, got 'one'",
        "image_class_labels.txt: image 3 needs 1 numbers, got '1 1'",
        "train_test_split.txt: missing; it holds the official split",
        "bounding_boxes.txt: image 1 needs 4 numbers, got '1 2 3'",
    ]
    with pytest.raises(DataError, match=r"classes.txt, line 2: .* \(6 more: wsolfast data check names them\)"):
        open_dataset("cub", tree, "train_weaksup")


def test_lists_that_contradict_each_other_are_told_image_by_image(tree, write_text):
    write_text("image_class_labels.txt", "1 1\n2 1\n3 7\n4 2\n5 1\n7 2\n")
    write_text("train_test_split.txt", "1 0\n2 1\n3 5\n4 1\n5 0\n6 1\n")
    write_text("bounding_boxes.txt", "1 3 4 20 10\n2 0 0 0 9\n3 1 2 3 4\n4 1 2 3 4\n5 nan 1 2 3\n")
    assert faults_of(tree) == [
        "image_class_labels.txt: image 6 is missing in image_class_labels.txt; the two files must list the same images",
        "image_class_labels.txt: image 7 is missing in images.txt; the two files must list the same images",
        "train_test_split.txt: image 3 is 1 (training) or 0 (test), got 5",
        "image_class_labels.txt: image 3 has class 7, classes.txt has 2",
        "image_class_labels.txt: image 5 (002.Wren/w_2.jpg) has class 1 (001.Albatross) and lies in the folder of "
        "class 2 (002.Wren); correct its class or its path",
        "bounding_boxes.txt: image 6 is missing in bounding_boxes.txt; the two files must list the same images",
        "bounding_boxes.txt: the box of image 2 has no area: [0.0, 0.0, 0.0, 9.0] (x y width height)",
        "bounding_boxes.txt: the box of image 5 has no area: [nan, 1.0, 2.0, 3.0] (x y width height)",
    ]


@pytest.mark.parametrize("split", ["train_weaksup", "test"])
def test_a_class_that_contradicts_the_folder_is_no_training_image_and_no_test_image(tree, write_text, split):
    write_text("image_class_labels.txt", "1 1\n2 1\n3 1\n4 2\n5 2\n6 1\n")
    with pytest.raises(DataError, match=r"image 6 \(002.Wren/w_3.jpg\) has class 1 \(001.Albatross\) and lies in the "):
        open_dataset("cub", tree, split)
    # Folders that are no classes contradict none.
    write_text("images.txt", "".join(f"{key} all/{path.replace('/', '_')}\n" for key, path, *_ in IMAGES))
    assert open_dataset("cub", tree, split).labels.tolist().count(1) == 1


def test_twenty_faults_are_enough(tree, write_text):
    write_text("images.txt", "".join(f"{key}\n" for key in range(90)))
    (tree / "image_class_labels.txt").unlink()
    assert len(faults_of(tree)) == 20


def test_all_faults_of_the_benchmarks_metadata_are_told_at_once(tree, write_text):
    for name, text in {
        "image_ids": "a/1.jpg\na/2.jpg\na/3.jpg\na/4.jpg\n",
        "class_labels": "a/1.jpg,0\na/2.jpg,one\na/3.jpg,-1\na/9.jpg,0\na/1.jpg,1\n",
        "image_sizes": "a/1.jpg,40\na/2.jpg,40,30\n",
        "localization": "a/1.jpg,5,2,1,4\na/2.jpg,1,2,3\na/8.jpg,1,2,3,4\n",
    }.items():
        write_text(f"metadata/val/{name}.txt", text)
    told = faults_of(tree, metadata=tree / "metadata")
    place = "metadata/val/"
    assert told == [
        f"{place}class_labels.txt, line 2: expected an image id and 1 whole numbers, got 'a/2.jpg,one'",
        f"{place}class_labels.txt: a/3.jpg: labels are whole numbers from 0, got -1",
        f"{place}class_labels.txt, line 4: a/9.jpg is not in image_ids.txt",
        f"{place}class_labels.txt, line 5: a/1.jpg is listed in line 1 already; remove one of them",
        f"{place}class_labels.txt: no label for image a/4.jpg",
        f"{place}image_sizes.txt, line 1: expected an image id and 2 whole numbers, got 'a/1.jpg,40'",
        f"{place}localization.txt: a/1.jpg: a box is 0 <= x0 < x1 and 0 <= y0 < y1, got [5, 2, 1, 4]",
        f"{place}localization.txt, line 2: expected an image id and 4 whole numbers, got 'a/2.jpg,1,2,3'",
        f"{place}localization.txt, line 3: a/8.jpg is not in image_ids.txt",
    ]
    write_text("metadata/val/image_ids.txt", "a/1.jpg\n../2.jpg\na/1.jpg\n")
    assert [one.split(": ")[0] for one in faults_of(tree, metadata=tree / "metadata")] == [
        f"{place}image_ids.txt, line 2",
        f"{place}image_ids.txt, line 3",
    ]


def test_every_label_that_is_no_class_is_told_with_its_image(tree, write_text):
    write_text("metadata/train/image_ids.txt", "a/1.jpg\na/2.jpg\na/3.jpg\n")
    write_text("metadata/train/class_labels.txt", "a/1.jpg,2\na/2.jpg,1\na/3.jpg,9\n")
    assert faults_of(tree, metadata=tree / "metadata") == [
        f"metadata/train/class_labels.txt: a/{name}.jpg is of class {label}, and there are 2 classes from 0"
        for name, label in ((1, 2), (3, 9))
    ]
