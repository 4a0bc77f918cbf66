import json

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast.data import DataError, check, open_dataset, open_source, pack

HEADER = "image,class_id,class_name,width,height,x0,y0,x1,y1,split,mask\n"
ROWS = """\
images/a.jpg,0,ant,40,30,1,2,10.5,20,train,
images/b.jpg,1,bee,40,30,0,0,40,30,val,
images/c.jpg,1,bee,40,30,5,5,6,6,test,masks/c.png
images/c.jpg,1,bee,40,30,10,12,30,29,test,masks/c.png
images/d.jpg,0,ant,40,30,3,4,5,6,test,
"""


@pytest.fixture
def tree(tmp_path, write_image, write_text):
    for name in "abcd":
        write_image(f"images/{name}.jpg")
    (tmp_path / "masks").mkdir()
    Image.new("L", (40, 30), 1).save(tmp_path / "masks/c.png")
    write_text("annotations.csv", HEADER + ROWS)
    return tmp_path


def test_rows_of_an_image_are_its_boxes(tree):
    dataset = open_dataset("folder", tree, "test")
    assert dataset.image_ids == ("images/c.jpg", "images/d.jpg")
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.class_names == ("ant", "bee")
    annotation = dataset.annotations(0)
    assert annotation.boxes.tolist() == [[5, 5, 6, 6], [10, 12, 30, 29]]
    assert annotation.size == (40, 30)
    assert annotation.mask == tree / "masks/c.png"
    assert dataset.has_masks
    assert torch.equal(dataset.mask(0), torch.ones(30, 40, dtype=torch.uint8))
    assert dataset.mask(1) is None
    assert dataset.annotations(1).boxes.tolist() == [[3, 4, 5, 6]]
    assert dataset[0].image.shape == (3, 30, 40)


def test_masks_of_several_rows_are_united(tree, write_text):
    first, second = np.zeros((30, 40), np.uint8), np.zeros((30, 40), np.uint8)
    first[2:9, 3:12], second[7:20, 10:33], second[25:, :] = 1, 1, 2
    second[3, 4], first[26, 1] = 2, 1
    Image.fromarray(first).save(tree / "masks/1.png")
    Image.fromarray(second).save(tree / "masks/2.png")
    rows = "images/c.jpg,1,bee,40,30,3,2,12,9,test,masks/1.png\nimages/c.jpg,1,bee,40,30,10,7,33,20,test,masks/2.png\n"
    write_text("annotations.csv", HEADER + rows + "images/d.jpg,0,ant,40,30,3,4,5,6,test,masks/1.png\n")
    dataset = open_dataset("folder", tree, "test")
    expected = np.where(second == 2, 255, second)
    expected[first == 1] = 1
    assert np.array_equal(dataset.mask(0), expected)
    assert np.array_equal(dataset.mask(1), first)
    assert dataset.annotations(0).mask is None
    assert check("folder", tree).counts["test"].masks == 2
    Image.fromarray(second[:, :30]).save(tree / "masks/2.png")
    with pytest.raises(DataError, match=r"1.png is 40x30 and .*2.png is 30x30: masks of the objects of an image have"):
        dataset.mask(0)


def test_two_spellings_of_a_path_are_one_image(tree, write_text):
    write_text("annotations.csv", HEADER + ROWS + "./images//d.jpg,0,ant,40,30,7,8,9,10,test,\n")
    assert open_source("folder", tree, "test").image_ids == ["images/c.jpg", "images/d.jpg"]
    write_text("annotations.csv", HEADER + ROWS + "./images/d.jpg,0,ant,40,30,,,,,train,\n")
    with pytest.raises(DataError, match=r"images/d.jpg is class 0 of train_weaksup here and class 0 of test above"):
        open_source("folder", tree, "test")


def test_training_split_knows_no_boxes(tree):
    dataset = open_dataset("folder", tree, "train_weaksup")
    assert dataset.image_ids == ("images/a.jpg",)
    assert open_source("folder", tree, "train_weaksup").annotation(0).boxes.shape == (0, 4)
    with pytest.raises(RuntimeError, match="withheld from training"):
        dataset.annotations(0)


def test_opening_decodes_nothing_and_reads_sizes_from_headers(tree, write_text):
    rows = [line.split(",") for line in (HEADER + ROWS).splitlines()]
    write_text("small.csv", "\n".join(",".join(row[:3] + row[5:10]) for row in rows) + "\n")
    for name in "abd":
        (tree / f"images/{name}.jpg").unlink()
    cut = tree / "images/c.jpg"
    cut.write_bytes(cut.read_bytes()[:-50])
    dataset = open_dataset("folder", tree, "test", annotations="small.csv")
    assert dataset.annotations(0).size == (40, 30)
    with pytest.raises(DataError, match=r"images/c.jpg: cannot be decoded"):
        dataset[0]
    with pytest.raises(DataError, match=r"images/d.jpg: no such image file"):
        dataset.annotations(1)


def test_skip_bad_leaves_unreadable_images_out_and_says_which(tree):
    (tree / "images/c.jpg").write_bytes(b"broken")
    dataset = open_dataset("folder", tree, "test", skip_bad=True)
    assert dataset.image_ids == ("images/d.jpg",)
    assert dataset.labels.tolist() == [0]
    assert dataset.annotations(0).boxes.tolist() == [[3, 4, 5, 6]]
    assert dataset[0].image_id == "images/d.jpg"
    assert len(dataset.skipped) == 1
    assert "images/c.jpg: not an image" in dataset.skipped[0]
    (tree / "images/d.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match="split 'test' has no readable image; 2 were skipped"):
        open_dataset("folder", tree, "test", skip_bad=True)


def test_classes_may_be_names_alone(tree, write_text):
    write_text("names.csv", "image,class_name,split\nimages/a.jpg,wasp,train\nimages/b.jpg,ant,train\n")
    dataset = open_dataset("folder", tree, "train_weaksup", annotations="names.csv")
    assert dataset.class_names == ("ant", "wasp")
    assert dataset.labels.tolist() == [1, 0]


def test_ids_are_labels_of_classes(tree, write_text):
    write_text(
        "ids.csv",
        "image,class_id,split\nimages/a.jpg,20240131001,test\nimages/b.jpg,1,train\nimages/c.jpg,5,test\n",
    )
    dataset = open_dataset("folder", tree, "test", annotations="ids.csv")
    assert dataset.class_names == ("class 1", "class 5", "class 20240131001")
    assert dataset.labels.tolist() == [2, 1]
    assert dataset.annotations(0).boxes.shape == (0, 4)
    train = open_dataset("folder", tree, "train_weaksup", annotations="ids.csv")
    assert (train.class_names, train.labels.tolist()) == (dataset.class_names, [0])
    write_text("ids.csv", f"image,class_id,split\nimages/a.jpg,{'9' * 5000},test\n")
    with pytest.raises(DataError, match="line 2: class_id is a whole number from 0, got '9999"):
        open_dataset("folder", tree, "test", annotations="ids.csv")


def test_files_of_splits_are_matched_by_the_names_of_their_classes(tree, write_text):
    write_text("train.csv", "image,class_id,class_name,split\nimages/a.jpg,0,ant,train\nimages/b.jpg,1,bee,train\n")
    write_text("test.csv", "image,class_id,class_name,split\nimages/c.jpg,0,bee,test\nimages/d.jpg,7,ant,test\n")
    options = {"annotations": "{split}.csv"}
    train, test = (open_dataset("folder", tree, split, **options) for split in ("train_weaksup", "test"))
    assert train.class_names == test.class_names == ("ant", "bee")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [1, 0])
    write_text("test.csv", "image,class_id,class_name,split\nimages/c.jpg,0,bees,test\n")
    message = r"test.csv: images/c.jpg is of class 'bees', which .*train.csv does not have; did you mean 'bee'\?"
    with pytest.raises(DataError, match=message):
        open_dataset("folder", tree, "test", **options)


def test_csv_of_windows_reads_the_same(tree):
    (tree / "annotations.csv").write_bytes(("\ufeff" + (HEADER + ROWS).replace("\n", "\r\n")).encode())
    assert open_dataset("folder", tree, "test").image_ids == ("images/c.jpg", "images/d.jpg")


def test_empty_split_says_what_there_is(tree, write_text):
    write_text("annotations.csv", HEADER + ROWS.splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"annotations.csv: split 'test' is empty; the file has train_weaksup \(1\)"):
        open_dataset("folder", tree, "test")
    write_text("annotations.csv", HEADER)
    with pytest.raises(DataError, match=r"split 'test' is empty; the file has no image at all"):
        open_dataset("folder", tree, "test")


@pytest.mark.parametrize(
    ("column", "bad"),
    [
        *((column, bad) for column in ("image", "mask") for bad in ("/etc/passwd", "../a.jpg", "a/../../a.jpg")),
        ("mask", "..\\a.jpg"),
        ("image", ""),
    ],
)
def test_paths_that_leave_the_folder_are_refused(tree, write_text, bad, column):
    image, mask = (bad, "") if column == "image" else ("images/a.jpg", bad)
    write_text("annotations.csv", HEADER + f"{image},0,ant,40,30,0,0,1,1,test,{mask}\n")
    with pytest.raises(DataError, match=r"annotations.csv, line 2: .* is not a path below the data folder"):
        open_dataset("folder", tree, "test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,x,ant,40,30,0,0,1,1,test,", "line 2: class_id is a whole number from 0, got 'x'"),
        ("a.jpg,-1,ant,40,30,0,0,1,1,test,", "line 2: class_id is a whole number from 0, got '-1'"),
        ("a.jpg,0,ant,40,0,0,0,1,1,test,", "width and height are positive whole numbers, got 40, 0"),
        ("a.jpg,0,ant,40,30,0,0,1,,test,", r"x0, y0, x1, y1 are numbers, got \['0', '0', '1', ''\]"),
        ("a.jpg,0,ant,40,30,5,0,5,1,test,", r"a box is 0 <= x0 < x1 .* got \[5.0, 0.0, 5.0, 1.0\]"),
        ("a.jpg,0,ant,40,30,nan,0,5,1,test,", "a box is 0 <= x0 < x1"),
        ("a.jpg,0,ant,40,30,0,0,1,1,trian,", "split is train, val or test, got 'trian'"),
        (
            "a.jpg,0,ant,40,30,0,0,1,1,test,\nb.jpg,0,ant,,,0,0,1,1,test,\na.jpg,0,ant,40,30,0,0,1,1,test,",
            "4: repeats line 2",
        ),
        ("a.jpg,0,ant,40,30,0,0,1,1,test,\na.jpg,0,ant,30,40,2,2,3,3,test,", "a.jpg is 30x40 here and 40x30 above"),
        ("a.jpg,0,ant", "does not have as many fields as the header"),
        (
            "a.jpg,0,ant,40,30,0,0,1,1,test,\na.jpg,1,bee,40,30,0,0,1,1,test,",
            "line 3: a.jpg is class 1 of test here and",
        ),
        ("a.jpg,0,ant,40,30,0,0,1,1,test,\nb.jpg,0,bee,40,30,0,0,1,1,test,", "class 0 is 'bee' here and 'ant' above"),
        (
            "a.jpg,0,ant,40,30,0,0,1,1,test,\nb.jpg,1,ant,40,30,0,0,1,1,test,",
            "class 'ant' has the id 1 here and 0 above",
        ),
    ],
)
def test_bad_rows_are_named_by_line(tree, write_text, row, message):
    write_text("annotations.csv", HEADER + row + "\n")
    with pytest.raises(DataError, match=message):
        open_dataset("folder", tree, "test")


@pytest.mark.parametrize(
    "row",
    [
        "a.jpg,0.0,ant,40,30,1,2,10.50,20.0,test",
        "./a.jpg,0,ant,40.,30,1e0,2,10.5,20,test",
        "a.jpg,0,ant,40,30,01,2,10.5,20,test",
    ],
)
def test_a_row_that_is_written_otherwise_is_the_same_row(tmp_path, write_text, row):
    header = "image,class_id,class_name,width,height,x0,y0,x1,y1,split\n"
    write_text("annotations.csv", f"{header}a.jpg,0,ant,40,30,1,2,10.5,20,test\n{row}\n")
    with pytest.raises(DataError, match=r"line 3: repeats line 2; remove one of them"):
        open_dataset("folder", tmp_path, "test")
    write_text("annotations.csv", f"{header}a.jpg,0,ant,40,30,1,2,10.5,20,test\na.jpg,0,ant,40,30,1,2,10.5,21,test\n")
    open_dataset("folder", tmp_path, "test")


def test_missing_csv_and_columns_are_named(tree, write_text):
    with pytest.raises(DataError, match=r"other.csv: missing; 'folder' data needs this CSV"):
        open_dataset("folder", tree, "test", annotations="other.csv")
    write_text("annotations.csv", "image,class_name,split\na.jpg,,test\n")
    with pytest.raises(DataError, match="line 2: class_name is empty"):
        open_dataset("folder", tree, "test")
    write_text("annotations.csv", "image,x0\n")
    with pytest.raises(DataError, match="the header lacks split, class_id, y0, x1, y1; expected image, split, "):
        open_dataset("folder", tree, "test")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,class_id,widht,height,x0,y0,x1,y1,split", "unknown column 'widht'; did you mean 'width'"),
        ("image,class_id,width,height,xmin,ymin,xmax,ymax,split", "unknown column 'xmin'; did you mean 'x0'"),
        ("image,class_id,width,height,X0,Y0,X1,Y1,split", "unknown column 'X0'; did you mean 'x0'"),
        ("image,class_id,width,height,x_0,y0,x1,y1,split", "unknown column 'x_0'; did you mean 'x0'"),
        ("image,class_id, width, height,x0,y0,x1,y1,split", "unknown column ' width'; did you mean 'width'"),
        ("image,ClassName,width,height,x0,y0,x1,y1,split", "unknown column 'ClassName'; did you mean 'class_name'"),
        ("image,class_id,width,height,x0,y0,x1,split,masks", "unknown column 'masks'; did you mean 'mask'"),
        ("image,class_id,width,height,x1,y1,x2,y2,split", "the header lacks x0, y0"),
        ("image,class_id,width,x0,y0,x1,y1,split", "the header lacks height"),
        ("image,class_id,class_id,x0,y0,x1,y1,split", "the column 'class_id' comes twice"),
    ],
)
def test_a_column_that_is_nearly_right_is_refused(tree, write_text, header, message):
    write_text("annotations.csv", header + "\n")
    for split in ("train_weaksup", "test"):
        with pytest.raises(DataError, match=f"annotations.csv: {message}"):
            open_dataset("folder", tree, split)


def test_a_fault_of_a_test_row_is_told_before_training(tree, write_text):
    write_text("annotations.csv", HEADER + ROWS.replace("5,5,6,6", "6,5,5,6").replace("3,4,5,6", "nan,4,5,6"))
    with pytest.raises(DataError, match=r"line 4: a box is 0 <= x0 < x1 .* \(1 more: wsolfast data check names them\)"):
        open_dataset("folder", tree, "train_weaksup")


COCO = {
    "categories": [{"id": 7, "name": "bee"}, {"id": 3, "name": "ant"}],
    "images": [
        {"id": 1, "file_name": "c.jpg", "width": 40, "height": 30},
        {"id": 2, "file_name": "d.jpg"},
        {"id": 3, "file_name": "a.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [5, 6, 10, 4.5]},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0, 0, 40, 30]},
        {"id": 3, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {"id": 4, "image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 1},
    ],
}


def test_coco_files_are_read_one_per_split(tree, write_text):
    write_text("coco/instances_test.json", json.dumps(COCO))
    options = {"annotations": "coco/instances_{split}.json", "images": "images"}
    dataset = open_dataset("folder", tree, "test", **options)
    assert dataset.image_ids == ("c.jpg", "d.jpg")
    assert dataset.class_names == ("ant", "bee")
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.annotations(0).boxes.tolist() == [[5, 6, 15, 10.5], [1, 2, 4, 6]]
    assert dataset.annotations(1).boxes.tolist() == [[0, 0, 40, 30]]
    assert dataset.annotations(1).size == (40, 30)
    assert dataset[0].image.shape == (3, 30, 40)
    with pytest.raises(DataError, match=r"coco/instances_train.json: missing"):
        open_dataset("folder", tree, "train_weaksup", **options)


def test_coco_files_may_begin_with_a_byte_order_mark(tree):
    (tree / "test.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(COCO).encode())
    assert len(open_dataset("folder", tree, "test", annotations="test.json", images="images")) == 2


def test_the_suffix_of_a_coco_file_may_be_in_capitals(tree, write_text):
    write_text("test.JSON", json.dumps(COCO))
    assert len(open_dataset("folder", tree, "test", annotations="test.JSON", images="images")) == 2
    assert "bbox" in check("folder", tree, annotations="{split}.JSON", images="nowhere").layout


def test_packing_refuses_splits_that_number_their_classes_differently(tree, write_text, tmp_path):
    write_text("val.json", json.dumps(COCO))
    write_text("test.json", json.dumps(COCO | {"categories": [{"id": 7, "name": "ant"}, {"id": 3, "name": "bee"}]}))
    with pytest.raises(DataError, match="test and train_fullsup have other classes, or other orders"):
        pack("folder", tree, tmp_path / "packed", annotations="{split}.json", images="images")
    assert not (tmp_path / "packed").exists()


def test_coco_files_that_number_by_themselves_are_matched_by_name(tree, write_text):
    write_text("instances_train.json", json.dumps(COCO))
    other = [{"id": 1, "name": "bee"}, {"id": 2, "name": "moth"}, {"id": 4, "name": "ant"}]
    swapped = [item | {"category_id": {7: 1, 3: 4}[item["category_id"]]} for item in COCO["annotations"]]
    write_text("instances_test.json", json.dumps(COCO | {"categories": other, "annotations": swapped}))
    options = {"annotations": "instances_{split}.json", "images": "images"}
    for split in ("train_weaksup", "test"):
        dataset = open_dataset("folder", tree, split, **options)
        assert (dataset.class_names, dataset.labels.tolist()) == (("ant", "bee"), [1, 0])
    swapped[0]["category_id"] = swapped[2]["category_id"] = 2
    write_text("instances_test.json", json.dumps(COCO | {"categories": other, "annotations": swapped}))
    with pytest.raises(DataError, match=r"instances_test.json: c.jpg is of class 'moth', which .*_train.json does not"):
        open_dataset("folder", tree, "test", **options)


def coco_with(*annotations):
    return {"annotations": list(annotations)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (coco_with({"id": 5, "image_id": 9, "category_id": 7}), "annotation 5: its image or category is not in"),
        (coco_with({"id": 5, "image_id": [1], "category_id": 7}), "annotation 5: its image or category is not in"),
        (coco_with({"id": 5, "image_id": 1, "category_id": {}}), "annotation 5: its image or category is not in"),
        (coco_with({"id": 5, "image_id": 1, "category_id": 3, "bbox": [float("nan"), 2, 1, 4]}), "got .nan, 2"),
        (coco_with({"id": 5, "image_id": 1, "category_id": 1}), "annotation 5: its image or category is not in"),
        (coco_with({"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 0, 4]}), r"with an area, got \[1, 2, 0"),
        (coco_with({"id": 5, "image_id": 1, "category_id": 3, "bbox": None}), r"with an area, got None"),
        (
            coco_with(*COCO["annotations"], {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}),
            "annotation 5: c.jpg shows bee and ant; an image has one class here",
        ),
        ({"images": [{"id": k, "file_name": "../c.jpg"} for k in (1, 2)]}, r"'../c.jpg' is not a path below"),
        ({"images": [{"id": k, "file_name": "c.jpg", "width": 0, "height": 3} for k in (1, 2)]}, r"got \(0, 3\)"),
        ({"categories": [{"id": 7, "name": "bee"}, {"id": 7, "name": "ant"}]}, "class 7 is 'ant' here and 'bee' above"),
        ({"categories": [{"id": 7, "name": "bee"}, {"id": 3, "name": "bee"}]}, "class 'bee' has the id 3 here and 7"),
        ({"categories": [{"id": "x", "name": "bee"}]}, "the id of category 'bee' is a whole number, got 'x'"),
        (
            coco_with(
                {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]},
                {"id": 8, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]},
            ),
            "annotation 8: repeats annotation 1 of c.jpg",
        ),
        ({"images": [*COCO["images"], {"id": 2, "file_name": "e.jpg"}]}, "the image id 2 comes twice"),
        (
            {"images": [{"id": k, "file_name": "c.jpg"} for k in (1, 2)]},
            "c.jpg has the image ids 1 and 2",
        ),
        ({"categories": 3}, "not a COCO file with images, annotations and categories"),
    ],
)
def test_broken_coco_is_named(tree, write_text, change, message):
    write_text("a.json", json.dumps(COCO | change))
    with pytest.raises(DataError, match=message):
        open_dataset("folder", tree, "test", annotations="a.json", images="images")


def test_option_paths_stay_below_the_folder(tree):
    for option in ("annotations", "images"):
        with pytest.raises(DataError, match=f"{option}: '../x' is not a path below"):
            open_dataset("folder", tree, "test", **{option: "../x"})


def test_whole_numbers_may_be_written_as_tables_with_gaps_write_them(tree, write_text):
    rows = "images/a.jpg,1.0,40.0,30.0,1,2,10.5,20,test\nimages/b.jpg,0.0,40., 30 ,5,5,6,6,test\n"
    write_text("floats.csv", "image,class_id,width,height,x0,y0,x1,y1,split\n" + rows)
    source = open_source("folder", tree, "test", annotations="floats.csv")
    assert source.labels.tolist() == [1, 0]
    assert source.annotation(0).size == source.annotation(1).size == (40, 30)
    write_text("floats.csv", "image,class_id,width,height,x0,y0,x1,y1,split\n" + rows.replace("40.0", "40.5"))
    with pytest.raises(DataError, match=r"line 2: width and height are positive whole numbers, got 40\.5, 30\.0"):
        open_source("folder", tree, "test", annotations="floats.csv")
