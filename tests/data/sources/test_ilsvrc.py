import shutil

import pytest
from PIL import Image

from wsolfast.data import DataError, SplitMissingError, check, index, open_dataset

SYNSETS = ("n01440764", "n01443537")


def annotation(*objects, size=(40, 30)):
    items = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
        f"<ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    )
    width, height = size
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{items}</annotation>"


@pytest.fixture
def tree(tmp_path, write_image, write_text):
    """The challenge's layout: two classes, a flat validation folder."""
    for synset in SYNSETS:
        for k in (2, 1):
            write_image(f"train/{synset}/{synset}_{k}.JPEG", format="JPEG")
    for k in (1, 2, 3):
        write_image(f"val/ILSVRC2012_val_0000000{k}.JPEG", format="JPEG")
    boxes = "Annotations/CLS-LOC/val/ILSVRC2012_val_0000000{}.xml"
    write_text(boxes.format(1), annotation((SYNSETS[1], (1, 2, 11, 12))))
    write_text(boxes.format(2), annotation((SYNSETS[0], (0, 0, 5, 6)), (SYNSETS[0], (10, 10, 40, 30))))
    write_text(boxes.format(3), annotation((SYNSETS[0], (3, 3, 5, 6)), (SYNSETS[1], (7, 8, 9, 10)), size=(30, 40)))
    return tmp_path


def test_training_images_are_listed_by_synset(tree):
    dataset = open_dataset("ilsvrc", tree, "train_weaksup")
    assert dataset.image_ids == tuple(f"train/{s}/{s}_{k}.JPEG" for s in SYNSETS for k in (1, 2))
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.class_names == SYNSETS
    assert dataset[0].image.shape == (3, 30, 40)


def test_validation_boxes_come_from_xml_several_per_image(tree):
    dataset = open_dataset("ilsvrc", tree, "test")
    assert dataset.image_ids == tuple(f"val/ILSVRC2012_val_0000000{k}.JPEG" for k in (1, 2, 3))
    assert dataset.labels.tolist() == [1, 0, 0]
    assert dataset.annotations(0).boxes.tolist() == [[1, 2, 11, 12]]
    assert dataset.annotations(1).boxes.tolist() == [[0, 0, 5, 6], [10, 10, 40, 30]]
    assert dataset.annotations(2).boxes.tolist() == [[3, 3, 5, 6]], "boxes of the image's own class only"
    assert dataset.annotations(2).size == (30, 40)


def test_opening_reads_no_image(tree):
    for file in (tree / "val").iterdir():
        file.write_bytes(b"")
    dataset = open_dataset("ilsvrc", tree, "test")
    assert len(dataset) == 3
    with pytest.raises(DataError, match=r"ILSVRC2012_val_00000001.JPEG: not an image"):
        dataset[0]


def test_mapping_gives_the_class_order_and_names(tree, write_text):
    rows = f"{SYNSETS[1]} goldfish, Carassius auratus\nn99999999 ghost\n{SYNSETS[0]} tench\n"
    write_text("LOC_synset_mapping.txt", rows)
    dataset = open_dataset("ilsvrc", tree, "test")
    assert dataset.class_names == ("goldfish, Carassius auratus", "ghost", "tench")
    assert dataset.labels.tolist() == [0, 2, 2]
    assert dataset.annotations(0).boxes.tolist() == [[1, 2, 11, 12]]
    write_text("LOC_synset_mapping.txt", f"{SYNSETS[1]} goldfish\n")
    with pytest.raises(DataError, match=r"train/n01440764: n01440764 is not among the 1 classes"):
        open_dataset("ilsvrc", tree, "train_weaksup")


def test_labels_may_come_from_the_solution_file(tree, write_text):
    rows = f"ILSVRC2012_val_00000003,{SYNSETS[1]} 7 8 9 10 \nILSVRC2012_val_00000001,{SYNSETS[1]} 1 2 11 12\n"
    second = f"ILSVRC2012_val_00000002,{SYNSETS[0]} 0 0 5 6 \n"
    write_text("LOC_val_solution.csv", "ImageId,PredictionString\n" + rows + second)
    dataset = open_dataset("ilsvrc", tree, "test")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.annotations(2).boxes.tolist() == [[7, 8, 9, 10]]
    write_text("LOC_val_solution.csv", "ImageId,PredictionString\n" + rows)
    with pytest.raises(DataError, match=r"LOC_val_solution.csv: no label for image ILSVRC2012_val_00000002"):
        open_dataset("ilsvrc", tree, "test")
    write_text("LOC_val_solution.csv", "ImageId,PredictionString\nx\n")
    with pytest.raises(DataError, match=r"expected 'ImageId,PredictionString', got 'x'"):
        open_dataset("ilsvrc", tree, "test")


def test_validation_images_may_lie_in_synset_folders(tree):
    for k, synset in ((1, SYNSETS[1]), (2, SYNSETS[0]), (3, SYNSETS[0])):
        name = f"ILSVRC2012_val_0000000{k}.JPEG"
        (tree / "val" / synset).mkdir(exist_ok=True)
        shutil.move(tree / "val" / name, tree / "val" / synset / name)
    dataset = open_dataset("ilsvrc", tree, "test")
    assert dataset.image_ids[2] == "val/n01443537/ILSVRC2012_val_00000001.JPEG"
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.annotations(2).boxes.tolist() == [[1, 2, 11, 12]]


def test_kaggle_layout_is_found(tree, tmp_path_factory):
    root = tmp_path_factory.mktemp("kaggle")
    shutil.copytree(tree / "train", root / "ILSVRC/Data/CLS-LOC/train")
    shutil.copytree(tree / "val", root / "ILSVRC/Data/CLS-LOC/val")
    shutil.copytree(tree / "Annotations", root / "ILSVRC/Annotations")
    expected = open_dataset("ilsvrc", tree, "train_weaksup").image_ids
    assert open_dataset("ilsvrc", root, "train_weaksup").image_ids == expected
    assert open_dataset("ilsvrc", root, "test").annotations(1).boxes.shape == (2, 4)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"00000001.xml: missing; it holds the boxes of an image"),
        ("<annotation>", r"00000001.xml: not a readable annotation"),
        (BOMB, r"00000001.xml: not a readable annotation \(EntitiesForbidden"),
        ("<annotation/>", r"00000001.xml: size or bndbox is missing"),
        (annotation(), r"00000001.xml: no object in it"),
        (
            annotation((SYNSETS[0], (1, 2, "inf", 5))),
            r"00000001.xml: size \(40, 30\) or box \[1.0, 2.0, inf, 5.0\] has no area",
        ),
        (
            annotation((SYNSETS[0], (1, 2, 1, 5))),
            r"00000001.xml: size \(40, 30\) or box \[1.0, 2.0, 1.0, 5.0\] has no area",
        ),
        (annotation((SYNSETS[0], (1, 2, 5, 5))), r"00000001.xml: no box of n01443537, the class of val/"),
    ],
)
def test_broken_xml_is_named(tree, write_text, text, message):
    rows = "".join(f"ILSVRC2012_val_0000000{k},{SYNSETS[1]} 1 2 3 4\n" for k in (1, 2, 3))
    write_text("LOC_val_solution.csv", "ImageId,PredictionString\n" + rows)
    dataset = open_dataset("ilsvrc", tree, "test")
    file = "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml"
    if text is None:
        (tree / file).unlink()
    else:
        write_text(file, text)
    with pytest.raises(DataError, match=message):
        dataset.annotations(0)


def test_a_missing_annotation_is_told_once(tree):
    file = next(tree.rglob("ILSVRC2012_val_00000001.xml"))
    file.unlink()
    told = [message for messages in check("ilsvrc", tree).problems.values() for message in messages]
    assert [message for message in told if file.name in message] == [f"{file}: missing; it holds the boxes of an image"]


def test_missing_folders_say_what_a_right_tree_looks_like(tree, tmp_path_factory):
    with pytest.raises(DataError, match=r"neither train/ nor val/ is there; expected\ntrain/n01440764/"):
        open_dataset("ilsvrc", tmp_path_factory.mktemp("empty"), "test")
    with pytest.raises(DataError, match="no train_fullsup split; give metadata=DIR"):
        open_dataset("ilsvrc", tree, "train_fullsup")
    shutil.rmtree(tree / "Annotations")
    with pytest.raises(DataError, match=r"Annotations/CLS-LOC/val: missing; it holds the boxes"):
        open_dataset("ilsvrc", tree, "test")
    (tree / "Annotations/CLS-LOC/val").mkdir(parents=True)
    shutil.move(tree / "val", tree / "hidden")
    with pytest.raises(DataError, match=r"val: missing; expected"):
        open_dataset("ilsvrc", tree, "test")
    shutil.move(tree / "hidden", tree / "val")
    shutil.rmtree(tree / "train")
    with pytest.raises(DataError, match=r"LOC_synset_mapping.txt: missing, and there are no synset folders"):
        open_dataset("ilsvrc", tree, "test")
    (tree / "LOC_synset_mapping.txt").write_text(f"{SYNSETS[0]} tench\n")
    with pytest.raises(DataError, match=r"train: missing; expected"):
        open_dataset("ilsvrc", tree, "train_weaksup")


@pytest.mark.parametrize("by_synset", [False, True])
def test_boxes_without_an_image_are_missed_by_name(tree, by_synset):
    if by_synset:
        for k, synset in ((1, SYNSETS[1]), (2, SYNSETS[0]), (3, SYNSETS[0])):
            (tree / "val" / synset).mkdir(exist_ok=True)
            name = f"ILSVRC2012_val_0000000{k}.JPEG"
            shutil.move(tree / "val" / name, tree / "val" / synset / name)
    gone = next((tree / "val").rglob("ILSVRC2012_val_00000002.JPEG"))
    gone.unlink()
    dataset = open_dataset("ilsvrc", tree, "test")
    assert len(dataset) == 3
    assert dataset.image_ids[2] == str(gone.relative_to(tree))
    assert dataset.labels[2] == 0
    with pytest.raises(DataError, match=r"ILSVRC2012_val_00000002.JPEG: no such image file"):
        dataset[2]
    missing = check("ilsvrc", tree).problems["label without an image"]
    assert missing == [f"{gone}: no such file"]
    assert len(open_dataset("ilsvrc", tree, "test", skip_bad=True)) == 2


def test_empty_split_is_named(tree):
    for file in (tree / "val").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"/val: no image in it"):
        open_dataset("ilsvrc", tree, "test")


@pytest.mark.realdata
def test_benchmark_metadata_brings_imagenet_v2(real_data, tree):
    metadata = real_data / "wsol_metadata/metadata/ILSVRC"
    with pytest.raises(DataError, match=r"class_labels.txt: val2/\d+/.* is of class \d+, and there are 2 classes"):
        open_dataset("ilsvrc", tree, "train_fullsup", metadata=metadata, val_images=tree)
    (tree / "LOC_synset_mapping.txt").write_text("".join(f"n{k:08d} class {k}\n" for k in range(1000)))
    dataset = open_dataset("ilsvrc", tree, "train_fullsup", metadata=metadata, val_images=tree)
    assert len(dataset) == 10_000
    assert dataset.annotations(0).boxes.tolist() == [[156, 163, 318, 230]]
    (tree / "val2/0").mkdir(parents=True)
    Image.new("RGB", dataset.annotations(0).size).save(tree / "val2/0/0.jpeg")
    assert dataset[0].placement.image_size == dataset.annotations(0).size


def test_a_size_that_is_not_the_images_is_told(tree):
    dataset = open_dataset("ilsvrc", tree, "test")
    assert dataset[0].image.shape == (3, 30, 40)
    for _ in range(2):
        with pytest.raises(DataError, match=r"val_00000003.JPEG: the image is 40x30, its annotation says 30x40"):
            dataset[2]
        index("ilsvrc", tree)
        dataset = open_dataset("ilsvrc", tree, "test")


def stray(folder):
    """Files that editors and operating systems leave in a folder."""
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (folder / name).mkdir()
        shutil.copy(next(folder.rglob("*.JPEG")), folder / name / "copy.JPEG")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._n01440764_1.JPEG", "._ILSVRC2012_val_00000001.xml"):
        (folder / name).write_bytes(b"\0\5\x16\7")


@pytest.mark.parametrize("listed", [True, False])
def test_hidden_and_system_entries_are_no_data(tree, write_text, listed):
    if listed:
        write_text("LOC_synset_mapping.txt", "".join(f"{synset} {synset}\n" for synset in SYNSETS))
    splits = ("train_weaksup", "test")
    expected = [open_dataset("ilsvrc", tree, split) for split in splits]
    for folder in (tree / "train", tree / "train" / SYNSETS[0], tree / "val"):
        stray(folder)
    (tree / "Annotations/CLS-LOC/val/._ILSVRC2012_val_00000009.xml").write_bytes(b"\0")
    for split, before in zip(splits, expected, strict=True):
        dataset = open_dataset("ilsvrc", tree, split)
        assert dataset.image_ids == before.image_ids
        assert dataset.class_names == before.class_names
        assert dataset.labels.equal(before.labels)


def test_a_folder_without_images_is_named_and_not_numbered(tree, write_text, caplog):
    (tree / "train/n00000001").mkdir()
    dataset = open_dataset("ilsvrc", tree, "train_weaksup")
    assert dataset.class_names == SYNSETS
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    told = [f"{tree}/train/n00000001: no image in it, so it is no class"]
    assert caplog.messages == told
    assert check("ilsvrc", tree).notes["folder or annotation without an image"] == told
    # The data set's own list has the class.
    write_text("LOC_synset_mapping.txt", "".join(f"{synset} {synset}\n" for synset in ("n00000001", *SYNSETS)))
    dataset = open_dataset("ilsvrc", tree, "train_weaksup")
    assert dataset.class_names == ("n00000001", *SYNSETS)
    assert dataset.labels.tolist() == [1, 1, 2, 2]


@pytest.fixture
def some_classes(tree, write_image, write_text):
    """Two of five classes, and the annotations of all."""
    write_text("LOC_synset_mapping.txt", "".join(f"{synset} {synset[-1]}\n" for synset in ("n0", *SYNSETS, "n8", "n9")))
    for synset in ("n0", "n8", "n9"):
        write_text(f"Annotations/CLS-LOC/val/ILSVRC2012_val_1{synset}.xml", annotation((synset, (1, 2, 11, 12))))
    write_image("val/ILSVRC2012_val_1n9.JPEG", format="JPEG")
    return tree


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("indexed", [True, False])
def test_some_of_the_classes_can_be_read_alone(some_classes, listed, indexed):
    if not listed:
        (some_classes / "LOC_synset_mapping.txt").unlink()
        with pytest.raises(DataError, match=r"'n9' of .* is not among the 2 classes; .* set data.options.subset=true"):
            open_dataset("ilsvrc", some_classes, "test")
    if indexed:
        assert index("ilsvrc", some_classes, subset=True).images == {"train_weaksup": 4, "test": 3}
    for split, labels in (("train_weaksup", [0, 0, 1, 1]), ("test", [1, 0, 0])):
        dataset = open_dataset("ilsvrc", some_classes, split, subset=True)
        assert dataset.labels.tolist() == labels
        assert dataset.class_names == (("4", "7") if listed else SYNSETS)
        if listed:
            dataset.number_by_id(5)
            assert dataset.labels.tolist() == [label + 1 for label in labels]
    Image.new("RGB", (30, 40)).save(some_classes / "val/ILSVRC2012_val_00000003.JPEG", "JPEG")
    assert check("ilsvrc", some_classes, subset=True).ok


def test_annotations_without_an_image_name_the_option(some_classes):
    report = check("ilsvrc", some_classes)
    (told,) = report.notes["folder or annotation without an image"]
    assert told.endswith("2 of 6 annotations have no image; data.options.subset=true leaves such annotations out")


def test_a_list_that_has_a_class_or_an_image_twice_is_named(tree, write_text):
    write_text("LOC_val_solution.csv", "ImageId,PredictionString\na,n01440764 1 2 3 4\na,n01443537 1 2 3 4\n")
    with pytest.raises(DataError, match=r"LOC_val_solution.csv: a is listed twice"):
        open_dataset("ilsvrc", tree, "test")
    write_text("LOC_synset_mapping.txt", f"{SYNSETS[0]} a\n{SYNSETS[1]} b\n{SYNSETS[0]} a\n")
    with pytest.raises(DataError, match=r"LOC_synset_mapping.txt: n01440764 is listed more than once"):
        open_dataset("ilsvrc", tree, "train_weaksup")


def test_an_index_is_renewed_when_an_empty_folder_gets_an_image(tree, write_image):
    (tree / "train/n00000001").mkdir()
    index("ilsvrc", tree)
    assert open_dataset("ilsvrc", tree, "test").class_names == SYNSETS
    write_image("train/n00000001/1.JPEG", format="JPEG")
    assert open_dataset("ilsvrc", tree, "test").class_names == ("n00000001", *SYNSETS)


def test_metadata_of_all_classes_serves_some(some_classes, write_text):
    names = ("a", "b", "c")
    write_text("meta/val/image_ids.txt", "".join(f"val2/{name}.jpeg\n" for name in names))
    write_text("meta/val/class_labels.txt", "val2/a.jpeg,2\nval2/b.jpeg,0\nval2/c.jpeg,1\n")
    write_text("meta/val/image_sizes.txt", "".join(f"val2/{name}.jpeg,{k + 5},9\n" for k, name in enumerate(names)))
    write_text(
        "meta/val/localization.txt", "".join(f"val2/{name}.jpeg,0,0,{k + 3},8\n" for k, name in enumerate(names))
    )
    dataset = open_dataset("ilsvrc", some_classes, "train_fullsup", metadata=some_classes / "meta", subset=True)
    assert dataset.image_ids == ("val2/a.jpeg", "val2/c.jpeg")
    assert dataset.labels.tolist() == [1, 0]
    assert [dataset.annotations(i).size for i in range(2)] == [(5, 9), (7, 9)]
    assert [dataset.annotations(i).boxes.tolist() for i in range(2)] == [[[0, 0, 3, 8]], [[0, 0, 5, 8]]]
    write_text("meta/val/class_labels.txt", "val2/a.jpeg,0\nval2/b.jpeg,0\nval2/c.jpeg,0\n")
    with pytest.raises(SplitMissingError, match="has no image of the 2 classes that are there"):
        open_dataset("ilsvrc", some_classes, "train_fullsup", metadata=some_classes / "meta", subset=True)
    (some_classes / "LOC_synset_mapping.txt").unlink()
    with pytest.raises(DataError, match=r"LOC_synset_mapping.txt: missing; with subset it tells the labels"):
        open_dataset("ilsvrc", some_classes, "train_fullsup", metadata=some_classes / "meta", subset=True)


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("image_ids.txt", "a.jpeg\n\nb.jpeg\na.jpeg\n", 4),
        ("class_labels.txt", "a.jpeg,0\nb.jpeg,1\n\nb.jpeg,0\n", 4),
        ("image_sizes.txt", "a.jpeg,5,9\na.jpeg,5,9\nb.jpeg,5,9\n", 2),
    ],
)
def test_an_id_that_metadata_list_twice_is_named_with_its_file_and_line(tree, write_text, file, text, line):
    write_text("meta/val/image_ids.txt", "a.jpeg\nb.jpeg\n")
    write_text("meta/val/class_labels.txt", "a.jpeg,0\nb.jpeg,1\n")
    write_text("meta/val/image_sizes.txt", "a.jpeg,5,9\nb.jpeg,5,9\n")
    write_text("meta/val/localization.txt", "a.jpeg,0,0,5,9\na.jpeg,0,0,2,3\nb.jpeg,0,0,5,9\n")
    assert len(open_dataset("ilsvrc", tree, "train_fullsup", metadata=tree / "meta").annotations(0).boxes) == 2
    write_text(f"meta/val/{file}", text)
    with pytest.raises(DataError, match=rf"{file}, line {line}: [ab].jpeg is listed in line [12] already"):
        open_dataset("ilsvrc", tree, "train_fullsup", metadata=tree / "meta")


def test_flipped_boxes_of_metadata_are_named(tree, write_text):
    write_text("meta/val/image_ids.txt", "a.jpeg\nb.jpeg\n")
    write_text("meta/val/class_labels.txt", "a.jpeg,0\nb.jpeg,1\n")
    write_text("meta/val/image_sizes.txt", "a.jpeg,5,9\nb.jpeg,5,9\n")
    write_text("meta/val/localization.txt", "a.jpeg,0,0,5,9\na.jpeg,3,0,2,3\nb.jpeg,0,0,5,0\n")
    message = r"localization.txt: a.jpeg: a box is 0 <= x0 < x1 .* got \[3, 0, 2, 3\] \(1 more"
    with pytest.raises(DataError, match=message):
        open_dataset("ilsvrc", tree, "train_fullsup", metadata=tree / "meta")


def test_all_broken_xml_files_are_named(tree, write_text):
    for k in (1, 3):
        write_text(f"Annotations/CLS-LOC/val/ILSVRC2012_val_0000000{k}.xml", "<annotation>")
    told = check("ilsvrc", tree).problems["split cannot be read"]
    assert [message.split(".xml")[0][-1] for message in told] == ["1", "3"]


def test_all_faults_of_the_lists_are_told_at_once(tree, write_text):
    for synset in ("n1", "n2"):
        (tree / "train" / synset).mkdir()
        shutil.copy(tree / "val/ILSVRC2012_val_00000001.JPEG", tree / "train" / synset)
    write_text("LOC_synset_mapping.txt", "".join(f"{synset} x\n" for synset in SYNSETS))
    rows = "x\nILSVRC2012_val_00000001,\na,n01440764 1 2 3 4\na,n01440764 1 2 3 4\n"
    write_text("LOC_val_solution.csv", f"ImageId,PredictionString\n{rows}")
    hint = "; where only some of ImageNet's classes are there, set data.options.subset=true"
    training = [f"{tree}/train/{synset}: {synset} is not among the 2 classes{hint}" for synset in ("n1", "n2")]
    assert check("ilsvrc", tree).problems["split cannot be read"] == [
        *training,
        f"{tree}/LOC_val_solution.csv: expected 'ImageId,PredictionString', got 'x'",
        f"{tree}/LOC_val_solution.csv: expected 'ImageId,PredictionString', got 'ILSVRC2012_val_00000001,'",
        f"{tree}/LOC_val_solution.csv: a is listed twice; remove one of the lines",
    ]
    rows = f"ILSVRC2012_val_00000001,{SYNSETS[0]} 1 2 3 4\nILSVRC2012_val_00000003,n7 1 2 3 4\n"
    write_text("LOC_val_solution.csv", f"ImageId,PredictionString\n{rows}")
    write_text("Annotations/CLS-LOC/val/ILSVRC2012_val_00000009.xml", annotation((SYNSETS[1], (1, 2, 11, 12))))
    assert check("ilsvrc", tree).problems["split cannot be read"][2:] == [
        f"{tree}/LOC_val_solution.csv: no label for image ILSVRC2012_val_00000002",
        f"{tree}/LOC_val_solution.csv: 'n7' of ILSVRC2012_val_00000003 is not among the 2 classes{hint}",
        f"{tree}/LOC_val_solution.csv: no label for image ILSVRC2012_val_00000009",
    ]
    write_text("LOC_synset_mapping.txt", "".join(f"{synset} x\n" for synset in ("n1", *SYNSETS, *SYNSETS, "n1", "n2")))
    assert check("ilsvrc", tree).problems["split cannot be read"] == [
        f"{tree}/LOC_synset_mapping.txt: {synset} is listed more than once; keep one of the lines"
        for synset in ("n1", *SYNSETS)
    ]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00,x", b'ImageId,PredictionString\n"' + b"x" * 200_000])
def test_a_solution_that_is_no_text_is_named(tree, content):
    (tree / "LOC_val_solution.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"LOC_val_solution.csv: (cannot be read as CSV|expected 'ImageId)"):
        open_dataset("ilsvrc", tree, "test")
