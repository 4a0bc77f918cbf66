"""The index: the same samples and boxes as from the files, without looking at them, and never when it is stale."""

import errno
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from wsolfast.data import NAMES, SPLITS, DataError, check, index, open_dataset, synth_imagenet
from wsolfast.data.sources import get_spec

CSV = """image,class_id,class_name,width,height,x0,y0,x1,y1,split,mask
a/1.png,0,ant,40,30,1,2,10.5,20,train,
a/2.png,1,bee,,,0,0,40,30,val,
b/3.png,1,bee,,,5,5,6,6,test,masks/3.png
b/3.png,1,bee,,,7,7,9,9,test,masks/3.png
b/4.png,0,ant,,,5,5,6,6,test,
"""


@pytest.fixture
def folder(tmp_path, write_image, write_text):
    """A tree for ``folder``: two image folders, several boxes, a mask, sizes that only the files tell."""
    for name in ("a/1", "a/2", "b/3", "b/4"):
        write_image(f"{name}.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (40, 30), 1).save(tmp_path / "masks/3.png")
    write_text("annotations.csv", CSV)
    return tmp_path


@pytest.fixture
def imagenet(tmp_path):
    """A tree for ``ilsvrc``."""
    root = tmp_path / "imagenet"
    synth_imagenet(root, images=12, train_images=6, classes=3, size=32)
    return root


def test_sets_are_the_same_from_the_index(folder, imagenet):
    for name, root in (("folder", folder), ("ilsvrc", imagenet)):
        splits = SPLITS if name == "folder" else ("train_weaksup", "test")
        by_files = {split: open_dataset(name, root, split) for split in splits}
        summary = index(name, root)
        assert summary.built
        assert summary.images == {split: len(by_files[split]) for split in splits}
        for split, expected in by_files.items():
            found = open_dataset(name, root, split)
            assert type(found._source).__name__ == "IndexedSource"
            assert found.image_ids == expected.image_ids
            assert torch.equal(found.labels, expected.labels)
            assert found.class_names == expected.class_names
            assert found.has_masks == expected.has_masks
            assert torch.equal(found[0].image, expected[0].image)
            assert found._source.describe(0) == expected._source.describe(0)
            if split == "train_weaksup":
                continue
            for i in range(len(expected)):
                ours, theirs = found.annotations(i), expected.annotations(i)
                assert (ours.size, ours.mask) == (theirs.size, theirs.mask)
                assert ours.boxes.dtype == torch.float64
                assert torch.equal(ours.boxes, theirs.boxes)
                ours, theirs = found.mask(i), expected.mask(i)
                assert (ours is None and theirs is None) or torch.equal(ours, theirs)
            assert pickle.loads(pickle.dumps(found)).annotations(0).size == expected.annotations(0).size


@pytest.mark.parametrize("name", [name for name in NAMES if get_spec(name).consulted])
def test_every_set_says_what_it_consults(name, tmp_path):
    spec = get_spec(name)
    for split in SPLITS:
        files = spec.consulted(tmp_path / "dataset" / "set", split)
        assert files
        assert all(file.is_relative_to(tmp_path) for file in files)
    if "metadata" in spec.options:
        files = spec.consulted(tmp_path, "test", metadata=tmp_path / "notes")
        assert tmp_path / "notes/test/localization.txt" in files


def test_training_boxes_are_not_stored(folder):
    (folder / "annotations.csv").write_text(CSV.replace("1,2,10.5,20", "11,12,13,14"))
    stored = safetensors.numpy.load_file(index("folder", folder).path)
    assert stored["train_weaksup.boxes"].shape == (0, 4)
    assert stored["test.boxes"].shape == (3, 4)
    assert stored["train_weaksup.sizes"].tolist() == [[40, 30]]


PROBE = """
import os, sys
seen, stat = [], os.stat
sys.addaudithook(lambda event, details: seen.append(str(details[0])) if event in WATCHED else None)
os.stat = lambda path, *rest, **named: (seen.append(str(path)), stat(path, *rest, **named))[1]
WATCHED = ("open", "os.listdir", "os.scandir")
{begin}
for root in sys.argv[1:]:
    begin(root)
    seen.clear()
    begin(root)
    print(*(path for path in seen if path.startswith(root + os.sep)), sep="|")
"""
OPENING = """
from wsolfast.data import open_dataset
def begin(root):
    data = open_dataset("ilsvrc", root, "test")
    assert all(len(data.annotations(i).boxes) == 1 for i in range(len(data)))
"""
# Up to the first image that is decoded.
EVALUATING = """
from pathlib import Path
from wsolfast.engine.evaluation import eval_split
from wsolfast.engine.evaluation.evaluate import evaluate
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.recipe import parse_recipe
RECIPE = '''
summary = "an untrained network"
[data]
name = "ilsvrc"
[[stage]]
name = "localizer"
method = "cam"
epochs = 0
backbone = {name = "small"}
[evaluate]
resize = 32
[runtime]
device = "cpu"
workers = 1
cache_gb = 1
'''
class Begun(Exception):
    pass
def at_the_first_image(*_, **__):
    raise Begun
eval_split.compute_score_maps = at_the_first_image
def begin(root):
    beside = Path(root + "-run")
    recipe = parse_recipe(RECIPE, "probe", [f"data.root={root}", f"runtime.cache_dir={beside / 'cache'}"])
    try:
        evaluate(RunFolder.create(beside / "run", recipe, exist_ok=True))
    except Begun:
        return
    raise AssertionError("nothing was asked of the network")
"""


@pytest.mark.parametrize("begin", [OPENING, EVALUATING], ids=["opening", "evaluating"])
def test_a_start_looks_at_no_image_and_no_annotation(tmp_path, begin):
    """Twenty times the images are not one more file or folder to open, list or examine."""
    roots = [tmp_path / "few", tmp_path / "many"]
    for root, count in zip(roots, (8, 160), strict=True):
        synth_imagenet(root, images=count, train_images=4, classes=2, size=32)
        index("ilsvrc", root)
    probe = PROBE.replace("{begin}", begin)
    done = subprocess.run([sys.executable, "-c", probe, *map(str, roots)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    few, many = (
        [path.removeprefix(str(root)) for path in line.split("|")]
        for root, line in zip(roots, done.stdout.splitlines(), strict=True)
    )
    assert few == many
    assert "/val" in few, "the probe does see what is looked at"
    assert not [path for path in few if path.endswith((".xml", ".JPEG"))]


@pytest.mark.parametrize(
    ("damage", "culprit"),
    [
        (lambda root: (root / "annotations.csv").write_text(CSV.replace("7,7,9,9", "7,7,9,8")), "annotations.csv"),
        (lambda root: (root / "b/4.png").rename(root / "b/5.png"), "b"),
        (lambda root: (root / "b/new.txt").touch(), "b"),
        (lambda root: (root / "masks/3.png").unlink(), "masks"),
    ],
)
def test_a_stale_index_is_said_in_one_line_and_left_aside(folder, caplog, damage, culprit):
    index("folder", folder)
    open_dataset("folder", folder, "test")
    assert not caplog.messages
    damage(folder)
    dataset = open_dataset("folder", folder, "test")
    assert type(dataset._source).__name__ == "FileSource"
    (message,) = caplog.messages
    assert "\n" not in message
    assert f"stale, {folder / culprit} has changed" in message
    assert message.endswith(f"Renew it: wsolfast data index folder {folder}")
    caplog.clear()
    assert index("folder", folder).built
    assert type(open_dataset("folder", folder, "test")._source).__name__ == "IndexedSource"
    assert not caplog.messages


def test_a_new_class_or_image_of_imagenet_makes_its_index_stale(imagenet, caplog):
    assert index("ilsvrc", imagenet).built
    assert not index("ilsvrc", imagenet).built
    assert index("ilsvrc", imagenet, force=True).built
    first = next((imagenet / "train").iterdir())
    (first / "new.JPEG").write_bytes(next(first.glob("*.JPEG")).read_bytes())
    assert len(open_dataset("ilsvrc", imagenet, "train_weaksup")) == 7
    assert index("ilsvrc", imagenet).images["train_weaksup"] == 7
    (imagenet / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml").unlink()
    caplog.clear()
    open_dataset("ilsvrc", imagenet, "test")
    assert "Annotations/CLS-LOC/val has changed" in caplog.text
    assert index("ilsvrc", imagenet, force=True).unreadable[0].endswith("holds the boxes of a validation image")
    (imagenet / "LOC_synset_mapping.txt").unlink()
    caplog.clear()
    open_dataset("ilsvrc", imagenet, "train_weaksup")
    assert "LOC_synset_mapping.txt has changed" in caplog.text


def test_every_flipped_byte_and_every_cut_is_noticed(folder, caplog):
    path = index("folder", folder).path
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    expected = open_dataset("folder", folder, "test")
    for position in rng.integers(0, len(whole), 60).tolist():
        broken = bytearray(whole)
        broken[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        found = open_dataset("folder", folder, "test")
        assert found.image_ids == expected.image_ids, position
        assert [found.annotations(i).boxes.tolist() for i in range(2)] == [
            expected.annotations(i).boxes.tolist() for i in range(2)
        ]
        assert index("folder", folder).built, position
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        caplog.clear()
        assert len(open_dataset("folder", folder, "test")) == 2
        (message,) = caplog.messages
        assert "damaged" in message
        assert "\n" not in message


def test_an_index_of_another_version_is_left_aside(folder, caplog, monkeypatch):
    monkeypatch.setattr("wsolfast.data._index.VERSION", 0)
    index("folder", folder)
    monkeypatch.undo()
    assert len(open_dataset("folder", folder, "test")) == 2
    assert "of another version (wsolfast index 0)" in caplog.text


def test_each_set_of_options_has_its_own_index(folder, write_text):
    write_text("other.csv", CSV.replace("b/4.png", "b/3b.png"))
    first = index("folder", folder)
    second = index("folder", folder, annotations="other.csv")
    assert first.path != second.path
    assert index("folder", folder, annotations="annotations.csv", decoder="pil").path == first.path
    assert "b/4.png" in open_dataset("folder", folder, "test").image_ids
    other = open_dataset("folder", folder, "test", annotations="other.csv")
    assert "b/3b.png" in other.image_ids
    assert type(other._source).__name__ == "IndexedSource"


def test_an_unreadable_image_is_counted_and_missed_by_name_as_without_an_index(folder):
    (folder / "b/4.png").write_bytes(b"not an image")
    with pytest.raises(DataError) as without:
        open_dataset("folder", folder, "test").annotations(1)
    summary = index("folder", folder)
    assert summary.unreadable == (str(without.value),)
    dataset = open_dataset("folder", folder, "test")
    assert type(dataset._source).__name__ == "IndexedSource"
    assert dataset.annotations(0).size == (40, 30)
    with pytest.raises(DataError) as raised:
        dataset.annotations(1)
    assert str(raised.value) == str(without.value)


def test_a_check_looks_at_the_files_themselves(folder):
    index("folder", folder)
    # Overwritten in place, which leaves the folder's time as it was.
    Image.new("RGB", (30, 40)).save(folder / "a/2.png")
    os.utime(folder / "a", ns=(0, 0))
    index("folder", folder, force=True)
    (folder / "a/2.png").write_bytes(b"?")
    report = check("folder", folder)
    assert not report.ok
    assert "a/2.png" in report.problems["unreadable image"][0]


def test_a_tree_that_changes_while_it_is_read_is_refused(folder, monkeypatch):
    from wsolfast.data import _index

    look = _index._look

    def meddle(source, position, split):
        (folder / "b" / f"late{time.monotonic_ns()}.txt").touch()
        return look(source, position, split)

    monkeypatch.setattr(_index, "_look", meddle)
    os.utime(folder / "b", ns=(0, 0))
    with pytest.raises(DataError, match="/b: changed while it was indexed; give the command again"):
        index("folder", folder)
    assert not list((folder / ".wsolfast").iterdir())


def test_killed_while_it_is_written_the_old_index_stays(folder):
    path = index("folder", folder).path
    whole = path.read_bytes()
    killer = (
        "import os, signal\n"
        "from wsolfast.data import index\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"index('folder', {str(folder)!r}, force=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", killer], capture_output=True, check=False)
    assert done.returncode == -9
    assert len(list(path.parent.iterdir())) == 2, "the unfinished file is left behind, under another name"
    assert path.read_bytes() == whole
    assert type(open_dataset("folder", folder, "test")._source).__name__ == "IndexedSource"


def test_a_full_disk_leaves_the_old_index(folder, monkeypatch):
    path = index("folder", folder).path
    whole = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("wsolfast.data.atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        index("folder", folder, force=True)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == whole


@pytest.fixture
def birds(tmp_path, write_image, write_text):
    """Two birds in the official lists, and the benchmark's metadata of one of them."""
    write_text("images.txt", "1 001.Wren/1.jpg\n2 001.Wren/2.jpg\n")
    write_text("image_class_labels.txt", "1 1\n2 1\n")
    write_text("train_test_split.txt", "1 1\n2 0\n")
    write_text("bounding_boxes.txt", "1 2.0 3.0 10.0 11.0\n2 5.0 6.0 7.0 8.0\n")
    write_text("classes.txt", "1 001.Wren\n")
    for k in (1, 2):
        write_image(f"images/001.Wren/{k}.jpg")
    for name, text in (
        ("image_ids", "001.Wren/2.jpg\n"),
        ("class_labels", "001.Wren/2.jpg,0\n"),
        ("image_sizes", "001.Wren/2.jpg,40,30\n"),
        ("localization", "001.Wren/2.jpg,5,6,12,14\n"),
    ):
        write_text(f"metadata/test/{name}.txt", text)
    return tmp_path


def test_birds_come_from_the_index_of_the_lists_that_are_asked_for(birds, caplog):
    metadata = birds / "metadata"
    assert index("cub", birds).images == {"train_weaksup": 1, "test": 1}
    assert index("cub", birds, metadata=metadata).images == {"test": 1}
    for options, box in (({}, [5, 6, 12, 14]), ({"metadata": metadata}, [5, 6, 12, 14])):
        dataset = open_dataset("cub", birds, "test", **options)
        assert type(dataset._source).__name__ == "IndexedSource"
        assert dataset.annotations(0).boxes.tolist() == [box]
        assert dataset[0].image.shape == (3, 30, 40)
    (metadata / "test/localization.txt").write_text("001.Wren/2.jpg,5,6,12,15\n")
    assert open_dataset("cub", birds, "test", metadata=metadata).annotations(0).boxes.tolist() == [[5, 6, 12, 15]]
    assert "metadata/test/localization.txt has changed" in caplog.messages[0]
    caplog.clear()
    assert type(open_dataset("cub", birds, "test")._source).__name__ == "IndexedSource"
    (birds / "bounding_boxes.txt").write_text("1 2.0 3.0 10.0 11.0\n2 5.0 6.0 7.0 9.0\n")
    assert open_dataset("cub", birds, "test").annotations(0).boxes.tolist() == [[5, 6, 12, 15]]
    assert f"{birds}/bounding_boxes.txt has changed" in caplog.messages[0]


def test_a_tree_moves_with_its_index(birds, tmp_path_factory):
    index("cub", birds)
    moved = tmp_path_factory.mktemp("moved") / "birds"
    birds.rename(moved)
    dataset = open_dataset("cub", moved, "test")
    assert type(dataset._source).__name__ == "IndexedSource"
    assert dataset[0].image.shape == (3, 30, 40)


def test_what_cannot_be_indexed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'synthetic' opens as fast from its files: there is nothing"):
        index("synthetic", tmp_path)
    with pytest.raises(DataError, match=r"annotations.csv: missing"):
        index("folder", tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="no such folder"):
        index("folder", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="did you mean 'annotations'"):
        index("folder", tmp_path, anotations="x.csv")
