"""The contract that every data set keeps, shown on rendered images."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from wsolfast.data import DataError, View, collate, open_dataset
from wsolfast.types import Batch


def open_train(seed=0, num_train=16, **options):
    options = {"resize": 72, "crop": 64} | options
    return open_dataset(
        "synthetic", None, "train_weaksup", train=True, seed=seed, size=64, num_train=num_train, **options
    )


def images_of(dataset, epoch, loader=None):
    dataset.set_epoch(epoch)
    return torch.cat([batch.image for batch in loader or DataLoader(dataset, 4, collate_fn=collate)])


def test_sample_and_batch_carry_what_the_contract_says():
    dataset = open_train()
    sample = dataset[3]
    assert sample.image.shape == (3, 64, 64)
    assert sample.image.dtype == torch.uint8
    assert sample.image.is_contiguous()
    assert (sample.label, sample.image_id, sample.index) == (int(dataset.labels[3]), dataset.image_ids[3], 3)
    assert dataset.labels.dtype == torch.int64
    batch = collate([dataset[1], dataset[2]])
    assert isinstance(batch, Batch)
    assert batch.image.shape == (2, 3, 64, 64)
    assert batch.label.tolist() == dataset.labels[1:3].tolist()
    assert batch.image_id == dataset.image_ids[1:3]
    assert dataset[-1].image_id == dataset.image_ids[-1]
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_augmentation_depends_on_seed_epoch_and_index_only():
    dataset = open_train()
    first = images_of(dataset, epoch=2)
    backwards = torch.stack([dataset[i].image for i in reversed(range(16))]).flip(0)
    assert torch.equal(first, backwards)
    assert torch.equal(first, images_of(open_train(), epoch=2))
    assert not torch.equal(first, images_of(dataset, epoch=3))
    assert not torch.equal(first, images_of(open_train(seed=1), epoch=2))


def test_augmentation_does_not_depend_on_workers_that_outlive_an_epoch():
    dataset = open_train()
    expected = [images_of(dataset, epoch) for epoch in (0, 1)]
    loader = DataLoader(dataset, 4, collate_fn=collate, num_workers=2, persistent_workers=True)
    for epoch in (0, 1):
        assert torch.equal(images_of(dataset, epoch, loader), expected[epoch])


def test_a_pickled_copy_delivers_the_same():
    dataset = open_train()
    dataset.set_epoch(5)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[7].image, dataset[7].image)


def test_crops_and_flips_reach_every_place():
    dataset = open_train(num_train=2, resize=66)
    offsets, flips = set(), set()
    for epoch in range(60):
        dataset.set_epoch(epoch)
        placement = dataset[0].placement
        offsets.add(placement.offset)
        flips.add(placement.flip)
    assert offsets == {(x, y) for x in range(3) for y in range(3)}
    assert flips == {False, True}


def test_evaluation_is_not_augmented():
    dataset = open_dataset("synthetic", None, "test", resize=48, crop=32, num_test=4)
    before = dataset[0]
    dataset.set_epoch(9)
    assert torch.equal(before.image, dataset[0].image)
    assert before.placement.offset == (8, 8)
    assert not before.placement.flip


def test_wide_image_is_the_whole_image_for_ten_crops():
    dataset = open_dataset("synthetic", None, "test", resize=56, wide=View(64), num_test=4)
    assert dataset[0].image.shape == (3, 56, 56)
    assert torch.equal(dataset[0].wide, open_dataset("synthetic", None, "test", resize=64, num_test=4)[0].image)


def test_second_view_may_be_a_central_crop_of_the_shorter_side():
    dataset = open_dataset("synthetic", None, "test", resize=56, wide=View(64, 48, keep_aspect=True), num_test=4)
    whole = open_dataset("synthetic", None, "test", resize=64, num_test=4)[0].image
    assert torch.equal(dataset[0].wide, whole[:, 8:56, 8:56])


def test_boxes_and_masks_never_reach_training():
    dataset = open_train()
    assert not dataset.has_masks
    with pytest.raises(RuntimeError, match="train_weaksup has image labels only"):
        dataset.annotations(0)
    with pytest.raises(RuntimeError, match="train_weaksup has image labels only"):
        dataset.mask(0)


def test_boxes_are_given_for_evaluation():
    dataset = open_dataset("synthetic", None, "train_fullsup", num_val=2)
    annotation = dataset.annotations(1)
    assert annotation.size == (128, 128)
    assert annotation.boxes.shape == (1, 4)
    assert annotation.boxes.dtype == torch.float64
    assert dataset.has_masks
    assert dataset.mask(1).shape == (128, 128)


def test_images_of_different_sizes_are_refused_by_name():
    small, large = open_train(crop=32)[0], open_train(crop=64)[1]
    with pytest.raises(DataError, match=r"train_weaksup/000001 is \[64, 64\]: set resize or crop"):
        collate([small, large])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("folders", None, "test"),
            ValueError,
            "no data set named 'folders'; did you mean 'folder'",
        ),
        (
            ("places365", None, "test"),
            ValueError,
            "no data set named 'places365'; there are: cub, folder, ilsvrc, .*, synthetic",
        ),
        (
            ("synthetic", None, "train"),
            ValueError,
            "split: expected one of train_weaksup, train_fullsup, test, got 'train'",
        ),
        (("folder", None, "test"), DataError, "data set 'folder' needs its folder"),
        (("folder", "/nowhere/at/all", "test"), DataError, "/nowhere/at/all: no such folder"),
    ],
)
def test_bad_names_are_answered_with_the_right_ones(arguments, error, message):
    with pytest.raises(error, match=message):
        open_dataset(*arguments)


def test_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"has no option 'cooccurence'.*did you mean 'cooccurrence'"):
        open_dataset("synthetic", None, "test", cooccurence=0.5)


def test_images_do_not_depend_on_the_cache():
    dataset = open_train()
    first = dataset[0].image
    first.zero_()
    assert np.any(dataset[0].image.numpy())


def test_error_in_a_worker_is_still_one_clear_line(write_image, write_text, tmp_path):
    path = write_image("a.jpg")
    path.write_bytes(path.read_bytes()[:-40])
    write_text("annotations.csv", "image,class_id,split\na.jpg,0,train\n")
    dataset = open_dataset("folder", tmp_path, "train_weaksup")
    with pytest.raises(DataError) as caught:
        list(DataLoader(dataset, collate_fn=collate, num_workers=1))
    assert str(caught.value).startswith(f"{path}: cannot be decoded")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
