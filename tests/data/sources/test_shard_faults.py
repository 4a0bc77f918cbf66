"""Faults of shards: all are told at once, and members that contradict each other are among them."""

import tarfile

import pytest
from shard_files import image_bytes, linked, write_shard

from wsolfast.data import DataError, check, open_dataset
from wsolfast.data.sources import shards


def cls_and_json(key, cls, label):
    return [(f"{key}.jpg", image_bytes()), (f"{key}.cls", str(cls).encode()), (f"{key}.json", b'{"label": %d}' % label)]


@pytest.mark.parametrize("order", [1, -1])
def test_labels_of_an_image_that_contradict_each_other_are_a_fault(tmp_path, order):
    write_shard(tmp_path / "test-0.tar", cls_and_json("1", 3, 3) + cls_and_json("2", 3, 4)[::order])
    with pytest.raises(DataError) as refused:
        open_dataset("shards", tmp_path, "test")
    here, there = ((".json", 4), (".cls", 3))[::order]
    assert str(refused.value) == (
        f"{tmp_path}/test-0.tar, member '2{here[0]}': the label is {here[1]} here and {there[1]} in '2{there[0]}'; "
        "correct one"
    )


def test_an_index_of_shards_that_nobody_compared_is_made_anew(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("wsolfast.data._index._FORMAT", "wsolfast index 2")
    monkeypatch.setattr(shards.ShardImage, "set_label", lambda self, label, *_: setattr(self, "label", label))
    write_shard(tmp_path / "test-0.tar", cls_and_json("1", 3, 4))
    assert len(open_dataset("shards", tmp_path, "test")) == 1
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"the label is 4 here and 3 in '1\.cls'"):
        open_dataset("shards", tmp_path, "test")


def test_all_faults_of_shards_are_told_at_once(tmp_path):
    image = image_bytes()
    write_shard(
        tmp_path / "test-0.tar",
        [
            *cls_and_json("1", 0, 1),
            ("2.jpg", image),
            ("2.cls", b"two"),
            ("3.jpg", image),
            (linked(tarfile.SYMTYPE, "/etc/passwd"), b""),
            ("4.cls", b"1"),
            ("../5.jpg", image),
        ],
    )
    write_shard(tmp_path / "test-1.tar", [("6.jpg", image), ("6.json", b'{"label": 1, "width": 0, "height": 2}')])
    cut = write_shard(tmp_path / "test-2.tar", [("7.jpg", image), ("8.jpg", image)])
    cut.write_bytes(cut.read_bytes()[: 512 + 100])
    place = f"{tmp_path}/test-"
    told = check("shards", tmp_path).problems["split cannot be read"]
    assert [message.removeprefix(place) for message in told[:-1]] == [
        "0.tar, member '1.json': the label is 1 here and 0 in '1.cls'; correct one",
        "0.tar, member '2.cls': a label is a whole number from 0, got 'two'",
        "0.tar, member '2.jpg': is a link, a device or a pipe; only files are taken",
        "0.tar, member '../5.jpg': '../5.jpg' is not a path below the data folder; write it relative, with /, "
        "without ..",
        "0.tar, 3: no label; it is the text of 3.cls, or 'label' in 3.json",
        "0.tar, 4: no image, or an empty one, beside its label",
        "1.tar, member '6.json': width and height are positive whole numbers, got (0, 2)",
    ]
    assert "test-2.tar" in told[-1], "what a shard that is cut off lacks is not told beside that"


def test_all_names_that_come_twice_and_all_labels_without_a_name_are_told(tmp_path):
    members = [member for key in "abc" for member in ((f"{key}.jpg", image_bytes()), (f"{key}.cls", b"5"))]
    write_shard(tmp_path / "test-0.tar", members)
    write_shard(tmp_path / "test-1.tar", members[:4])
    told = check("shards", tmp_path).problems["split cannot be read"]
    assert told == [f"{tmp_path}: image '{key}.jpg' comes more than once in test; names are unique" for key in "ab"]
    (tmp_path / "test-1.tar").unlink()
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    (tmp_path / "class_ids.txt").write_text("1\nx\n3\n")
    told = check("shards", tmp_path).problems["split cannot be read"]
    assert [message.removeprefix(f"{tmp_path}/") for message in told] == [
        *(f"classes.txt: {key}.jpg is of class 5, and there are 2 classes from 0" for key in "abc"),
        "class_ids.txt, line 2: the id of a class is a whole number, got 'x'",
        "class_ids.txt: expected 2 whole numbers, one per line of classes.txt, got 3 lines",
    ]
