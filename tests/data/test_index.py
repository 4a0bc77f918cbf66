"""The index: the same samples and boxes as from the files, without looking at them, and never when it is stale."""

import errno
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from wsolfast.data import DataError, check, index, open_dataset, synth_imagenet
from wsolfast.data.sources import ilsvrc

SPLITS = ("train_weaksup", "test")


@pytest.fixture
def imagenet(tmp_path):
    """A tree for ``ilsvrc``, a validation image of which has two boxes."""
    root = tmp_path / "imagenet"
    synth_imagenet(root, images=12, train_images=6, classes=3, size=32)
    note = xml(root, 2)
    text = note.read_text()
    begin, end = text.index("\t<object>"), text.index("</annotation>")
    note.write_text(text[:end] + text[begin:end].replace("<xmin>", "<xmin>0") + text[end:])
    return root


def xml(root, number):
    return root / f"Annotations/CLS-LOC/val/ILSVRC2012_val_{number:08d}.xml"


def index_of(root, split="test"):
    return root / f".wsolfast/ilsvrc-{split}.safetensors"


@pytest.fixture
def opened(monkeypatch):
    """Opens a split and says whether its files had to be listed."""

    def call(root, split="test", **options):
        listed, list_split = [], ilsvrc.list_split
        with monkeypatch.context() as patch:
            patch.setattr(ilsvrc, "list_split", lambda *words: listed.append(words) or list_split(*words))
            return open_dataset("ilsvrc", root, split, **options), bool(listed)

    return call


def boxes_of(dataset):
    return [dataset.annotations(i).boxes.tolist() for i in range(len(dataset))]


def test_sets_are_the_same_from_the_index(imagenet, opened):
    by_files = {split: open_dataset("ilsvrc", imagenet, split) for split in SPLITS}
    summary = index("ilsvrc", imagenet)
    assert summary.built
    assert summary.images == {"train_weaksup": 6, "test": 12}
    assert summary.path == imagenet / ".wsolfast"
    for split, expected in by_files.items():
        found, listed = opened(imagenet, split, decoder="pil")
        assert not listed
        assert found.image_ids == expected.image_ids
        assert torch.equal(found.labels, expected.labels)
        assert found.class_names == expected.class_names
        assert found.has_masks == expected.has_masks
        assert torch.equal(found[0].image, expected[0].image)
    assert max(len(boxes) for boxes in boxes_of(found)) == 2
    for i in range(len(expected)):
        ours, theirs = found.annotations(i), expected.annotations(i)
        assert (ours.size, ours.mask) == (theirs.size, theirs.mask)
        assert ours.boxes.dtype == torch.float64
        assert torch.equal(ours.boxes, theirs.boxes)
    assert pickle.loads(pickle.dumps(found)).annotations(0).size == expected.annotations(0).size


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
from wsolfast.engine.evaluation import eval_pass
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
eval_pass.compute_score_maps = at_the_first_image
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
        (lambda root: xml(root, 1).unlink(), "Annotations/CLS-LOC/val"),
        (lambda root: (root / "val/new.txt").touch(), "val"),
        (lambda root: (root / "LOC_val_solution.csv").unlink(), "LOC_val_solution.csv"),
        (lambda root: (root / "LOC_synset_mapping.txt").write_text(""), "LOC_synset_mapping.txt"),
        (lambda root: (root / "Annotations/val").mkdir(), "Annotations/val"),
    ],
)
def test_a_stale_index_is_said_in_one_line_and_left_aside(imagenet, opened, caplog, damage, culprit):
    index("ilsvrc", imagenet)
    assert not opened(imagenet)[1]
    assert not caplog.messages
    mapping = (imagenet / "LOC_synset_mapping.txt").read_bytes()
    damage(imagenet)
    if culprit == "LOC_synset_mapping.txt":
        with pytest.raises(DataError, match="is not among the 0 classes"):
            opened(imagenet)
        (imagenet / culprit).write_bytes(mapping + b"n00000099 new\n")
        caplog.clear()
    assert opened(imagenet)[1]
    (message,) = caplog.messages
    assert "\n" not in message
    assert f"stale, {imagenet / culprit} has changed" in message
    assert message.endswith(f"Renew it: wsolfast data index ilsvrc {imagenet}")
    caplog.clear()
    assert index("ilsvrc", imagenet).built
    assert not opened(imagenet)[1]
    assert not caplog.messages


def test_an_index_is_built_anew_only_if_it_does_not_hold(imagenet, opened):
    assert index("ilsvrc", imagenet).built
    assert not index("ilsvrc", imagenet).built
    assert index("ilsvrc", imagenet, force=True).built
    first = next((imagenet / "train").iterdir())
    (first / "new.JPEG").write_bytes(next(first.glob("*.JPEG")).read_bytes())
    assert len(open_dataset("ilsvrc", imagenet, "train_weaksup")) == 7
    assert index("ilsvrc", imagenet).images["train_weaksup"] == 7
    assert opened(imagenet, "train_weaksup")[1] is False


def test_every_flipped_byte_and_every_cut_is_noticed(imagenet, caplog):
    expected = boxes_of(open_dataset("ilsvrc", imagenet, "test"))
    index("ilsvrc", imagenet)
    path = index_of(imagenet)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 60).tolist():
        broken = bytearray(whole)
        broken[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        assert boxes_of(open_dataset("ilsvrc", imagenet, "test")) == expected
        assert index("ilsvrc", imagenet).built, position
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        caplog.clear()
        assert len(open_dataset("ilsvrc", imagenet, "test")) == 12
        (message,) = caplog.messages
        assert "damaged" in message
        assert "\n" not in message


def test_an_index_of_another_version_is_left_aside(imagenet, caplog, monkeypatch):
    monkeypatch.setattr("wsolfast.data._index._FORMAT", "wsolfast index 0")
    index("ilsvrc", imagenet)
    monkeypatch.undo()
    assert len(open_dataset("ilsvrc", imagenet, "test")) == 12
    assert "damaged, or of another version" in caplog.text


def test_an_unreadable_annotation_is_counted_and_missed_by_name_as_without_an_index(imagenet, opened):
    xml(imagenet, 3).write_text("<annotation>")
    with pytest.raises(DataError) as without:
        open_dataset("ilsvrc", imagenet, "test").annotations(2)
    assert index("ilsvrc", imagenet).unreadable == (str(without.value),)
    dataset, listed = opened(imagenet)
    assert not listed
    assert dataset.annotations(0).size == (32, 32)
    with pytest.raises(DataError) as raised:
        dataset.annotations(2)
    assert str(raised.value) == str(without.value)


def test_a_check_looks_at_the_files_themselves(imagenet):
    index("ilsvrc", imagenet)
    # Overwritten in place, which leaves the folder's time as it was.
    xml(imagenet, 1).write_text("?")
    assert open_dataset("ilsvrc", imagenet, "test").annotations(0).size == (32, 32)
    report = check("ilsvrc", imagenet)
    assert not report.ok
    assert str(xml(imagenet, 1)) in report.problems["unusable annotation"][0]


def test_a_tree_that_changes_while_it_is_read_is_refused(imagenet, monkeypatch):
    read = ilsvrc.Listing.annotation

    def meddle(listing, position):
        (imagenet / "val" / f"late{time.monotonic_ns()}.txt").touch()
        return read(listing, position)

    monkeypatch.setattr(ilsvrc.Listing, "annotation", meddle)
    with pytest.raises(DataError, match="/val: changed while it was indexed; give the command again"):
        index("ilsvrc", imagenet)
    assert not index_of(imagenet).exists()


def test_killed_while_it_is_written_the_old_index_stays(imagenet, opened):
    index("ilsvrc", imagenet)
    path = index_of(imagenet)
    whole = path.read_bytes()
    index_of(imagenet, "train_weaksup").unlink()
    killer = (
        "import os, signal\n"
        "from wsolfast.data import index\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"index('ilsvrc', {str(imagenet)!r}, force=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", killer], capture_output=True, check=False)
    assert done.returncode == -9
    assert len(list(path.parent.iterdir())) == 2, "the unfinished file is left behind, under another name"
    assert path.read_bytes() == whole
    assert not opened(imagenet)[1]


def test_a_full_disk_leaves_the_old_index(imagenet, monkeypatch):
    index("ilsvrc", imagenet)
    files = {path: path.read_bytes() for path in (imagenet / ".wsolfast").iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("wsolfast.data.atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        index("ilsvrc", imagenet, force=True)
    assert {path: path.read_bytes() for path in (imagenet / ".wsolfast").iterdir()} == files


def test_a_tree_moves_with_its_index(imagenet, opened, tmp_path_factory):
    index("ilsvrc", imagenet)
    moved = tmp_path_factory.mktemp("moved") / "imagenet"
    imagenet.rename(moved)
    dataset, listed = opened(moved)
    assert not listed
    assert dataset[0].image.shape == (3, 32, 32)


def test_what_cannot_be_indexed_is_refused(tmp_path):
    for name in ("cub", "folder", "openimages", "parquet", "synthetic"):
        with pytest.raises(ValueError, match=f"{name!r} opens as fast from its files: there is nothing to index"):
            index(name, tmp_path)
    for name in ("ilsvrc", "shards"):
        with pytest.raises(DataError, match="expected\n"):
            index(name, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="no such folder"):
        index("ilsvrc", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="did you mean 'metadata'"):
        index("ilsvrc", tmp_path, metdata="x")
