"""Pascal VOC's layout: XML files, lists, masks, and the index of the XML files."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast.data import DataError, SplitMissingError, check, index, open_dataset, open_source, pack

OBJECT = (
    "<object><name>{}</name><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
XML = "<annotation><filename>other.jpg</filename><size><width>40</width><height>30</height></size>{}</annotation>"
OBJECTS = {
    "a b": [("ant", 1, 1, 40, 30)],
    "é": [("ant", 2, 3, 10.5, 20), ("ant", 5, 5, 5, 6)],
    "c": [("bee", 4, 4, 9, 9)],
    "d": [("bee", 11, 2, 30, 28)],
}


@pytest.fixture
def annotate(write_text):
    def write(stem, objects):
        return write_text(f"Annotations/{stem}.xml", XML.format("".join(OBJECT.format(*one) for one in objects)))

    return write


@pytest.fixture
def tree(tmp_path, write_image, write_text, annotate):
    for stem, objects in OBJECTS.items():
        write_image(f"JPEGImages/{stem}.jpg")
        annotate(stem, objects)
    for name, stems in (("train", ["a b", "d"]), ("val", ["c"]), ("test", ["é"])):
        write_text(f"ImageSets/Main/{name}.txt", "".join(f"{stem}\n" for stem in stems))
    return tmp_path


def faults(root, split="test", **options):
    with pytest.raises(DataError) as caught:
        open_source("voc", root, split, **options)
    return [fault.replace(f"{root}/", "").replace(f"{root}: ", "") for fault in caught.value.faults]


def test_lists_are_splits_and_boxes_are_half_open(tree):
    dataset = open_dataset("voc", tree, "test", resize=16)
    assert dataset.image_ids == ("é.jpg",)
    assert dataset.class_names == ("ant", "bee")
    annotation = dataset.annotations(0)
    assert annotation.size == (40, 30)
    # Pixel 5 to pixel 5, counted from 1, is one column.
    assert annotation.boxes.tolist() == [[1, 2, 10.5, 20], [4, 4, 5, 6]]
    assert open_dataset("voc", tree, "train_weaksup").labels.tolist() == [0, 1]
    assert open_source("voc", tree, "train_fullsup").image_ids == ["c.jpg"]
    training = open_source("voc", tree, "train_weaksup")
    assert training.annotation(0).boxes.shape == (0, 4)
    assert check("voc", tree, decode=True).ok


def test_edges_counted_from_0_are_taken_as_they_are(tree, annotate):
    annotate("é", [("ant", 0, 0, 40, 30)])
    assert open_source("voc", tree, "test", one_based=False).annotation(0).boxes.tolist() == [[0, 0, 40, 30]]
    annotate("é", [("ant", 5, 5, 5, 6)])
    assert faults(tree, one_based=False) == ["Annotations/é.xml: size (40, 30) or box [5.0, 5.0, 5.0, 6.0] has no area"]


def test_a_split_without_a_list_is_missing(tree):
    (tree / "ImageSets/Main/test.txt").unlink()
    with pytest.raises(SplitMissingError, match=r"split 'test' is empty; ImageSets/Main/test.txt lists its images"):
        open_source("voc", tree, "test")
    assert check("voc", tree).ok


def test_without_lists_shares_of_each_class_are_the_splits(tree, write_image, annotate):
    shutil.rmtree(tree / "ImageSets")
    for name in ("ant", "bee"):
        for number in range(8):
            write_image(f"JPEGImages/{name}{number}.png")
            annotate(f"{name}{number}", [(name, 4, 4, 9, 9)])
    found = {split: open_source("voc", tree, split) for split in ("train_weaksup", "train_fullsup", "test")}
    counts = {split: Counter(source.labels.tolist()) for split, source in found.items()}
    assert counts == {"train_weaksup": {0: 7, 1: 7}, "train_fullsup": {0: 1, 1: 1}, "test": {0: 2, 1: 2}}
    assert len({name for source in found.values() for name in source.image_ids}) == 20
    assert open_source("voc", tree, "test", test_share=0.5, val_share=0).labels.tolist().count(0) == 5


def test_what_is_wrong_is_named_at_once(tree, write_text, annotate):
    annotate("c", [("bee", 0, 4, 9, 9)])
    annotate("d", [("bee", 9, 4, 8, 9)])
    write_text("Annotations/a b.xml", "<annotation>")
    found = faults(tree)
    assert len(found) == 3
    assert found[0].startswith("Annotations/a b.xml: not a readable annotation")
    assert found[1] == (
        "Annotations/c.xml: a corner at 0, and Pascal VOC counts pixels from 1; set data.options.one_based=false "
        "for a program that counts from 0"
    )
    assert found[2] == "Annotations/d.xml: size (40, 30) or box [8.0, 3.0, 8.0, 9.0] has no area"
    report = check("voc", tree)
    assert report.problems["split cannot be read"] == [f"{tree}/{fault}" for fault in found]
    for number in range(30):
        write_text(f"Annotations/{number}.xml", "<annotation/>")
    assert len(faults(tree)) == 20


def test_an_image_of_several_classes_is_a_fault_or_left_out(tree, annotate, write_image):
    annotate("d", [("bee", 4, 4, 9, 9), ("ant", 4, 4, 9, 9)])
    write_image("JPEGImages/empty.jpg")
    annotate("empty", [])
    assert faults(tree) == [
        "d.xml shows ant and bee; an image has one class here, so split or drop it, or leave such images out with "
        "data.options.mixed=leave_out"
    ]
    source = open_source("voc", tree, "train_weaksup", mixed="leave_out")
    assert source.image_ids == ["a b.jpg"]
    assert source.remarks == [
        f"{tree}: 1 of 5 images show objects of several classes; left out",
        f"{tree}: 1 of 5 images show no object and have no class; left out",
    ]
    annotate("d", [("", 4, 4, 9, 9)])
    assert faults(tree) == ["d.xml: an object has no name, which is its class"]
    for stem in OBJECTS:
        annotate(stem, [])
    assert faults(tree) == ["no image shows objects of one class, so none has a label"]


def test_lists_that_contradict_are_named(tree, write_text):
    write_text("ImageSets/Main/val.txt", "c\nnone\nd\n")
    assert faults(tree) == [
        "ImageSets/Main/val.txt: image none has no annotation none.xml",
        "ImageSets/Main/val.txt: image d is in train.txt, too; take it out of one of them",
    ]


def test_images_and_annotations_belong_together_by_name(tree, write_image):
    (tree / "JPEGImages/é.jpg").unlink()
    write_image("JPEGImages/f.jpg")
    report = check("voc", tree)
    assert report.problems == {"label without an image": [f"{tree / 'JPEGImages/é.jpg'}: no such file"]}
    assert report.notes["image without a label"] == [str(tree / "JPEGImages/f.jpg")]
    write_image("JPEGImages/c.png")
    assert faults(tree) == ["JPEGImages/c.png: has the annotation of c.jpg; give one of them another name"]


def test_folders_that_are_not_there(tree):
    assert faults(tree, images="photos") == ["photos: no such folder"]
    assert faults(tree, masks="masks") == ["masks: no such folder"]
    assert faults(tree, annotations="xml") == ["xml: no such folder; it holds an XML file for each image"]
    assert faults(tree, annotations="JPEGImages") == [
        "JPEGImages: no XML file in it; expected one for each image, named as the image is"
    ]
    assert "is not a path below the data folder" in faults(tree, annotations="../xml")[0]


def test_masks_number_the_objects(tree):
    drawn = np.zeros((30, 40), np.uint8)
    drawn[3:9, 4:20], drawn[12:20, 4:20], drawn[0] = 1, 2, 255
    (tree / "SegmentationObject").mkdir()
    image = Image.fromarray(drawn, "L")
    image = image.convert("P")
    image.putdata(drawn.flatten().tolist())
    image.save(tree / "SegmentationObject/é.png")
    dataset = open_dataset("voc", tree, "test", masks="SegmentationObject")
    assert torch.equal(dataset.mask(0), torch.from_numpy(np.where(drawn == 2, np.uint8(1), drawn)))
    assert check("voc", tree, masks="SegmentationObject").counts["test"].masks == 1
    assert open_source("voc", tree, "train_fullsup", masks="SegmentationObject").mask(0) is None


def test_the_index_says_what_the_files_say(tree, annotate):
    files = {split: open_source("voc", tree, split) for split in ("train_weaksup", "train_fullsup", "test")}
    summary = index("voc", tree)
    assert summary.images == {"train_weaksup": 2, "train_fullsup": 1, "test": 1}
    assert summary.built
    assert not index("voc", tree).built
    assert index("voc", tree, force=True).built
    # Nothing but the index is read now.
    for file in (tree / "Annotations").iterdir():
        with file.open("r+") as stream:
            stream.truncate()
    for split, source in files.items():
        indexed = open_source("voc", tree, split)
        assert list(indexed.image_ids) == list(source.image_ids)
        assert indexed.labels.tolist() == source.labels.tolist()
        for position in range(len(source.image_ids)):
            told, wanted = indexed.annotation(position), source.annotation(position)
            assert told.size == wanted.size
            assert torch.equal(told.boxes, wanted.boxes)
    for stem, objects in OBJECTS.items():
        annotate(stem, objects)
    annotate("é", [("ant", 5, 5, 6, 6)])
    assert open_source("voc", tree, "test", one_based=False).annotation(0).boxes.tolist() == [[5, 5, 6, 6]]


def test_a_stale_index_is_left_aside_and_said(tree, annotate, write_image, caplog):
    index("voc", tree)
    write_image("JPEGImages/e.jpg")
    annotate("e", [("ant", 4, 4, 9, 9)])
    (tree / "ImageSets/Main/test.txt").write_text("é\ne\n")
    assert open_source("voc", tree, "test").image_ids == ["e.jpg", "é.jpg"]
    assert f"stale, {tree / 'Annotations'} has changed; the files are read instead" in caplog.text
    assert index("voc", tree).built
    (tree / ".wsolfast/voc.safetensors").write_bytes(b"damaged")
    assert open_source("voc", tree, "test").image_ids == ["e.jpg", "é.jpg"]
    assert "damaged, or of another version" in caplog.text


def test_shards_of_voc(tree, tmp_path_factory):
    output = tmp_path_factory.mktemp("shards") / "voc"
    pack("voc", tree, output)
    assert open_source("shards", output, "test").annotation(0).boxes.tolist()[1] == [4, 4, 5, 6]
