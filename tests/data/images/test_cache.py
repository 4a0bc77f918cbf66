"""The cache of decoded images: the same bits as without it, whatever ends a process or changes a byte."""

import errno
import logging
import os
import pickle
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from wsolfast.data import CacheSpec, View, collate, open_dataset
from wsolfast.data.images import cache as _cache
from wsolfast.data.images import decode

IMAGES = 12
BIG = 10**9


@pytest.fixture
def tree(tmp_path):
    """A ``folder`` data set of JPEGs of many sizes."""
    generator = np.random.default_rng(0)
    (tmp_path / "data/images").mkdir(parents=True)
    rows = []
    for i in range(IMAGES):
        width, height = (int(side) for side in generator.integers(30, 90, 2))
        smooth = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((width, height)).save(tmp_path / f"data/images/{i}.jpg")
        rows += [f"images/{i}.jpg,{split},{i % 3},1,2,20,25" for split in ("train", "test")[i % 2 : i % 2 + 1]]
    (tmp_path / "data/annotations.csv").write_text("image,split,class_id,x0,y0,x1,y1\n" + "\n".join(rows) + "\n")
    return tmp_path / "data"


@pytest.fixture
def spec(tmp_path):
    return CacheSpec(tmp_path / "cache", BIG)


VIEWS = {
    "train": {"split": "train_weaksup", "resize": 40, "crop": 32, "train": True, "seed": 3},
    "train, aspect": {"split": "train_weaksup", "resize": 40, "crop": 32, "train": True, "keep_aspect": True},
    "train, any area, distorted": {
        "split": "train_weaksup",
        "resize": 48,
        "crop": 32,
        "train": True,
        "crop_area": (0.3, 1.0),
        "rand_augment": (2, 9),
    },
    "eval": {"split": "test", "resize": (40, 36), "crop": 32},
    "eval, two views": {"split": "test", "resize": 32, "wide": View(48)},
    "eval, two views of one size": {"split": "test", "resize": 48, "wide": View(48, 40)},
    "as it is": {"split": "test"},
}


def opened(tree, spec=None, **view):
    return open_dataset("folder", tree, view.pop("split"), cache=spec, **view)


def samples(dataset, epochs=(0, 1)):
    found = []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        found += [dataset[i] for i in range(len(dataset))]
    return found


def assert_same(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.image, theirs.image), ours.image_id
        assert ours.image.is_contiguous()
        assert (ours.wide is None and theirs.wide is None) or torch.equal(ours.wide, theirs.wide)
        assert (ours.label, ours.image_id, ours.index, ours.placement) == (
            theirs.label,
            theirs.image_id,
            theirs.index,
            theirs.placement,
        )


def forbid_decoding(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("wsolfast.data._files.decode", refuse)


def cache_files(spec):
    return sorted(spec.folder.glob(f"*{_cache.SUFFIX}"))


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_samples_are_the_same_and_nothing_is_decoded_twice(tree, spec, monkeypatch, view):
    expected = samples(opened(tree, **view))
    dataset = opened(tree, spec, **view)
    assert_same(samples(dataset), expected)
    forbid_decoding(monkeypatch)
    for again in (dataset, pickle.loads(pickle.dumps(dataset)), opened(tree, spec, **view)):
        assert_same(samples(again), expected)
    sizes = {view.get("resize"), view["wide"].resize if "wide" in view else view.get("resize")}
    assert len(cache_files(spec)) == len(sizes)


def test_training_and_evaluation_share_what_has_one_size(tree, spec, monkeypatch):
    expected = samples(opened(tree, split="test", resize=40, crop=32, train=True))
    samples(opened(tree, spec, split="test", resize=40))
    forbid_decoding(monkeypatch)
    assert_same(samples(opened(tree, spec, split="test", resize=40, crop=32, train=True)), expected)


def test_loading_processes_and_threads_fill_one_cache(tree, spec, monkeypatch):
    view = VIEWS["train"]
    expected = samples(opened(tree, **view), epochs=[0])
    dataset = opened(tree, spec, **view)
    loader = DataLoader(dataset, 2, collate_fn=collate, num_workers=2)
    assert torch.equal(torch.cat([batch.image for batch in loader]), torch.stack([each.image for each in expected]))
    forbid_decoding(monkeypatch)
    assert_same(samples(dataset, epochs=[0]), expected)
    assert dataset.describe_cache() == [f"{len(dataset)} of {len(dataset)} images are in {cache_files(spec)[0]}"]


def test_what_pixels_depend_on_gets_a_file_of_its_own(tree, spec):
    views = [
        {"split": "test", "resize": 40},
        {"split": "test", "resize": 41},
        {"split": "test", "resize": 40, "keep_aspect": True},
        {"split": "test", "resize": 40, "orient": False},
        {"split": "train_weaksup", "resize": 40},
    ]
    for number, view in enumerate(views, 1):
        assert_same(samples(opened(tree, spec, **view), [0]), samples(opened(tree, **view), [0]))
        assert len(cache_files(spec)) == number
    for same in ({"decoder": "pil"}, {"seed": 7}, {"crop": 20}, {"train": True}, {"decoder": "auto"}):
        samples(opened(tree, spec, split="test", resize=40, **same), [0])
        assert len(cache_files(spec)) == len(views)


def test_an_image_that_is_overwritten_is_decoded_again(tree, spec):
    view = VIEWS["eval"]
    samples(opened(tree, spec, **view), [0])
    file = tree / opened(tree, **view).image_ids[0]
    Image.new("RGB", (50, 50), "red").save(file)
    os.utime(file, ns=(1, 1))
    found = opened(tree, spec, **view)
    assert_same(samples(found, [0]), samples(opened(tree, **view), [0]))
    assert found[0].placement.image_size == (50, 50)
    file.unlink()
    with pytest.raises(decode.DataError, match="no such image file"):
        found[0]


def slot_bytes(count=IMAGES // 2, side=40):
    table = 4096 * -(-(4096 + count * _cache._RECORD.size) // 4096)
    return table, 3 * side * side


def test_the_bound_holds_and_what_fits_stays(tree, spec, monkeypatch, caplog):
    view = {"split": "test", "resize": 40}
    table, each = slot_bytes()
    small = replace(spec, max_bytes=table + 3 * each + 17)
    expected = samples(opened(tree, **view), [0])
    dataset = opened(tree, small, **view)
    with caplog.at_level(logging.WARNING):
        assert_same(samples(dataset, [0, 1]), expected * 2)
    (file,) = cache_files(spec)
    assert [record.message for record in caplog.records] == [
        f"{file} is full: 3 of 6 images fit; the others are decoded as always"
    ]
    assert file.stat().st_size <= small.max_bytes
    decoded = []
    original = decode.decode
    monkeypatch.setattr("wsolfast.data._files.decode", lambda path, *a: decoded.append(path.name) or original(path, *a))
    assert_same(samples(opened(tree, small, **view), [0]), expected)
    assert len(decoded) == 3
    assert caplog.text.count("is full") == 1
    # With more room the rest comes too; with less than the tables need, nothing does.
    assert_same(samples(opened(tree, spec, **view), [0]), expected)
    assert opened(tree, spec, **view).describe_cache()[0].startswith("6 of 6 images")
    assert_same(
        samples(opened(tree, replace(spec, max_bytes=100), split="train_weaksup"), [0]),
        samples(opened(tree, split="train_weaksup"), [0]),
    )
    assert "has no room for its table of images" in caplog.text
    assert len(cache_files(spec)) == 1


def test_all_files_of_a_folder_share_the_bound(tree, spec):
    table, each = slot_bytes()
    small = replace(spec, max_bytes=2 * table + 8 * each)
    for split in ("test", "train_weaksup"):
        samples(opened(tree, small, split=split, resize=40), [0])
    assert sum(file.stat().st_size for file in cache_files(spec)) <= small.max_bytes
    told = [opened(tree, small, split=split, resize=40).describe_cache()[0] for split in ("test", "train_weaksup")]
    assert told[0].startswith("6 of 6 images")
    assert told[1].startswith("2 of 6 images")
    assert told[1].endswith("about 2 fit")


def test_every_flipped_byte_of_an_image_and_its_record_is_noticed(tree, spec, caplog):
    view = {"split": "test", "resize": 8}
    expected = samples(opened(tree, **view), [0])
    samples(opened(tree, spec, **view), [0])
    (file,) = cache_files(spec)
    whole = file.read_bytes()
    table, each = slot_bytes(side=8)
    places = [*range(4096, 4096 + 36), *range(table, table + each, 13), table + each - 1]
    for place in places:
        caplog.clear()
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        dataset = opened(tree, spec, **view)
        assert_same([dataset[0]], expected[:1])
        # A record of another origin is no damage: the image is just not there.
        assert ("is damaged; such images are decoded again" in caplog.text) == (not 4104 <= place < 4112)
        assert_same(samples(opened(tree, spec, **view), [0]), expected)


def test_damage_is_told_once_and_mended(tree, spec, monkeypatch, caplog):
    view = {"split": "test", "resize": 8}
    expected = samples(opened(tree, **view), [0])
    samples(opened(tree, spec, **view), [0])
    (file,) = cache_files(spec)
    table, each = slot_bytes(side=8)
    content = bytearray(file.read_bytes())
    for slot in (0, 2, 5):
        content[table + slot * each + 7] ^= 255
    file.write_bytes(content)
    assert_same(samples(opened(tree, spec, **view), [0]), expected)
    assert caplog.text.count("is damaged") == 1
    forbid_decoding(monkeypatch)
    assert_same(samples(opened(tree, spec, **view), [0]), expected)


@pytest.mark.parametrize("cut", [0, 10, 4100, 8192, 8300, -1])
def test_a_file_that_was_cut_off_is_never_served(tree, spec, caplog, cut):
    view = {"split": "test", "resize": 8}
    expected = samples(opened(tree, **view), [0])
    dataset = opened(tree, spec, **view)
    samples(dataset, [0])
    (file,) = cache_files(spec)
    os.truncate(file, cut if cut >= 0 else 8192 + 6 * 192 - 1)
    assert_same(samples(dataset, [0]), expected)
    assert_same(samples(opened(tree, spec, **view), [0]), expected)


def test_a_foreign_file_is_left_alone(tree, spec, caplog):
    view = {"split": "test", "resize": 8}
    samples(opened(tree, spec, **view), [0])
    (file,) = cache_files(spec)
    file.write_bytes(b"somebody's" * 1000)
    assert_same(samples(opened(tree, spec, **view), [0]), samples(opened(tree, **view), [0]))
    assert f"{file} is damaged, delete it; the others are decoded as always" in caplog.text
    assert file.read_bytes() == b"somebody's" * 1000


def in_child(work):
    """Exit status of ``work`` in a forked process."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("writes", range(12))
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_killed_at_any_write_nothing_torn_is_served(tree, spec, monkeypatch, writes, share):
    view = {"split": "test", "resize": 8}
    expected = samples(opened(tree, **view), [0])
    original = os.pwrite
    done = []

    def dying(descriptor, content, place):
        if len(done) == writes:
            original(descriptor, bytes(content)[: int(len(content) * share)], place)
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(place)
        return original(descriptor, content, place)

    def work():
        os.pwrite = dying
        samples(opened(tree, spec, **view), [0])

    assert in_child(work) == signal.SIGKILL
    dataset = opened(tree, spec, **view)
    assert_same(samples(dataset, [0]), expected)
    # The one after it fills the rest.
    forbid_decoding(monkeypatch)
    assert_same(samples(opened(tree, spec, **view), [0]), expected)


def test_processes_that_fill_it_at_once_agree(tree, spec, monkeypatch):
    view = {"split": "test", "resize": 64}
    expected = samples(opened(tree, **view), [0])
    (spec.folder).mkdir()
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            status = 1
            try:
                dataset = opened(tree, spec, **view)
                order = np.random.default_rng(number).permutation(len(dataset))
                assert_same([dataset[int(i)] for i in order], [expected[i] for i in order])
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    forbid_decoding(monkeypatch)
    assert_same(samples(opened(tree, spec, **view), [0]), expected)
    table, each = slot_bytes(side=64)
    assert _cache._COUNTERS.unpack_from(cache_files(spec)[0].read_bytes(), 32) == (table + 6 * each, 6, 0)


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_full_disk_stops_the_caching_and_not_the_run(tree, spec, monkeypatch, caplog, part):
    view = {"split": "test", "resize": 8}
    expected = samples(opened(tree, **view), [0])
    original, written = os.pwrite, []

    def full(descriptor, content, place):
        if len(written) >= 7:
            if not part or len(written) > 7:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            content = bytes(content)[: int(len(content) * part)]
        written.append(place)
        return original(descriptor, content, place)

    monkeypatch.setattr(os, "pwrite", full)
    assert_same(samples(opened(tree, spec, **view), [0, 1]), expected * 2)
    assert caplog.text.count("cannot grow (No space left on device)") == 1
    monkeypatch.setattr(os, "pwrite", original)
    assert_same(samples(opened(tree, spec, **view), [0]), expected)
    assert opened(tree, spec, **view).describe_cache()[0].startswith("6 of 6")


def test_memory_stays_flat(tree, spec):
    """Neither filling nor reading keeps pages in the process: 60 images of 300 kB are 18 MB."""
    image = Image.new("RGB", (320, 320), "red")
    rows = []
    for i in range(60):
        image.putpixel((i, 0), (0, 0, 0))
        image.save(tree / f"images/many{i}.jpg")
        rows.append(f"images/many{i}.jpg,test,0,1,2,20,25")
    (tree / "annotations.csv").write_text("image,split,class_id,x0,y0,x1,y1\n" + "\n".join(rows) + "\n")
    dataset = opened(tree, spec, split="test")

    def resident():
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for i in range(10):
        assert dataset[i].image.shape == (3, 320, 320)
    before = resident()
    for _ in range(2):
        for i in range(len(dataset)):
            dataset[i]
    assert cache_files(spec)[0].stat().st_size > 60 * 300_000
    # The allocator may hold a few buffers of the last images.
    assert resident() - before < 4_000_000
