"""The order of a stage's images: a function of seed and epoch, dealt out among turns and processes."""

from itertools import chain

import pytest
import torch

from wsolfast.engine.run import distributed
from wsolfast.engine.training.order import DataOrder, TrainPosition, epoch_order

COUNT, SIZE = 20, 8  # batches of 8, 8 and 4


@pytest.fixture
def order_of(tiny):
    """Makes the order of 20 images with overrides of the recipe, by the method's sampler if one is given."""

    def make(*overrides, sampler=lambda labels, batch_size, seed: None):
        return DataOrder(torch.arange(COUNT) % 2, tiny(*overrides).stage[0], 5, sampler)

    return make


def shares(order, world_size, at, monkeypatch):
    """Return what is left of the epoch, as each of several processes has it."""
    monkeypatch.setattr(distributed, "world_size", lambda: world_size)
    found = []
    for rank in range(world_size):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        found.append(order.remaining(at))
    return found


def test_the_order_of_images_depends_on_seed_and_epoch_only():
    assert torch.equal(epoch_order(1, 2, 50), epoch_order(1, 2, 50))
    assert sorted(epoch_order(1, 2, 50).tolist()) == list(range(50))
    assert not torch.equal(epoch_order(1, 2, 50), epoch_order(1, 3, 50))
    assert not torch.equal(epoch_order(1, 2, 50), epoch_order(2, 1, 50))


def test_an_epoch_shows_every_image_once_and_ends_with_what_is_left(order_of):
    order = order_of()
    assert order.steps_per_epoch == 3
    for epoch in (0, 1):
        assert [len(batch) for batch in order.batches(epoch)] == [8, 8, 4]
        assert list(chain(*order.batches(epoch))) == epoch_order(5, epoch, COUNT).tolist()


@pytest.mark.parametrize("done", [0, 1, 2])
def test_what_remains_are_the_last_batches_of_the_epoch(order_of, done):
    order = order_of()
    remaining = order.remaining(TrainPosition(epoch=1, step_in_epoch=done, step=3 + done))
    assert [indices for indices, _ in remaining] == order.batches(1)[done:]
    assert all(parts == [indices] for indices, parts in remaining)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_and_turns_share_a_batch_without_rest(order_of, monkeypatch, world_size, accumulate):
    found = shares(order_of(f"stage.accumulate={accumulate}"), world_size, TrainPosition(), monkeypatch)
    for same_batch in zip(*found, strict=True):
        indices = same_batch[0][0]
        assert all(other == indices for other, _ in same_batch)
        turns = min(accumulate, len(indices) // world_size)
        assert all(len(parts) == turns and all(parts) for _, parts in same_batch)
        # Turn by turn, and within it rank by rank, the parts are the batch in its order.
        assert list(chain(*(parts[turn] for turn in range(turns) for _, parts in same_batch))) == indices


def test_a_sampler_of_the_methods_own_sees_labels_size_and_a_seed_for_every_epoch(order_of):
    asked = []

    def sampler(labels, batch_size, seed):
        asked.append((labels.tolist(), batch_size, seed))
        return iter([(0, 1), (2, 3)])

    order = order_of(sampler=sampler)
    assert order.steps_per_epoch == 2
    assert order.remaining(TrainPosition(epoch=1)) == [([0, 1], [[0, 1]]), ([2, 3], [[2, 3]])]
    (labels, size, first), (again, same_size, second) = asked
    assert labels == again == [k % 2 for k in range(COUNT)]
    assert size == same_size == SIZE
    assert first != second


def test_a_sampler_whose_epochs_differ_in_length_is_refused(order_of):
    lengths = iter([2, 3])
    order = order_of(sampler=lambda labels, batch_size, seed: [[0]] * next(lengths))
    with pytest.raises(ValueError, match="batch_sampler gives 3 batches in epoch 1, 2 in epoch 0"):
        order.remaining(TrainPosition(epoch=1))


def test_the_position_after_the_last_batch_is_the_next_epoch():
    at = TrainPosition()
    for _ in range(5):
        at.advance(3)
    assert at == TrainPosition(epoch=1, step_in_epoch=2, step=5)
    at.advance(3)
    assert at == TrainPosition(epoch=2, step_in_epoch=0, step=6)
