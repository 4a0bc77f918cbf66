"""The layout of a folder of images, and the CSV that other layouts are written as."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from wsolfast.data import DataError, check, look, open_source, render_images, to_csv
from wsolfast.data.sources._voc_xml import xml_text


def rows(root):
    with (root / "annotations.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_xml(tmp_path, path, name, *corners):
    file = tmp_path / f"{path}.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(xml_text(path, (40, 30), name, corners), encoding="utf-8")


@pytest.fixture
def classes(write_image, tmp_path):
    for name in ("ant", "bee"):
        for number in range(10):
            write_image(f"{name}/{number}.jpg")
    return tmp_path


def told(found):
    return found.name, found.options


def test_class_folders(classes):
    found = look(classes)
    assert told(found) == ("imagefolder", {})
    assert found.kind == "class folders"
    (classes / "masks" / "ant").mkdir(parents=True)
    assert told(look(classes)) == ("imagefolder", {"masks": "masks", "val_share": 0.1, "test_share": 0.2})


def test_folders_of_splits_and_a_folder_around_everything(write_image, tmp_path):
    for name in ("data/train/ant/a.jpg", "data/train/bee/a.jpg", "data/val/bee/b.jpg"):
        write_image(name)
    found = look(tmp_path / "data")
    assert (found.kind, found.root) == ("ImageFolder", tmp_path / "data")
    assert look(tmp_path).root == tmp_path / "data"


def test_pascal_voc_says_how_it_counts_and_what_is_left_out(write_image, tmp_path):
    for stem, name in (("a", "ant"), ("b", "bee")):
        write_image(f"JPEGImages/{stem}.jpg")
        write_xml(tmp_path, f"Annotations/{stem}", name, 1, 1, 5, 5)
    assert told(look(tmp_path)) == ("voc", {})
    # One pixel wide, which is nothing for who counts edges.
    write_xml(tmp_path, "Annotations/b", "bee", 0, 1, 5, 5)
    assert told(look(tmp_path)) == ("voc", {"one_based": False})
    text = (tmp_path / "Annotations/b.xml").read_text()
    start = text.index("\t<object>")
    write_text = (tmp_path / "Annotations/b.xml").write_text
    write_text(text.replace("</annotation>", text[start:].replace("bee", "wasp")))
    found = look(tmp_path)
    assert found.options == {"one_based": False, "mixed": "leave_out"}
    assert found.remarks == ("1 of 2 images show objects of several classes; they are left out",)
    (tmp_path / "JPEGImages").rename(tmp_path / "images")
    (tmp_path / "SegmentationObject").mkdir()
    assert look(tmp_path).options == {
        "images": "images",
        "one_based": False,
        "mixed": "leave_out",
        "masks": "SegmentationObject",
    }
    (tmp_path / "images").rename(tmp_path / "photos")
    with pytest.raises(DataError, match="Annotations has XML files, and no folder JPEGImages or images is there"):
        look(tmp_path)


def test_coco_of_several_splits(write_image, tmp_path):
    for split, stem in (("train", "a"), ("val", "b")):
        write_image(f"images/{split}/{stem}.jpg")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        content = {
            "images": [{"id": 1, "file_name": f"{stem}.jpg"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
            "categories": [{"id": 1, "name": "ant"}],
        }
        (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    found = look(tmp_path)
    assert told(found) == (
        "folder",
        {"annotations": "annotations/instances_{split}.json", "images": "images/{split}"},
    )
    assert open_source("folder", tmp_path, "train_fullsup", **found.options).annotation(0).boxes.tolist() == [
        [1, 2, 4, 6]
    ]
    (tmp_path / "annotations/instances_val.json").rename(tmp_path / "annotations/more.json")
    with pytest.raises(DataError, match=r"2 COCO files \(instances_train.json, more.json\); name them alike"):
        look(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"no image in it; expected .*/CLASS/IMAGE.jpg"),
        (("notes.txt", ".hidden.jpg"), "no image in it"),
        (("b.jpg", "a.jpg"), r"images and nothing that tells their classes; put .*/CLASS/IMAGE.jpg"),
        (
            ("images/a.jpg", "masks/a.jpg"),
            r"/images: images and nothing that tells their classes; put .*/images/CLASS/IM",
        ),
        (("train/a.jpg", "val/a.jpg"), "/train: images and nothing that tells their classes"),
        (("images/train/a.jpg", "labels/train/a.txt"), "YOLO have no names of classes"),
        (("a.csv", "b.csv"), r"2 tables tell images and classes \(a.csv, b.csv\); join them in annotations.csv"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(tmp_path, write_image, write_text, files, message):
    for name in files:
        if name.endswith(".jpg"):
            write_image(name)
        else:
            write_text(name, "image,class\n")
    with pytest.raises(DataError, match=message) as caught:
        look(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="none: no such folder"):
        look(tmp_path / "none")


def test_a_table_of_other_columns_is_imported(write_image, write_text, tmp_path):
    for stem in ("a", "b", "c d"):
        write_image(f"images/{stem}.jpg")
    write_text(
        "birds.csv",
        "id,Species,set,xmin,ymin,xmax,ymax,colour\n"
        'a,"black, cat",training,,,,,red\nb.jpg,Käfer,testing,1,2,3.5,4,red\nb.jpg,Käfer,testing,5,5,7,7,red\n'
        '"c d","black, cat",valid,1,1,2,2,red\n',
    )
    found = look(tmp_path)
    assert (found.name, found.kind) == (None, "a table, birds.csv")
    summary = to_csv(tmp_path)
    assert summary.images == {"train": 1, "val": 1, "test": 1}
    assert (summary.classes, summary.boxes) == (2, 3)
    assert [list(row.values()) for row in rows(tmp_path)] == [
        ["images/a.jpg", "black, cat", "40", "30", "train", "", "", "", ""],
        ["images/b.jpg", "Käfer", "40", "30", "test", "1", "2", "3.5", "4"],
        ["images/b.jpg", "Käfer", "40", "30", "test", "5", "5", "7", "7"],
        ["images/c d.jpg", "black, cat", "40", "30", "val", "1", "1", "2", "2"],
    ]
    assert told(look(tmp_path)) == ("folder", {})
    assert check("folder", tmp_path, decode=True).ok
    with pytest.raises(DataError, match=r"the CSV that data.name=folder reads is there; there is nothing to import"):
        to_csv(tmp_path)
    write_text("annotations.csv", "name,about\n")
    with pytest.raises(DataError, match=r"annotations.csv: exists and is not replaced"):
        to_csv(tmp_path)


def test_faults_of_a_table_are_named_at_once(write_image, write_text, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        write_image(name)
    table = "path,label,split,xmin,ymin,xmax,ymax\na.jpg,ant,train,,,,\na.jpg,bee,train,,,,\nc.jpg,ant,train,,,,\n"
    write_text("t.csv", table + "b.jpg,,train,,,,\nb.jpg,ant,,,,,\nb.jpg,ant,test,1,2,x,4\n")
    with pytest.raises(DataError) as caught:
        to_csv(tmp_path)
    assert [fault.removeprefix(f"{tmp_path}/") for fault in caught.value.faults] == [
        "t.csv, line 3: a.jpg has another class or split above; an image has one",
        f"t.csv, line 4: no image 'c.jpg' below {tmp_path}",
        "t.csv, line 5: label is empty, which is the class",
        "t.csv, line 6: split is train, val or test, got ''",
        "t.csv, line 7: a box is four numbers, got 1, 2, x, 4",
    ]
    assert not (tmp_path / "annotations.csv").exists()


def test_images_without_a_split_get_one_where_there_are_boxes(tmp_path):
    render_images(tmp_path / "coco", layout="coco", images=40)
    summary = to_csv(tmp_path / "coco")
    assert summary.images == {"train": 28, "val": 4, "test": 8}
    assert summary.boxes == 40
    report = check("folder", tmp_path / "coco")
    assert report.ok, str(report)
    # Nothing of a training image but its class.
    assert all(not row["x0"] for row in rows(tmp_path / "coco") if row["split"] == "train")


def test_xml_beside_images_is_imported(write_image, tmp_path):
    for number in range(6):
        name = "ant" if number % 2 else "bee & wasp"
        write_image(f"more/{number}.png")
        write_xml(tmp_path, f"more/{number}", name, 1, 1, 5, 5)
    write_image("more/alone.png")
    summary = to_csv(tmp_path)
    assert summary.kind == "XML files beside images"
    assert summary.images == {"train": 2, "val": 2, "test": 2}
    boxes = [row for row in rows(tmp_path) if row["x0"]]
    assert boxes
    assert all([row["x0"], row["y0"], row["x1"], row["y1"]] == ["0", "0", "5", "5"] for row in boxes)
    assert {row["class_name"] for row in rows(tmp_path)} == {"ant", "bee & wasp"}


def test_rendered_voc_and_coco_have_the_same_boxes(tmp_path):
    for layout in ("voc", "coco"):
        render_images(tmp_path / layout, layout=layout, images=12, classes=2)
    content = json.loads((tmp_path / "coco/instances.json").read_text())
    wanted = {f"{note['image_id']:04d}.jpg": note["bbox"] for note in content["annotations"]}
    source = open_source("voc", tmp_path / "voc", "test", test_share=0.9, val_share=0.0)
    assert len(source.image_ids) == 10
    for index, image_id in enumerate(source.image_ids):
        (x0, y0, x1, y1) = source.annotation(index).boxes[0].tolist()
        assert [x0, y0, x1 - x0, y1 - y0] == wanted[image_id]


def test_class_folders_with_masks_are_imported_with_them(classes):
    drawn = np.zeros((30, 40), np.uint8)
    drawn[3:9, 4:20] = 1
    for name in ("ant", "bee"):
        (classes / "masks" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(drawn).save(classes / "masks" / name / f"{number}.png")
    summary = to_csv(classes)
    assert summary.images == {"train": 14, "val": 2, "test": 4}
    assert check("folder", classes).counts["test"].masks == 4


def test_class_folders_without_boxes_are_imported_and_check_says_so(classes):
    assert to_csv(classes).images == {"train": 20}
    assert list(rows(classes)[0]) == ["image", "class_name", "width", "height", "split"]
    text = (classes / "annotations.csv").read_text()
    (classes / "annotations.csv").write_text(text.replace("ant/0.jpg,ant,40,30,train", "ant/0.jpg,ant,40,30,val"))
    report = check("folder", classes)
    assert report.ok, str(report)
    assert "split without boxes or masks" in report.notes


def test_a_name_that_is_no_text_stops_the_import(classes):
    try:
        os.rename(classes / "ant/0.jpg", os.fsencode(classes) + b"/ant/\xe4.jpg")
    except OSError:
        pytest.skip(reason="this file system takes UTF-8 only")
    with pytest.raises(DataError, match=r"the name of b'ant/\\xe4.jpg' is not UTF-8; rename it"):
        to_csv(classes)


def test_an_unreadable_image_stops_the_import(classes):
    (classes / "ant/0.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"ant/0.jpg: not an image"):
        to_csv(classes)
