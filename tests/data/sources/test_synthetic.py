import hashlib

import numpy as np
import pytest
import torch

from wsolfast.data import open_dataset
from wsolfast.data.sources import synthetic
from wsolfast.metrics import box_iou

# The bytes are a contract: published demo numbers stand on them.
DIGEST = "cab7158c5850c0e8048bd050dd3a5781399bd14b4af4fc2f276135332bf316ef"


def open_synthetic(split="train_weaksup", **options):
    return open_dataset("synthetic", None, split, **options)


def test_bytes_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for split in ("train_weaksup", "train_fullsup", "test"):
        for size in (64, 101):
            dataset = open_synthetic(split, size=size, num_train=9, num_val=9, num_test=9, world=3)
            for sample in dataset:
                digest.update(sample.image.numpy().tobytes())
    assert digest.hexdigest() == DIGEST


def test_boxes_are_tight_to_the_mask_and_inside_the_image():
    dataset = open_synthetic("test", num_test=48, num_classes=12)
    for i in range(len(dataset)):
        mask = dataset.mask(i).numpy()
        assert set(np.unique(mask)) == {0, 1}
        (x0, y0, x1, y1), size = dataset.annotations(i).boxes[0].long().tolist(), dataset.annotations(i).size
        assert size == (128, 128)
        assert 0 <= x0 < x1 <= 128
        assert 0 <= y0 < y1 <= 128
        outside = mask.copy()
        outside[y0:y1, x0:x1] = 0
        assert not outside.any()
        edges = (mask[y0, x0:x1], mask[y1 - 1, x0:x1], mask[y0:y1, x0], mask[y0:y1, x1 - 1])
        assert all(edge.any() for edge in edges)
        assert min(x1 - x0, y1 - y0) >= 0.26 * 128
        assert max(x1 - x0, y1 - y0) <= 0.89 * 128


def test_figures_stand_everywhere_and_the_centre_box_is_no_answer():
    dataset = open_synthetic("test", num_test=160)
    boxes = torch.cat([dataset.annotations(i).boxes for i in range(160)]) / 128
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centers.min() < 0.3
    assert centers.max() > 0.7
    fixed = torch.tensor([[0.1, 0.1, 0.9, 0.9]])
    assert (box_iou(boxes, fixed) > 0.5).float().mean() < 0.3


def test_classes_of_a_family_share_their_body_and_differ_in_their_head():
    """Classes 0 and 24 are both birds in the meadow and differ in the head's pattern alone."""
    first = open_synthetic("test", num_test=64, num_classes=32)
    assert first.class_names[0].split("_")[1:] == first.class_names[24].split("_")[1:] == ["red", "bird"]
    source, other = (synthetic.open_source(None, "test", num_test=64, num_classes=32) for _ in range(2))
    source.labels[:], other.labels[:] = 0, 24
    for i in range(8):
        changed = (source.read(i) != other.read(i)).any(-1)
        mask = source.mask(i)
        assert changed.any()
        assert np.array_equal(other.mask(i), mask)
        assert changed.sum() < 0.35 * mask.sum()
        assert not (changed & (mask == 0)).any()


def test_cooccurrence_decides_the_background():
    def corners(cooccurrence):
        dataset = open_synthetic("test", num_test=160, cooccurrence=cooccurrence)
        mean = torch.stack([sample.image[:, :12, :12].float().mean((1, 2)) for sample in dataset])
        return torch.stack([mean[dataset.labels == k].std(0).mean() for k in range(8)]).mean()

    assert corners(1.0) < 0.6 * corners(0.0)


def test_splits_and_worlds_hold_different_images():
    images = [open_synthetic(split)[0].image for split in ("train_weaksup", "train_fullsup", "test")]
    images.append(open_synthetic("test", world=1)[0].image)
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_every_class_is_there_in_every_split():
    dataset = open_synthetic("train_fullsup", num_classes=5, num_val=11)
    assert dataset.labels.unique().tolist() == [0, 1, 2, 3, 4]
    assert len(set(dataset.class_names)) == 5
    assert len(set(open_synthetic(num_classes=32).class_names)) == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes: expected 2 to 32, got 1"),
        ({"num_classes": 33}, "num_classes: expected 2 to 32, got 33"),
        ({"size": 16}, "size: expected at least 32 px, got 16"),
        ({"smallest": 0.9}, "expected 0.27 <= smallest <= largest <= 0.98, got 0.9, 0.85"),
        ({"cooccurrence": 1.5}, "cooccurrence: expected a number from 0 to 1, got 1.5"),
        ({"body_cue": -0.1}, "body_cue: expected a number from 0 to 1, got -0.1"),
        ({"num_train": 0}, "split train_weaksup: expected at least one image, got 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        open_synthetic(**options)


@pytest.mark.parametrize(("smallest", "largest"), [(0.3, 0.4), (0.6, 0.95), (0.98, 0.98)])
def test_figures_have_the_size_asked_for(smallest, largest):
    dataset = open_synthetic("test", num_test=32, smallest=smallest, largest=largest)
    boxes = torch.cat([dataset.annotations(i).boxes for i in range(32)])
    longer = (boxes[:, 2:] - boxes[:, :2]).amax(1) / 128
    # Outlines are known by a few points, limbs by their axis: within 4 % of the image's side.
    assert longer.min() > smallest - 0.04
    assert longer.max() < largest + 0.04


def test_forgotten_images_are_rendered_again(monkeypatch):
    expected = [sample.image for sample in open_synthetic("test", num_test=6, size=32)]
    monkeypatch.setattr(synthetic, "_CACHE_BYTES", 2 * 4 * 32 * 32)
    dataset = open_synthetic("test", num_test=6, size=32)
    for i in (0, 1, 2, 5, 0, 3, 4, 1):
        assert torch.equal(dataset[i].image, expected[i])
        assert len(dataset._source._rendered) <= 2
