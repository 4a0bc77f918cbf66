"""The small real sets, made from trees that look like the public ones, and compared with those that were measured."""

import csv
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from wsolfast.data import DataError, check, subset
from wsolfast.data.sources._voc_xml import xml_text
from wsolfast.data.tools._ilsvrc400 import NUMBERS
from wsolfast.data.tools.subset import SUBSETS, _rows

SHARED = ("image", "class_id", "class_name", "width", "height", "split")
BOX = ("x0", "y0", "x1", "y1")


def blank(path, size):
    """An image of its header alone, whatever its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("1", size).save(path, "PNG")


def table(file):
    """Rows of an annotations.csv: the image, and the box where it is not a training image's."""
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return sorted(
        tuple([row[key] for key in SHARED] + [row[key] if row["split"] != "train" else "" for key in BOX])
        for row in rows
    )


def measured(real_data, name):
    folder = {"cub50": "cub50_256", "ilsvrc400": "ilsvrc_val400_227", "pets3": "pets3_256"}[name]
    with (real_data / folder / "annotations.csv").open(newline="") as stream:
        originals = {row["image"].removeprefix("images/"): row for row in csv.DictReader(stream)}
    return real_data / folder, originals


def original_size(row):
    return int(row["orig_width"]), int(row["orig_height"])


def planned(name, root):
    """The rows without writing an image."""
    rows = [row for item in SUBSETS[name].items(root) for row in _rows(item, SUBSETS[name])]
    return sorted(tuple([*row[:5], row[9], *row[5:9]]) for row in rows)


@pytest.mark.realdata
def test_cub50_has_the_images_splits_and_boxes_that_were_measured(real_data, tmp_path):
    folder, originals = measured(real_data, "cub50")
    for file in (real_data / "cub200_annotations").glob("*.txt"):
        shutil.copy(file, tmp_path)
    for path, row in originals.items():
        blank(tmp_path / "images" / path, original_size(row))
    assert planned("cub50", tmp_path) == table(folder / "annotations.csv")


@pytest.mark.realdata
def test_ilsvrc400_has_the_images_and_boxes_that_were_measured(real_data, tmp_path):
    folder, originals = measured(real_data, "ilsvrc400")
    sizes = {path: original_size(row) for path, row in originals.items()}
    boxes = {path: [] for path in originals}
    synsets = {path: row["wnid"] for path, row in originals.items()}
    with (real_data / "wsol_metadata/metadata/ILSVRC/test/localization.txt").open() as stream:
        for line in stream:
            path, *edges = line.strip().split(",")
            if path.removeprefix("val/") in boxes:
                boxes[path.removeprefix("val/")].append(edges)
    shutil.copy(real_data / "weights/imagenet_synset_words.txt", tmp_path / "LOC_synset_mapping.txt")
    notes = tmp_path / "Annotations/CLS-LOC/val"
    notes.mkdir(parents=True)
    for path, size in sizes.items():
        blank(tmp_path / "val" / path, size)
        objects = [xml_text(path, size, synsets[path], edges) for edges in boxes[path]]
        middle = "".join(text[text.index("\t<object>") : text.index("</annotation>")] for text in objects[1:])
        (notes / path).with_suffix(".xml").write_text(objects[0].replace("</annotation>", middle + "</annotation>"))
    assert planned("ilsvrc400", tmp_path) == table(folder / "annotations.csv")


@pytest.mark.realdata
def test_pets3_has_the_images_splits_and_boxes_that_were_measured(real_data, tmp_path):
    folder, originals = measured(real_data, "pets3")
    lists = {"trainval": [], "test": ["Abyssinian_34 1 1 1", "Birman_1 7 1 2"]}
    (tmp_path / "annotations/trimaps").mkdir(parents=True)
    for path, row in originals.items():
        stem, size = path.split("/")[1].removesuffix(".jpg"), original_size(row)
        lists["test" if row["split"] == "test" else "trainval"].append(f"{stem} 1 1 1")
        blank(tmp_path / "images" / f"{stem}.jpg", size)
        trimap = np.full(size[::-1], 2, np.uint8)
        x0, y0, x1, y1 = (int(row[f"orig_{edge}"]) for edge in BOX)
        trimap[y0:y1, x0:x1] = 1
        Image.fromarray(trimap).save(tmp_path / "annotations/trimaps" / f"{stem}.png", compress_level=1)
    for name, lines in lists.items():
        (tmp_path / f"annotations/{name}.txt").write_text("\n".join(sorted(lines)))
    assert planned("pets3", tmp_path) == table(folder / "annotations.csv")


def cub_tree(root, per_class=10):
    """Fifty-two classes of a few images; 60x40 px but for one that is large and one that is small."""
    lines = {name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes", "classes")}
    number = 0
    for label in range(1, 53):
        lines["classes"].append(f"{label} {label:03d}.Bird_{label}")
        for k in range(per_class):
            number += 1
            path = f"{label:03d}.Bird_{label}/{k}.jpg"
            lines["images"].append(f"{number} {path}")
            lines["image_class_labels"].append(f"{number} {label}")
            lines["train_test_split"].append(f"{number} {int(k < 8)}")
            large = (label, k) == (1, 9)
            lines["bounding_boxes"].append(f"{number} {'100 50 400 100' if large else '5 4 55 20'}")
            if label <= 50:
                blank(root / "images" / path, (500, 375) if large else (60, 40))
    for name, some in lines.items():
        (root / f"{name}.txt").write_text("\n".join(some))
    return root


def test_cub50_is_made_and_goes_on(tmp_path, wsolfast):
    root, output = cub_tree(tmp_path / "cub"), tmp_path / "cub50"
    code, said, complaint = wsolfast("data", "subset", "cub50", root, output)
    assert code == 0, complaint
    assert "train 100, val 300, test 100; 500 images of them new" in said
    assert check("folder", output, decode=True).ok
    with Image.open(output / "images/001.Bird_1/9.jpg") as image:
        assert (image.size, image.format) == ((256, 192), "JPEG")
    rows = {row[0]: row for row in table(output / "annotations.csv")}
    # Ends at the last pixel, as the benchmark's boxes do: 499 of 500.
    assert rows["images/001.Bird_1/9.jpg"][6:] == ("51.2", "25.6", "255.49", "76.8")
    assert rows["images/050.Bird_50/8.jpg"] == (
        "images/050.Bird_50/8.jpg", "49", "Bird_50", "60", "40", "test", "5", "4", "59", "24",
    )  # fmt: skip
    assert Counter(row[5] for row in rows.values() if row[1] == "0") == {"val": 6, "train": 2, "test": 2}
    before = (output / "annotations.csv").read_bytes()
    (output / "images/001.Bird_1/9.jpg").unlink()
    assert subset("cub50", root, output).written == 1
    assert (output / "annotations.csv").read_bytes() == before
    with pytest.raises(DataError, match="was begun with other settings"):
        subset("cub50", cub_tree(tmp_path / "more", per_class=9), output)


def test_what_is_missing_is_named_and_nothing_is_written(tmp_path, wsolfast):
    root = cub_tree(tmp_path / "cub")
    (root / "images/003.Bird_3/1.jpg").unlink()
    (root / "images/004.Bird_4/1.jpg").unlink()
    with pytest.raises(DataError) as caught:
        subset("cub50", root, tmp_path / "out")
    assert len(caught.value.faults) == 2
    assert not (tmp_path / "out").exists()
    code, _, complaint = wsolfast("data", "subset", "cub51", root, tmp_path / "out")
    assert (code, complaint) == (2, "error: no small set named 'cub51'; did you mean 'cub50'?\n")
    assert wsolfast("data", "subset", "pets3", root, tmp_path / "out")[0] == 3
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    blank(root / "images/003.Bird_3/1.jpg", (60, 40))
    blank(root / "images/004.Bird_4/1.jpg", (60, 40))
    with pytest.raises(DataError, match="is not empty, and nothing of this command's"):
        subset("cub50", root, tmp_path / "out")


def test_ilsvrc400_needs_all_classes_and_its_xml_files(tmp_path):
    assert len(set(NUMBERS)) == 400
    (tmp_path / "val").mkdir()
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\n")
    with pytest.raises(DataError, match="1 classes, expected the 1,000 of ILSVRC 2012"):
        subset("ilsvrc400", tmp_path, tmp_path / "out")
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(f"n{k:08d} a, b\n" for k in range(1000)))
    with pytest.raises(DataError, match=r"ILSVRC2012_val_00000355.xml: missing; .*\(19 more"):
        subset("ilsvrc400", tmp_path, tmp_path / "out")


def test_masks_of_pets_are_made_from_trimaps(tmp_path):
    root, output = tmp_path / "pets", tmp_path / "out"
    trimap = np.full((300, 400), 2, np.uint8)
    trimap[30:120, 50:210], trimap[0:10] = 1, 3
    (root / "annotations/trimaps").mkdir(parents=True)
    stems = [f"{breed}_{k}" for breed in ("Abyssinian", "american_bulldog", "Bengal") for k in range(3)]
    for stem in stems:
        blank(root / "images" / f"{stem}.jpg", (400, 300))
        Image.fromarray(trimap).save(root / "annotations/trimaps" / f"{stem}.png")
    (root / "annotations/trainval.txt").write_text("\n".join(f"{stem} 1 1 1" for stem in stems[1::3]))
    (root / "annotations/test.txt").write_text("\n".join(f"{stem} 1 1 1" for stem in stems[0::3]))
    assert subset("pets3", root, output).images == {"val": 3, "test": 3}
    report = check("folder", output, decode=True)
    assert report.ok, str(report)
    assert (report.counts["test"].boxes, report.counts["test"].masks) == (3, 3)
    mask = np.asarray(Image.open(output / "masks/Bengal/Bengal_0.png"))
    assert mask.shape == (192, 256)
    assert (mask[50, 100], mask[180, 10], mask[2, 100]) == (1, 0, 2)
    rows = {row[0]: row for row in table(output / "annotations.csv")}
    assert rows["images/Bengal/Bengal_0.jpg"][1:] == (
        "2",
        "Bengal",
        "256",
        "192",
        "test",
        "32",
        "19.2",
        "134.4",
        "76.8",
    )
    Image.fromarray(np.full((300, 400), 2, np.uint8)).save(root / "annotations/trimaps/Bengal_0.png")
    with pytest.raises(DataError, match=r"Bengal_0.png: no pixel of value 1, which is the object"):
        subset("pets3", root, output)
