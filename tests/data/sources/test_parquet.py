"""Parquet as Hugging Face's ``datasets`` stores images, written here by pyarrow."""

import io
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast.data import CacheSpec, DataError, check, index, open_dataset, open_source, pack
from wsolfast.data.sources import parquet

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra 'parquet'")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}


def encoded(seed, width=24, height=20):
    smooth = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(smooth).resize((width, height)).save(stream, "JPEG")
    return stream.getvalue()


def rows_of(count, first=0):
    return {
        "image": [{"bytes": encoded(first + i), "path": f"{first + i}.jpg"} for i in range(count)],
        "label": [i % 3 for i in range(count)],
        "boxes": [[[1, 2, 10 + i, 12.5]] * (1 + i % 2) for i in range(count)],
    }


def write(path, columns, features=None, group=2):
    """The file, with the description that ``datasets`` adds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"image": IMAGE, "label": pyarrow.int64(), "boxes": pyarrow.list_(pyarrow.list_(pyarrow.float64()))}
    arrays = {name: pyarrow.array(values, kinds.get(name)) for name, values in columns.items()}
    table = pyarrow.table(arrays)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.fixture
def tree(tmp_path):
    """Two files of training rows and one of each other split, five rows a file, two rows a group."""
    for name, first in (("train-00000-of-00002", 0), ("train-00001-of-00002", 5)):
        write(tmp_path / f"data/{name}.parquet", rows_of(5, first), FEATURES)
    write(tmp_path / "data/validation-00000-of-00001.parquet", rows_of(5, 10), FEATURES)
    write(tmp_path / "data/test-00000-of-00001.parquet", rows_of(5, 15), FEATURES)
    return tmp_path


def test_rows_become_samples(tree):
    for split, first, count in (("train_weaksup", 0, 10), ("train_fullsup", 10, 5), ("test", 15, 5)):
        dataset = open_dataset("parquet", tree, split)
        assert len(dataset) == count
        assert dataset.class_names == ("ant", "bee", "cat")
        assert dataset.labels.tolist() == [i % 5 % 3 for i in range(count)]
        assert dataset.image_ids == tuple(f"{first + i}.jpg" for i in range(count))
        for i in np.random.default_rng(0).permutation(count):
            image = np.asarray(Image.open(io.BytesIO(encoded(first + i))))
            assert np.array_equal(dataset[int(i)].image.permute(1, 2, 0).numpy(), image)
        assert torch.equal(pickle.loads(pickle.dumps(dataset))[2].image, dataset[2].image)
        if split == "train_weaksup":
            assert len(open_source("parquet", tree, split).annotation(0).boxes) == 0
        else:
            note = dataset.annotations(3)
            assert (note.size, note.boxes.tolist()) == ((24, 20), [[1, 2, 13, 12.5]] * 2)
    report = check("parquet", tree, decode=True)
    assert report.ok, str(report)
    assert report.counts["test"].boxes == 7


def test_a_group_is_read_once_in_order_and_few_are_kept(tree, monkeypatch):
    read = []
    original = parquet._read_images
    monkeypatch.setattr(parquet, "_read_images", lambda *a: read.append(a[1]) or original(*a))
    dataset = open_dataset("parquet", tree, "test")
    for i in range(5):
        dataset[i]
    assert read == [0, 1, 2]
    monkeypatch.setattr(parquet, "_KEPT_BYTES", 1)
    for i in range(5):
        dataset[i]
    assert read == [0, 1, 2, 1, 2]
    # The last one alone is left.
    dataset[4], dataset[0]
    assert read == [0, 1, 2, 1, 2, 0]


def test_other_columns_and_boxes_by_their_names(tmp_path):
    columns = rows_of(3)
    columns = {"photo": columns["image"], "kind": columns["label"], "bbox": [[[1, 2, 5, 6]], [], None]}
    columns |= {"width": [240, 24, 24], "height": [200, 20, 20]}
    arrays = {
        "photo": pyarrow.array([each["bytes"] for each in columns.pop("photo")], pyarrow.binary()),
        "bbox": pyarrow.array(columns.pop("bbox"), pyarrow.list_(pyarrow.list_(pyarrow.int64()))),
    }
    pq.write_table(pyarrow.table(columns | arrays), tmp_path / "birds.parquet")
    names = {"files": "birds.parquet", "image": "photo", "label": "kind", "boxes": "bbox", "box_format": "xywh"}
    dataset = open_dataset("parquet", tmp_path, "test", **names)
    assert dataset.image_ids == tuple(f"birds.parquet, row {row}" for row in range(3))
    assert dataset.class_names == ("class 0", "class 1", "class 2")
    assert [dataset.annotations(i).boxes.tolist() for i in range(3)] == [[[1, 2, 6, 8]], [], []]
    assert dataset.annotations(0).size == (240, 200)
    assert dataset[1].image.shape == (3, 20, 24)
    with pytest.raises(DataError, match=r"birds.parquet, row 0: the image is 24x20, its annotation says 240x200"):
        dataset[0]


def test_shards_of_a_table_are_the_table(tree, tmp_path):
    pack("parquet", tree, tmp_path / "shards", per_shard=2)
    for split in ("train_weaksup", "test"):
        ours, theirs = open_dataset("shards", tmp_path / "shards", split), open_dataset("parquet", tree, split)
        assert ours.image_ids == theirs.image_ids
        assert ours.class_names == theirs.class_names
        assert all(torch.equal(ours[i].image, theirs[i].image) for i in range(len(theirs)))
    assert torch.equal(ours.annotations(3).boxes, theirs.annotations(3).boxes)


def test_cached_images_of_a_table_are_its_own(tree, tmp_path, monkeypatch):
    expected = open_dataset("parquet", tree, "test", resize=16)
    spec = CacheSpec(tmp_path / "cache", 10**9)
    for _ in range(2):
        dataset = open_dataset("parquet", tree, "test", resize=16, cache=spec)
        assert all(torch.equal(dataset[i].image, expected[i].image) for i in range(5))
        monkeypatch.setattr(parquet, "_read_images", lambda *_: pytest.fail("a group was read"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": [{"bytes": None, "path": "/etc/passwd"}] * 3},
            "row 0: no bytes; paths to other files are not followed",
        ),
        ({"image": [{"bytes": b"GIF89a", "path": "a"}] * 3}, "row 0: not an image"),
        ({"label": [0, -1, 0]}, "row 1: a label is a whole number from 0, got '-1'"),
        ({"label": [0, None, 0]}, "row 1: a label is a whole number from 0, got 'None'"),
        ({"label": [0, 7, 0]}, "1.jpg is of class 7, and there are 3 classes from 0"),
        ({"boxes": [[[3, 3, 2, 4]]] * 3}, "row 0: boxes are"),
        ({"boxes": [[[1, 2, float("nan"), 4]]] * 3}, "row 0: boxes are"),
        ({"boxes": [[[1, 2]]] * 3}, "row 0: boxes are"),
        ({"boxes": [[[1, 2, None, 4]]] * 3}, "row 0: boxes are"),
        ({"width": [24, 24, None], "height": [20, 20, 20]}, r"row 2: width and height are .* got \(None, 20\)"),
        ({"width": [24, 24, 24], "height": [20, -20, 20]}, r"row 1: width and height are .* got \(24, -20\)"),
    ],
)
def test_what_rows_must_not_hold_is_refused(tmp_path, change, message):
    write(tmp_path / "test-0.parquet", rows_of(3) | change, FEATURES)
    with pytest.raises(DataError, match=rf"test-0.parquet.*{message}"):
        open_dataset("parquet", tmp_path, "test")[0]


def test_sizes_that_are_not_told_are_read_from_the_images(tmp_path):
    file = write(tmp_path / "test-0.parquet", rows_of(3) | {"width": [None, 24, 24.0], "height": [None, 20, 20]})
    source = open_source("parquet", tmp_path, "test")
    assert [source.told_size(i) for i in range(3)] == [None, (24, 20), (24, 20)]
    assert source.annotation(0).size == (24, 20)
    for width in (float("nan"), -24.0, 24.5):
        write(file, rows_of(2) | {"width": [24.0, width], "height": [20, 20]})
        with pytest.raises(DataError, match=r"row 1: width and height are positive whole numbers, got \("):
            open_source("parquet", tmp_path, "test")


def test_rows_without_an_image_are_named(tmp_path):
    file = write(tmp_path / "test-0.parquet", rows_of(2) | {"image": [None, {"bytes": encoded(0), "path": "0.jpg"}]})
    source = open_source("parquet", tmp_path, "test")
    with pytest.raises(DataError, match="row 0: no bytes"):
        source.read(0)
    assert source.read(1).shape == (20, 24, 3)
    pq.write_table(pyarrow.table({"image": [{"path": "0.jpg"}], "label": [0]}), file)
    with pytest.raises(DataError, match="the column 'image' has no bytes"):
        open_source("parquet", tmp_path, "test")


def test_a_split_without_rows_is_no_split(tree):
    write(tree / "data/test-00000-of-00001.parquet", rows_of(0), FEATURES)
    report = check("parquet", tree)
    assert report.unreadable == ["test"]
    assert "split 'test' is empty" in report.problems["split cannot be read"][0]


def test_splits_are_matched_by_the_names_of_their_classes(tree):
    features = {"label": {"names": ["cat", "ant", "bee"]}}
    write(tree / "data/test-00000-of-00001.parquet", rows_of(3), features)
    test = open_dataset("parquet", tree, "test")
    assert (test.class_names, test.labels.tolist()) == (("ant", "bee", "cat"), [2, 0, 1])
    write(tree / "data/test-00000-of-00001.parquet", rows_of(3), {"label": {"names": ["ant", "moth", "bee"]}})
    with pytest.raises(DataError, match=r"test-0.*, row 1: its class 'moth' is not among those of .*/train-00000"):
        open_dataset("parquet", tree, "test")
    write(tree / "data/train-00001-of-00002.parquet", rows_of(5), features)
    with pytest.raises(DataError, match=r"train-00001.*: its classes have other names or another order than in"):
        open_dataset("parquet", tree, "train_weaksup")


def test_labels_without_names_are_those_that_occur_in_any_split(tmp_path):
    write(tmp_path / "train-0.parquet", rows_of(2) | {"label": [5, 3]})
    write(tmp_path / "test-0.parquet", rows_of(2) | {"label": [2_000_000_000, 3]})
    for split, labels in (("train_weaksup", [1, 0]), ("test", [2, 0])):
        dataset = open_dataset("parquet", tmp_path, split)
        assert dataset.class_names == ("class 3", "class 5", "class 2000000000")
        assert dataset.labels.tolist() == labels


def test_a_decompression_bomb_in_a_table_is_refused(tree, monkeypatch):
    monkeypatch.setattr("wsolfast.data.images.decode.MAX_PIXELS", 100)
    with pytest.raises(DataError, match=r"test-00000-of-00001.parquet, row 0: 24x20 px is over the limit of 100 px"):
        open_dataset("parquet", tree, "test")[0]


def test_damaged_files_are_named(tree):
    file = tree / "data/test-00000-of-00001.parquet"
    content = file.read_bytes()
    dataset = open_dataset("parquet", tree, "test")
    file.write_bytes(content[:200])
    with pytest.raises(DataError, match="not a readable parquet file"):
        open_dataset("parquet", tree, "test")
    with pytest.raises(DataError, match="has changed since it was opened"):
        dataset[0]
    file.unlink()
    with pytest.raises(DataError, match="no file"):
        open_dataset("parquet", tree, "test")
    write(file, {"picture": [1]})
    with pytest.raises(DataError, match="no column 'image'; it has picture"):
        open_dataset("parquet", tree, "test")


def test_options_that_cannot_be_meant(tree, monkeypatch):
    with pytest.raises(ValueError, match="box_format: expected one of xyxy, xywh, got 'cxcywh'"):
        open_dataset("parquet", tree, "test", box_format="cxcywh")
    with pytest.raises(DataError, match="not a path below the data folder"):
        open_dataset("parquet", tree, "test", files="../{split}.parquet")
    with pytest.raises(ValueError, match="there is nothing to index"):
        index("parquet", tree)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'wsolfast\[parquet\]'"):
        open_dataset("parquet", tree, "test")


def test_hidden_folders_hold_no_tables(tree):
    expected = open_dataset("parquet", tree, "test").image_ids
    for folder in (".cache", "data/.ipynb_checkpoints", "__MACOSX"):
        write(tree / folder / "test-00000-of-00001.parquet", rows_of(3), FEATURES)
    assert open_dataset("parquet", tree, "test").image_ids == expected
    assert len(open_dataset("parquet", tree, "test", files=".cache/{split}-*.parquet")) == 3


def test_boxes_and_sizes_that_rows_do_not_have(tmp_path):
    rows = rows_of(3) | {"width": [24, None, 24], "height": [20, None, 20], "boxes": [[[1, 2, None, 4]], None, None]}
    write(tmp_path / "test-0.parquet", rows)
    with pytest.raises(DataError, match="row 0: boxes are"):
        open_dataset("parquet", tmp_path, "test", box_format="xywh")
    write(tmp_path / "test-0.parquet", rows | {"boxes": [[[1, 2, 3, 4]], None, None]})
    dataset = open_dataset("parquet", tmp_path, "test", box_format="xywh")
    assert [dataset.annotations(i).size for i in range(3)] == [(24, 20)] * 3
    assert [len(dataset.annotations(i).boxes) for i in range(3)] == [1, 0, 0]
