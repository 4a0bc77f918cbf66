import json
import re

import pytest
from PIL import Image

from wsolfast.data import DataError, check, collate, open_dataset, pack

HEADER = "image,class_id,class_name,width,height,x0,y0,x1,y1,split,mask\n"
ROWS = "a.jpg,0,ant,40,30,1,2,10.5,20,train,\nb.jpg,1,bee,40,30,0,0,40,30,val,\nc.jpg,1,bee,40,30,5,5,6,6,test,c.png\n"


@pytest.fixture
def tree(tmp_path, write_image, write_text):
    for name in "abc":
        write_image(f"{name}.jpg")
    Image.new("L", (40, 30), 1).save(tmp_path / "c.png")
    write_text("annotations.csv", HEADER + ROWS)
    return tmp_path


def test_whole_tree_is_ok_and_counted(tree):
    report = check("folder", tree, decode=True)
    assert report.ok
    assert report.notes == {"class without a training image": ["bee"]}
    assert str(report).splitlines()[1:] == [
        "  train_weaksup  1 images, 1 classes",
        "  train_fullsup  1 images, 1 classes, 1 boxes",
        "  test           1 images, 1 classes, 1 boxes, 1 masks",
        "note: class without a training image (1)",
        "  bee",
        "ok",
    ]


@pytest.mark.parametrize(
    ("damage", "decode", "kind", "message"),
    [
        (lambda tree: (tree / "a.jpg").unlink(), False, "label without an image", "a.jpg: no such file"),
        (lambda tree: (tree / "b.jpg").write_bytes(b"?"), False, "unreadable image", "b.jpg: not an image"),
        (
            lambda tree: (tree / "a.jpg").write_bytes((tree / "a.jpg").read_bytes()[:-40]),
            True,
            "unreadable image",
            "a.jpg: cannot be decoded",
        ),
        (
            lambda tree: Image.new("RGB", (30, 40)).save(tree / "b.jpg"),
            False,
            "size differs from the annotation",
            "b.jpg: the image is 30x40, its annotation says 40x30",
        ),
        (
            lambda tree: Image.new("L", (30, 40), 1).save(tree / "c.png"),
            False,
            "size differs from the mask",
            "c.jpg: the mask is 30x40, the image 40x30",
        ),
        (lambda tree: (tree / "c.png").unlink(), False, "unusable mask", "c.png: no such image file"),
        (
            lambda tree: (tree / "annotations.csv").write_text(HEADER + ROWS.replace("5,5,6,6", "50,5,60,6")),
            False,
            "box outside its image",
            "c.jpg: the box [50.0, 5.0, 60.0, 6.0] lies outside the image, which is 40x30",
        ),
        (
            lambda tree: (tree / "annotations.csv").write_text(HEADER + ROWS.replace("0,0,40,30", ",,,")),
            False,
            "image without a box",
            "b.jpg",
        ),
    ],
)
def test_damage_is_found_and_named(tree, damage, decode, kind, message):
    damage(tree)
    report = check("folder", tree, decode=decode)
    assert not report.ok
    assert list(report.problems) == [kind]
    assert message in report.problems[kind][0]
    assert "a right tree looks like this:" in str(report)
    assert str(report).endswith("not ok")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("5,5,6,6", "6,5,5,6", r"line 4: a box is 0 <= x0 < x1"),
        ("5,5,6,6", "5,5,,6", r"line 4: x0, y0, x1, y1 are numbers, got \['5', '5', '', '6'\]"),
        ("5,5,6,6", "nan,5,6,6", r"line 4: a box is 0 <= x0 < x1"),
        ("5,5,6,6", "a,5,6,6", r"line 4: x0, y0, x1, y1 are numbers"),
        (",x1,", ",x_1,", r"unknown column 'x_1'; did you mean 'x1'"),
        ("test,c.png\n", "test,c.png\nb.jpg,1,bee\n", r"line 5: the row does not have as many fields"),
    ],
)
def test_a_split_that_is_there_and_cannot_be_read_is_not_ok(wsolfast, tree, old, new, message):
    (tree / "annotations.csv").write_text((HEADER + ROWS).replace(old, new))
    report = check("folder", tree)
    (told,) = report.problems["split cannot be read"]
    assert re.search(message, told)
    assert report.unreadable == ["train_weaksup", "train_fullsup", "test"]
    assert "  test           cannot be read" in str(report).splitlines()
    assert wsolfast("data", "check", "folder", tree)[0] == 3
    with pytest.raises(DataError, match=message):
        pack("folder", tree, tree / "shards")


def test_all_faults_of_a_file_are_told_at_once(tree):
    rows = "".join(f"c.jpg,1,bee,40,30,{k},9,5,1,test,\n" for k in range(30))
    (tree / "annotations.csv").write_text(HEADER + ROWS + rows)
    told = check("folder", tree).problems["split cannot be read"]
    assert [message.split(": ")[0].rsplit(" ", 1)[1] for message in told] == [str(k) for k in range(5, 25)]


def test_a_broken_coco_file_is_a_problem_and_a_missing_one_is_not(tree):
    image = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}
    note = {"id": 1, "image_id": 1, "category_id": 4, "bbox": [1, 2, 3, 4]}
    content = {"images": [image], "annotations": [note], "categories": [{"id": 4, "name": "ant"}]}
    options = {"annotations": "{split}.json"}
    for split in ("train", "test"):
        (tree / f"{split}.json").write_text(json.dumps(content))
    assert check("folder", tree, **options).ok
    for broken in (json.dumps(content)[:-20], "", json.dumps(content | {"annotations": [note | {"image_id": 2}]})):
        (tree / "test.json").write_text(broken)
        report = check("folder", tree, **options)
        assert (report.ok, report.unreadable) == (False, ["test"])
        assert "test.json" in report.problems["split cannot be read"][0]
        assert '"bbox": [1, 2, 9.5, 18]' in str(report)


def test_an_image_in_two_splits_is_a_note(tree):
    coco = {
        "categories": [{"id": 1, "name": "ant"}],
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    }
    for split in ("train", "test"):
        (tree / f"{split}.json").write_text(json.dumps(coco))
    notes = check("folder", tree, annotations="{split}.json", images="images").notes
    assert notes["image in two splits"] == [f"{tree / 'images/a.jpg'}: in train_weaksup and in test"]


def test_an_empty_file_is_found_without_decoding(tree):
    (tree / "a.jpg").write_bytes(b"")
    assert check("folder", tree).problems == {"unreadable image": [f"{tree}/a.jpg: the file is empty"]}


def test_a_mask_alone_will_do_where_there_are_masks(tree):
    (tree / "annotations.csv").write_text(HEADER + ROWS.replace("5,5,6,6", ",,,"))
    assert check("folder", tree).ok
    rows = ROWS + "b.jpg,1,bee,40,30,,,,,test,\n"
    (tree / "annotations.csv").write_text(HEADER + rows.replace("b.jpg,1,bee,40,30,0,0,40,30,val,\n", ""))
    (message,) = check("folder", tree).problems["image without a box or a mask"]
    assert message.endswith("b.jpg")
    Image.new("L", (40, 30)).save(tree / "c.png")
    (message,) = check("folder", tree).notes["mask without an object"]
    assert message.endswith("c.jpg")


def test_what_does_not_hinder_is_a_note(tree, write_image):
    write_image("d.jpg")
    (tree / "._d.jpg").touch()
    (tree / "annotations.csv").write_text(HEADER + ROWS.replace("5,5,6,6", "5,5,41,6"))
    report = check("folder", tree)
    assert report.ok
    assert [message.rsplit("/", 1)[1] for message in report.notes["image without a label"]] == ["d.jpg"]
    assert "c.jpg: [5.0, 5.0, 41.0, 6.0]" in report.notes["box overruns its image"][0]


def test_set_of_one_split_is_ok_and_a_set_of_none_is_not(tree):
    (tree / "annotations.csv").write_text(HEADER + ROWS.splitlines()[2] + "\n")
    report = check("folder", tree)
    assert report.ok
    assert len(report.notes["split not available"]) == 2
    (tree / "annotations.csv").write_text(HEADER)
    report = check("folder", tree)
    assert not report.ok
    assert "split 'test' is empty; the file has no image at all" in str(report)
    assert not check("folder", tree / "nowhere").ok


def test_official_sets_need_training_and_test_images(tmp_path):
    for name, lists in (("cub", 5), ("ilsvrc", 1)):
        report = check(name, tmp_path)
        assert not report.ok
        assert len(report.unreadable) == 3
        assert sum(map(len, report.problems.values())) == lists, "the same fault is said once"


def test_rendered_set_is_whole():
    report = check("synthetic", None, num_train=8, num_val=8, num_test=8, decode=True)
    assert report.ok
    assert report.counts["test"].boxes == 8


def test_long_lists_are_cut(tree):
    rows = "".join(f"gone{k}.jpg,0,ant,40,30,0,0,1,1,test,\n" for k in range(24))
    (tree / "annotations.csv").write_text(HEADER + rows)
    assert "  and 4 more" in str(check("folder", tree)).splitlines()


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "counts", "boxes", "masks"),
    [
        ("cub50_256", (1200, 300, 1389), 1389, 0),
        ("pets3_256", (240, 60, 298), 298, 298),
        ("ilsvrc_val400_227", (None, None, 400), 589, 0),
    ],
)
def test_real_trees_are_whole(real_data, name, counts, boxes, masks):
    report = check("folder", real_data / name)
    assert report.ok, str(report)
    found = [report.counts.get(split) for split in ("train_weaksup", "train_fullsup", "test")]
    assert tuple(count and count.images for count in found) == counts
    assert (report.counts["test"].boxes, report.counts["test"].masks) == (boxes, masks)
    dataset = open_dataset("folder", real_data / name, "test", resize=224)
    assert collate([dataset[0], dataset[len(dataset) - 1]]).image.shape == (2, 3, 224, 224)
