import random

import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.methods.cutmix import paste, rectangle
from wsolfast.types import Batch, TrainState

CutMix = get_stage("cutmix")


def model(**options):
    torch.manual_seed(0)
    return CutMix(backbones.build("small"), 5, **options).double()


@pytest.mark.parametrize("seed", range(20))
def test_rectangle_is_that_of_the_loop_over_pixels(seed):
    draw = random.Random(seed)
    height, width, share = draw.randint(1, 30), draw.randint(1, 30), draw.random()
    center = draw.randrange(height), draw.randrange(width)
    y0, y1, x0, x1 = rectangle(height, width, share, center)
    side = (1 - share) ** 0.5
    half = [int(size * side) // 2 for size in (height, width)]
    inside = [
        (y, x)
        for y in range(height)
        for x in range(width)
        if -half[0] <= y - center[0] < half[0] and -half[1] <= x - center[1] < half[1]
    ]
    assert [(y, x) for y in range(y0, y1) for x in range(x0, x1)] == inside


def test_paste_replaces_the_rectangle_and_counts_what_is_left():
    image, patch = torch.zeros(2, 3, 4, 5, dtype=torch.uint8), torch.ones(2, 3, 2, 3, dtype=torch.uint8)
    mixed, share = paste(image, patch, (1, 3, 2, 5))
    assert mixed.sum() == 2 * 3 * 6
    assert mixed[:, :, 1:3, 2:5].all()
    assert share == 1 - 6 / 20
    assert not image.any()


@pytest.mark.parametrize(("share", "own"), [(1.0, 1.0), (0.0, 0.0)])
def test_a_share_of_all_or_nothing_is_a_whole_image(share, own):
    image, other = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    y0, y1, x0, x1 = box = rectangle(8, 8, share, (4, 4))
    mixed, left = paste(image, other[:, :, y0:y1, x0:x1], box)
    assert left == own
    assert torch.equal(mixed, image if own else other)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_loss_weighs_the_labels_by_area(batch, monkeypatch, share):
    state = TrainState(0, 1, 7, 10)
    net = model().eval()
    monkeypatch.setattr(random.Random, "betavariate", lambda self, a, b: share)
    monkeypatch.setattr(random.Random, "randrange", lambda self, size: size // 2)
    loss = net.training_step(batch, state)["loss"]
    order = torch.randperm(6, generator=state.generator())
    assert not torch.equal(order, torch.arange(6))
    y0, y1, x0, x1 = box = rectangle(64, 64, share, (32, 32))
    mixed, left = paste(batch.image, batch.image[order, :, y0:y1, x0:x1], box)
    logs = net.classify(mixed).log_softmax(1)
    expected = 0
    for n in range(6):
        expected -= (left * logs[n, batch.label[n]] + (1 - left) * logs[n, batch.label[order[n]]]) / 6
    torch.testing.assert_close(loss, expected)
    if share != 0.4:
        whole = batch if share else Batch(batch.image[order], batch.label[order], batch.image_id)
        plain = functional.cross_entropy(net.classify(whole.image), whole.label)
        torch.testing.assert_close(loss, plain)


def test_no_batch_is_mixed_at_probability_zero(batch, state):
    net = model(probability=0.0).eval()
    plain = functional.cross_entropy(net.classify(batch.image), batch.label)
    assert torch.equal(net.training_step(batch, state)["loss"], plain)


def test_half_of_the_batches_are_mixed_at_one_half(batch):
    net = model(probability=0.5).float().eval()
    small = Batch(batch.image[:2, :, :16, :16], batch.label[:2], batch.image_id[:2])
    plain = functional.cross_entropy(net.classify(small.image), small.label)
    with torch.no_grad():
        kept = [torch.equal(net.training_step(small, TrainState(0, 1, step, 80))["loss"], plain) for step in range(80)]
    # Some mixed batches are their own permutation, or get an empty rectangle.
    assert 30 < sum(kept) < 75
