"""Batches of few classes: who is in them, how often, in which order."""

from collections import Counter

import pytest
import torch

from wsolfast import backbones
from wsolfast.methods._balanced_batches import BalancedBatches
from wsolfast.methods.csoa import CSoA

LABELS = torch.arange(20).repeat(30)  # 600 images


def epoch(seed=0, labels=LABELS, batch_size=48, **options):
    return list(BalancedBatches(labels, batch_size, seed, **options))


def test_twelve_classes_of_four():
    batches = epoch()
    assert len(batches) == len(BalancedBatches(LABELS, 48, 0)) == 13
    for batch in batches:
        assert len(set(batch)) == 48
        assert set(Counter(LABELS[batch].tolist()).values()) == {4}


def test_order_depends_on_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    batches = epoch(7)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert epoch(7) == batches
    assert epoch(8) != batches
    sampler = BalancedBatches(LABELS, 48, 7)
    assert list(sampler) == list(sampler) == batches


def test_an_epoch_shows_nearly_everything_and_nothing_early_twice():
    shown = Counter(index for batch in epoch() for index in batch)
    assert len(shown) > 0.9 * len(LABELS)
    assert max(shown.values()) <= 2
    unseen_when_repeated = Counter(index for batch in epoch()[:6] for index in batch)
    assert max(unseen_when_repeated.values()) == 1


def test_large_classes_are_drawn_in_proportion():
    labels = torch.cat([torch.zeros(300, dtype=torch.long), torch.arange(1, 31).repeat(10)])
    drawn = Counter(label for seed in range(5) for batch in epoch(seed, labels)[:4] for label in labels[batch].tolist())
    assert drawn[0] == 5 * 4 * 4  # half of all images: in every one of these batches
    assert drawn[1] < drawn[0] / 2


@pytest.mark.parametrize(
    ("labels", "batch_size", "shares"),
    [
        ([0, 1, 2] * 8, 12, [4, 4, 4]),  # fewer classes than asked for
        ([0, 1, 2] * 8, 7, [3, 2, 2]),  # not divisible
        ([5] * 9, 4, [4]),  # a single class
        ([3, 9], 4, [2, 2]),  # a single image per class
        (list(range(40)), 3, [1, 1, 1]),  # fewer images than classes
    ],
)
def test_small_sets(labels, batch_size, shares):
    labels = torch.tensor(labels)
    batches = epoch(labels=labels, batch_size=batch_size)
    assert len(batches) == -(-len(labels) // batch_size)
    for batch in batches:
        counts = Counter(labels[batch].tolist())
        assert sorted(counts.values(), reverse=True) == shares
        for label, count in counts.items():
            members = [index for index in batch if labels[index] == label]
            assert len(set(members)) == min(count, int((labels == label).sum()))


def test_no_images_no_batches():
    assert epoch(labels=torch.tensor([], dtype=torch.long)) == []


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_hold_whole_classes(ranks):
    for batch in epoch():
        parts = torch.tensor(batch).view(ranks, -1)
        classes = [set(LABELS[part].tolist()) for part in parts]
        assert len(set.union(*classes)) == sum(map(len, classes)) == 12


def test_method_asks_for_balanced_batches_unless_told_otherwise():
    backbone = backbones.build("small", layout="stride8")
    options = {"head": "linear", "embedding": "features"}
    assert list(CSoA(backbone, 3, **options).batch_sampler(LABELS, 48, 4)) == epoch(4)
    assert CSoA(backbone, 3, classes_per_batch=0, **options).batch_sampler(LABELS, 48, 4) is None
