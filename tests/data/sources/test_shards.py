"""Tar shards: what others write is read here, what is written here others read, and nothing else is taken from them."""

import json
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from shard_files import GOOD, image_bytes, linked, write_shard

from wsolfast.data import DataError, check, index, open_dataset, pack
from wsolfast.data.sources import shards

SPLITS = ("train_weaksup", "train_fullsup", "test")


@pytest.fixture
def folder(tmp_path, write_image):
    """A ``folder`` data set with boxes, masks, an image that EXIF turns and one with dots in its name."""
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image("data/a/1.x.jpg", 40, 30)
    write_image("data/a/2.jpg", 36, 50, exif=exif)
    write_image("data/a/3.PNG", 31, 33)
    write_image("data/b/4.JPEG", 44, 38, mode="L")
    write_image("data/b/5.jpg", 60, 41, quality=95)
    mask = np.zeros((38, 44), np.uint8)
    mask[3:9, 4:20] = 1
    mask[9, 5] = 255
    Image.fromarray(mask).save(tmp_path / "data/4.png")
    rows = [
        "image,class_id,class_name,x0,y0,x1,y1,split,mask",
        "a/1.x.jpg,0,ant,,,,,train,",
        "a/2.jpg,2,wasp bee,1,2,10.5,20,val,",
        "a/2.jpg,2,wasp bee,11,2,30,20,val,",
        "a/3.PNG,1,cat,,,,,train,",
        "b/4.JPEG,1,cat,5,5,30,26,test,4.png",
        "b/5.jpg,0,ant,5,5,6,6,test,",
    ]
    (tmp_path / "data/annotations.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "data"


def test_a_packed_set_is_the_set(folder, tmp_path):
    summary = pack("folder", folder, tmp_path / "shards", per_shard=1)
    assert summary.images == {"train_weaksup": 2, "train_fullsup": 1, "test": 2}
    assert (summary.shards, summary.written) == (5, 5)
    for split in SPLITS:
        ours, theirs = open_dataset("shards", tmp_path / "shards", split), open_dataset("folder", folder, split)
        assert ours.image_ids == theirs.image_ids
        assert ours.class_names == theirs.class_names == ("ant", "cat", "wasp bee")
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.has_masks == theirs.has_masks
        for i in range(len(theirs)):
            assert torch.equal(ours[i].image, theirs[i].image)
            assert torch.equal(pickle.loads(pickle.dumps(ours))[i].image, theirs[i].image)
            if split != "train_weaksup":
                assert ours.annotations(i).size == theirs.annotations(i).size
                assert torch.equal(ours.annotations(i).boxes, theirs.annotations(i).boxes)
                masks = ours.mask(i), theirs.mask(i)
                assert masks == (None, None) or torch.equal(*masks)
    report = check("shards", tmp_path / "shards", decode=True)
    assert report.ok, str(report)
    assert (report.counts["test"].boxes, report.counts["test"].masks) == (2, 1)


def test_packing_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch):
    whole = pack("folder", folder, tmp_path / "whole", per_shard=1)
    assert pack("folder", folder, tmp_path / "whole", per_shard=1).written == 0
    original = tarfile.TarFile.addfile
    calls = []

    def failing(self, *arguments):
        calls.append(None)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "addfile", failing)
        with pytest.raises(KeyboardInterrupt):
            pack("folder", folder, tmp_path / "parts", per_shard=1, workers=1)
    done = len(list((tmp_path / "parts").glob("*.tar")))
    assert 0 < done < 5
    assert pack("folder", folder, tmp_path / "parts", per_shard=1).written == 5 - done
    for file in sorted(whole.root.glob("*.tar")):
        assert file.read_bytes() == (tmp_path / "parts" / file.name).read_bytes()


def test_packing_keeps_to_its_folder(folder, tmp_path):
    pack("folder", folder, tmp_path / "shards")
    with pytest.raises(DataError, match=r"begun with other settings \(per_shard 1000 and not 2\)"):
        pack("folder", folder, tmp_path / "shards", per_shard=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").touch()
    with pytest.raises(DataError, match="is not empty, and nothing of this command's"):
        pack("folder", folder, tmp_path / "full")
    with pytest.raises(ValueError, match="per_shard: expected at least 1"):
        pack("folder", folder, tmp_path / "none", per_shard=0)
    (folder / "b/5.jpg").write_bytes((folder / "b/5.jpg").read_bytes()[:-300])
    with pytest.raises(DataError, match=r"b/5.jpg: cannot be decoded"):
        pack("folder", folder, tmp_path / "again")


def test_packing_does_not_go_on_with_other_labels(folder, tmp_path):
    pack("folder", folder, tmp_path / "shards")
    file = folder / "annotations.csv"
    file.write_text(file.read_text().replace(",0,ant", ",0,zebra"))
    with pytest.raises(DataError, match=r"was begun with other settings \(labels"):
        pack("folder", folder, tmp_path / "shards")
    assert "ant" in (tmp_path / "shards/classes.txt").read_text()


def test_rendered_images_are_packed_without_loss(tmp_path):
    options = {"size": 32, "num_classes": 2, "num_train": 3, "num_val": 2, "num_test": 3}
    pack("synthetic", None, tmp_path / "shards", **options)
    for split in SPLITS:
        ours, theirs = (
            open_dataset("shards", tmp_path / "shards", split),
            open_dataset("synthetic", None, split, **options),
        )
        assert all(torch.equal(ours[i].image, theirs[i].image) for i in range(len(theirs)))
        if split != "train_weaksup":
            assert torch.equal(ours.mask(1), theirs.mask(1))
            assert torch.equal(ours.annotations(1).boxes, theirs.annotations(1).boxes)


def test_webdataset_reads_what_is_packed_here(folder, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    pack("folder", folder, tmp_path / "shards", per_shard=10)
    theirs = webdataset.WebDataset(str(tmp_path / "shards/test-000000.tar"), shardshuffle=False).decode("rgb8")
    ours = open_dataset("shards", tmp_path / "shards", "test")
    samples = list(theirs)
    assert len(samples) == len(ours)
    for i, sample in enumerate(samples):
        assert np.array_equal(sample["jpg"], ours[i].image.permute(1, 2, 0).numpy())
        assert sample["cls"] == ours[i].label
        assert sample["json"]["boxes"] == ours.annotations(i).boxes.tolist()


def test_what_webdataset_writes_is_read_here(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)
    with webdataset.TarWriter(str(tmp_path / "birds-val-0.tar")) as writer:
        for i, image in enumerate(pixels):
            note = {"boxes": [[1, 2, 10, 12]], "caption": "x"}
            writer.write({"__key__": f"part.1/{i:04d}", "png": image, "cls": i % 3, "json": note})
    dataset = open_dataset("shards", tmp_path, "train_fullsup", shards="birds-{split}-*.tar")
    assert dataset.labels.tolist() == [0, 1, 2, 0, 1]
    assert dataset.class_names == ("class 0", "class 1", "class 2")
    assert dataset.image_ids[1] == "part.1/0001.png"
    assert all(np.array_equal(dataset[i].image.permute(1, 2, 0).numpy(), pixels[i]) for i in range(5))
    note = dataset.annotations(0)
    assert (note.size, note.boxes.tolist()) == ((24, 20), [[1, 2, 10, 12]])


def test_folders_are_passed_over(tmp_path):
    member = tarfile.TarInfo("a")
    member.type = tarfile.DIRTYPE
    write_shard(
        tmp_path / "test-0.tar", [("1.jpg", image_bytes()), ("1.cls", b"0"), ("notes.txt", b"x"), (member, b"")]
    )
    assert open_dataset("shards", tmp_path, "test").image_ids == ("1.jpg",)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("/etc/1.jpg", image_bytes())], "not a path below the data folder"),
        ([("../1.jpg", image_bytes())], "not a path below the data folder"),
        ([("a/../../1.jpg", image_bytes())], "not a path below the data folder"),
        ([(linked(tarfile.SYMTYPE, "/etc/passwd"), b"")], "is a link, a device or a pipe"),
        ([(linked(tarfile.LNKTYPE, "1.jpg"), b"")], "is a link, a device or a pipe"),
        ([(linked(tarfile.FIFOTYPE, ""), b"")], "is a link, a device or a pipe"),
        ([(linked(tarfile.CHRTYPE, ""), b"")], "is a link, a device or a pipe"),
        ([("2.jpg", image_bytes())], "2: no label; it is the text of 2.cls"),
        ([("2.jpg", b""), ("2.cls", b"1")], "2: no image, or an empty one"),
        ([("2.cls", b"1")], "2: no image, or an empty one"),
        ([("2.jpg", image_bytes()), ("2.png", image_bytes()), ("2.cls", b"1")], "2 has two images"),
        ([("2.jpg", image_bytes()), ("2.cls", b"-1")], "a label is a whole number from 0, got '-1'"),
        ([("2.jpg", image_bytes()), ("2.cls", b"9" * 5000)], "a label is a whole number from 0"),
        ([("2.jpg", image_bytes()), ("2.cls", b"\xff\xfe")], "not text"),
        ([("2.jpg", image_bytes()), ("2.json", b"{")], "not JSON"),
        ([("2.jpg", image_bytes()), ("2.json", b"[" * 200_000)], "not JSON"),
        ([("2.jpg", image_bytes()), ("2.json", b"[1]")], "expected an object"),
        ([("2.jpg", image_bytes()), ("2.json", b" " * (1 << 21))], "are no label and no annotation"),
        ([("2.jpg", image_bytes()), ("2.json", b'{"label": 1.5}')], "a label is a whole number from 0"),
        ([("2.jpg", image_bytes()), ("2.json", b'{"label": 1, "boxes": [[4, 4, 2, 8]]}')], "boxes are"),
        ([("2.jpg", image_bytes()), ("2.json", b'{"label": 1, "boxes": [[1, 2, NaN, 8]]}')], "boxes are"),
        ([("2.jpg", image_bytes()), ("2.json", b'{"label": 1, "boxes": {"a": 1}}')], "boxes are"),
        ([("2.jpg", image_bytes()), ("2.json", b'{"label": 1, "width": 0, "height": 3}')], "width and height are"),
        ([("2.jpg", image_bytes()), ("2.json", b'{"label": 1, "image_id": "a\\u0000b"}')], "image_id is a text"),
        ([("2.jpg", image_bytes()), ("2.json", b'{"label": 1, "image_id": "1.jpg"}')], "'1.jpg' comes more than once"),
    ],
)
def test_what_shards_must_not_hold_is_refused(tmp_path, members, message):
    write_shard(tmp_path / "test-0.tar", GOOD + members)
    with pytest.raises(DataError, match=message):
        open_dataset("shards", tmp_path, "test")
    assert not check("shards", tmp_path).ok
    assert not list(tmp_path.rglob("*.safetensors"))


def test_damaged_and_compressed_shards_are_named(tmp_path):
    file = write_shard(tmp_path / "test-0.tar", [*GOOD, ("2.jpg", image_bytes() * 9), ("2.cls", b"1")])
    content = file.read_bytes()
    for cut in (512 + 100, 1024 + 300, *range(2048, len(content.rstrip(b"\0")) + 1, 512)):
        file.write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"test-0.tar.*(is cut off|damaged, or not a plain tar file)"):
            open_dataset("shards", tmp_path, "test")
    file.write_bytes(b"no tar" * 1000)
    with pytest.raises(DataError, match="damaged, or not a plain tar file"):
        open_dataset("shards", tmp_path, "test")
    write_shard(tmp_path / "test-0.tar.gz", GOOD, "w:gz")
    with pytest.raises(DataError, match="compressed shards cannot be read in any order: unpack them"):
        open_dataset("shards", tmp_path, "test", shards="{split}-*.gz")
    with pytest.raises(DataError, match="no such shard"):
        open_dataset("shards", tmp_path, "train_weaksup")
    with pytest.raises(DataError, match="not a path below the data folder"):
        open_dataset("shards", tmp_path, "test", shards="../{split}-*.tar")


def test_shards_without_a_member_are_an_empty_split(tmp_path):
    write_shard(tmp_path / "train-0.tar", GOOD)
    write_shard(tmp_path / "test-0.tar", [])
    report = check("shards", tmp_path)
    assert "test" in report.unreadable
    assert report.problems["split cannot be read"] == [
        f"{tmp_path / 'test-0.tar'}: split 'test' is empty; the shards hold no image"
    ]


def test_a_member_of_negative_size_ends_the_reading(tmp_path):
    member = tarfile.TarInfo("2.jpg")
    member.size = -1024
    header = member.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "test-0.tar").write_bytes(header * 3 + bytes(1024))
    with pytest.raises(DataError, match=r"test-0.tar.*(is cut off|damaged)"):
        open_dataset("shards", tmp_path, "test")


def test_a_decompression_bomb_in_a_shard_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("wsolfast.data.images.decode.MAX_PIXELS", 1000)
    write_shard(tmp_path / "test-0.tar", [("1.jpg", image_bytes(40)), ("1.cls", b"0")])
    with pytest.raises(DataError, match=r"test-0.tar, 1.jpg: 40x40 px is over the limit of 1000 px"):
        open_dataset("shards", tmp_path, "test")[0]


def test_shards_are_looked_through_once(tmp_path, monkeypatch, caplog):
    file = write_shard(tmp_path / "test-0.tar", GOOD)
    expected = open_dataset("shards", tmp_path, "test")[0].image
    scanned = []
    original = shards.scan_shard
    monkeypatch.setattr(shards, "scan_shard", lambda path, **o: scanned.append(path.name) or original(path, **o))
    dataset = open_dataset("shards", tmp_path, "test")
    assert torch.equal(dataset[0].image, expected)
    assert scanned == []
    assert not index("shards", tmp_path).built
    summary = index("shards", tmp_path, force=True)
    assert summary.built
    assert summary.images == {"test": 1}
    scanned.clear()
    # A changed shard, one more, and an index with a wrong byte: looked through again.
    write_shard(file, [("0.jpg", image_bytes(24)), ("0.cls", b"3")])
    os.utime(file, ns=(5, 5))
    with pytest.raises(DataError, match="the shard has changed since it was opened; start again"):
        dataset[0]
    assert open_dataset("shards", tmp_path, "test").class_names == ("class 3",)
    write_shard(tmp_path / "test-1.tar", GOOD)
    assert open_dataset("shards", tmp_path, "test").labels.tolist() == [1, 0]
    (kept,) = tmp_path.glob(".wsolfast/*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert open_dataset("shards", tmp_path, "test").labels.tolist() == [1, 0]
    assert scanned == ["test-0.tar", "test-0.tar", "test-1.tar", "test-0.tar", "test-1.tar"]
    assert "the shards are looked through again" in caplog.text


def test_boxes_of_training_images_are_not_kept(tmp_path):
    note = json.dumps({"label": 0, "boxes": [[1, 2, 3, 4]]}).encode()
    write_shard(tmp_path / "train-0.tar", [("1.jpg", image_bytes()), ("1.json", note)])
    assert len(open_dataset("shards", tmp_path, "train_weaksup")) == 1
    from safetensors.numpy import load_file

    (kept,) = tmp_path.glob(".wsolfast/*.safetensors")
    assert load_file(kept)["boxes"].shape == (0, 4)


def test_too_few_class_names_are_told(tmp_path):
    write_shard(tmp_path / "test-0.tar", [("1.jpg", image_bytes()), ("1.cls", b"2")])
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"classes.txt: 1.jpg is of class 2, and there are 2 classes from 0"):
        open_dataset("shards", tmp_path, "test")


def test_labels_without_names_are_those_that_occur_in_any_split(tmp_path):
    write_shard(tmp_path / "train-0.tar", [("1.jpg", image_bytes()), ("1.cls", b"7")])
    write_shard(tmp_path / "test-0.tar", [("1.jpg", image_bytes()), ("1.cls", b"999999999")])
    for split, label in (("train_weaksup", 0), ("test", 1), ("test", 1)):
        dataset = open_dataset("shards", tmp_path, split)
        assert (dataset.class_names, dataset.labels.tolist()) == (("class 7", "class 999999999"), [label])


def test_packing_keeps_the_ids_of_classes(folder, tmp_path):
    text = (folder / "annotations.csv").read_text()
    (folder / "annotations.csv").write_text(text.replace(",2,wasp", ",20240131001,wasp"))
    pack("folder", folder, tmp_path / "shards")
    assert (tmp_path / "shards/class_ids.txt").read_text() == "0\n1\n20240131001\n"
    dataset = open_dataset("shards", tmp_path / "shards", "train_fullsup")
    assert (dataset.class_names[2], dataset.labels.tolist()) == ("wasp bee", [2])
    with pytest.raises(
        DataError, match=r"has the class id 20240131001 \('wasp bee'\), and the network has 1000 classes"
    ):
        dataset.number_by_id(1000)
    (tmp_path / "shards/class_ids.txt").write_text("0\n1\n")
    with pytest.raises(DataError, match=r"class_ids.txt: expected 3 whole numbers"):
        open_dataset("shards", tmp_path / "shards", "test")


def test_the_command_packs_and_says_what_it_did(wsolfast, folder, tmp_path):
    code, out, _ = wsolfast(
        "data", "pack", "folder", folder, tmp_path / "shards", "--per-shard", 2, "-q", "decoder=pil"
    )
    assert (code, out) == (0, "")
    code, out, _ = wsolfast("data", "pack", "folder", folder, tmp_path / "shards", "--per-shard", 2, "decoder=pil")
    assert code == 0
    assert "3 shards, 0 of them new (train_weaksup 2, train_fullsup 1, test 2)" in out
    code, out, _ = wsolfast("data", "index", "shards", tmp_path / "shards")
    assert code == 0
    code, out, _ = wsolfast("data", "check", "shards", tmp_path / "shards", "--decode")
    assert (code, out.splitlines()[-1]) == (0, "ok")
    code, _, err = wsolfast("data", "pack", "folder", folder)
    assert code == 2
    assert "expected NAME ROOT DIR" in err


def test_files_of_an_operating_system_are_no_shards_and_no_images(tmp_path):
    write_shard(tmp_path / "a-test-0.tar", [*GOOD, ("._1.jpg", b"x"), ("__MACOSX/._1.jpg", b"x"), (".DS_Store", b"x")])
    (tmp_path / "._a-test-0.tar").write_bytes(b"\0\5\x16\7")
    assert open_dataset("shards", tmp_path, "test", shards="*{split}*.tar").image_ids == ("1.jpg",)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.DS_Store").touch()
    pack("synthetic", None, tmp_path / "out", num_train=1, num_val=1, num_test=1, size=32, num_classes=2)
