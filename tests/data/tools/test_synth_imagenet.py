"""The rendered tree in ImageNet's layout: whole, deterministic, resumable, and never written over something else."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from wsolfast.data import DataError, check, open_dataset, synth_imagenet
from wsolfast.data.sources import synthetic

SMALL = {"images": 10, "train_images": 5, "classes": 4, "size": 40}


def digests(root):
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def test_the_tree_is_whole_and_says_what_was_rendered(tmp_path):
    summary = synth_imagenet(tmp_path, **SMALL)
    assert (summary.images, summary.written) == (15, 15)
    report = check("ilsvrc", tmp_path, decode=True)
    assert report.ok, str(report)
    assert not report.notes.keys() - {"split not available"}
    test, train = (open_dataset("ilsvrc", tmp_path, split) for split in ("test", "train_weaksup"))
    assert (len(test), len(train)) == (10, 5)
    rendered = synthetic.open_source(None, "test", num_classes=4, size=40, num_test=10)
    assert test.labels.tolist() == rendered.labels.tolist()
    assert list(test.class_names) == [name.replace("_", " ") for name in rendered.class_names]
    for i in range(10):
        ours, theirs = test.annotations(i), rendered.annotation(i)
        assert ours.size == theirs.size == (40, 40)
        assert torch.equal(ours.boxes, theirs.boxes)
        difference = test[i].image.float() - torch.from_numpy(rendered.read(i)).permute(2, 0, 1).float()
        assert difference.abs().mean() < 12, "JPEG of the same picture"
    assert sorted(train.labels.tolist()) == [0, 0, 1, 2, 3]


def test_labels_of_the_list_are_those_of_the_annotations(tmp_path):
    synth_imagenet(tmp_path, **SMALL)
    by_list = open_dataset("ilsvrc", tmp_path, "test").labels
    (tmp_path / "LOC_val_solution.csv").unlink()
    assert torch.equal(open_dataset("ilsvrc", tmp_path, "test").labels, by_list)


def test_two_trees_are_equal_to_the_byte_and_a_broken_one_is_mended(tmp_path):
    synth_imagenet(tmp_path / "a", **SMALL, workers=1)
    synth_imagenet(tmp_path / "b", **SMALL, workers=3)
    expected = digests(tmp_path / "a")
    assert digests(tmp_path / "b") == expected
    assert synth_imagenet(tmp_path / "b", **SMALL).written == 0
    for gone in ("val/ILSVRC2012_val_00000003.JPEG", "Annotations/CLS-LOC/val/ILSVRC2012_val_00000005.xml"):
        (tmp_path / "b" / gone).unlink()
    (tmp_path / "b/LOC_val_solution.csv").unlink()
    assert synth_imagenet(tmp_path / "b", **SMALL).written == 2
    assert digests(tmp_path / "b") == expected
    assert digests_of_another_world(tmp_path) != expected


def digests_of_another_world(tmp_path):
    synth_imagenet(tmp_path / "c", **SMALL, world=1)
    return digests(tmp_path / "c")


def test_killed_at_any_time_it_is_finished_by_the_next_call(tmp_path):
    settings = SMALL | {"images": 100}
    arguments = ", ".join(f"{key}={value}" for key, value in settings.items())
    code = f"from wsolfast.data import synth_imagenet; synth_imagenet({str(tmp_path / 'a')!r}, {arguments}, workers=1)"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not (tmp_path / "a/val/ILSVRC2012_val_00000004.JPEG").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a/LOC_val_solution.csv").exists(), "killed before the end"
    assert 0 < synth_imagenet(tmp_path / "a", **settings).written < 105
    synth_imagenet(tmp_path / "b", **settings)
    left = {name for name in digests(tmp_path / "a") if name.endswith(".tmp")}
    found = {name: digest for name, digest in digests(tmp_path / "a").items() if name not in left}
    assert found == digests(tmp_path / "b")


def test_other_peoples_folders_and_other_settings_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/mine.jpg").touch()
    with pytest.raises(DataError, match="photos: is not empty, and nothing of this command's"):
        synth_imagenet(tmp_path / "photos", **SMALL)
    synth_imagenet(tmp_path / "a", **SMALL)
    with pytest.raises(DataError, match=r"other settings \(size 40 and not 41\)"):
        synth_imagenet(tmp_path / "a", **SMALL | {"size": 41})
    assert json.loads((tmp_path / "a/synth-imagenet.json").read_text())["size"] == 40
    (tmp_path / "a/synth-imagenet.json").write_text("{")
    with pytest.raises(DataError, match=r"synth-imagenet.json: not readable"):
        synth_imagenet(tmp_path / "a", **SMALL)


@pytest.mark.parametrize("wrong", [{"images": 0}, {"train_images": -1}, {"classes": 33}, {"size": 8}])
def test_numbers_out_of_range_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        synth_imagenet(tmp_path / "a", **SMALL | wrong)
    assert not (tmp_path / "a").exists()
