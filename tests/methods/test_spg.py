import pytest
import torch
from torch.nn import functional

from wsolfast import backbones
from wsolfast.methods import get_stage
from wsolfast.methods.spg import guided_loss, seeds, unit_range
from wsolfast.testing import assert_close, seeded

SPG = get_stage("spg")


def model(**options):
    torch.manual_seed(0)
    return SPG(backbones.build("small"), 5, **{"head": "linear", "guide_channels": 6} | options).double().eval()


def seeds_by_loop(scores, high, low, min_seeds):
    """1 object, 0 background, None unknown, for every pixel of every map."""
    found = []
    for one in scores[:, 0]:
        values = one.flatten().tolist()
        threshold = high if sum(value > high for value in values) >= min_seeds else 0.7 * max(values)
        found.append([0 if value < low else 1 if value > threshold else None for value in values])
    return found


def loss_by_loop(logits, marks):
    terms = []
    for one, row in zip(logits[:, 0], marks, strict=True):
        for value, mark in zip(one.flatten(), row, strict=True):
            if mark is not None:
                probability = value.sigmoid()
                terms.append(-torch.log(probability if mark else 1 - probability))
    return sum(terms) / len(terms) if terms else torch.zeros((), dtype=logits.dtype)


@pytest.mark.parametrize("min_seeds", [0, 3, 100])
@pytest.mark.parametrize(("high", "low"), [(0.7, 0.1), (0.5, 0.05), (1.0, 0.0)])
def test_seeds_and_loss_are_those_of_the_loop_over_pixels(min_seeds, high, low):
    scores = torch.rand(3, 1, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores[2] *= 0.2
    logits = seeded((3, 1, 5, 7), dtype=torch.float64)
    target, known = seeds(scores, high, low, min_seeds)
    marks = seeds_by_loop(scores, high, low, min_seeds)
    assert known.flatten().tolist() == [mark is not None for row in marks for mark in row]
    assert target.flatten().tolist() == [mark == 1 for row in marks for mark in row]
    assert_close(guided_loss(logits, target, known), loss_by_loop(logits, marks))


def test_loss_gradients_are_those_of_finite_differences():
    logits = seeded((2, 1, 3, 4), dtype=torch.float64).requires_grad_()
    target, known = seeds(torch.rand(2, 1, 3, 4, dtype=torch.float64), 0.6, 0.3, 0)
    assert torch.autograd.gradcheck(lambda x: guided_loss(x, target, known), (logits,))


def test_without_seeds_the_loss_is_zero_and_can_be_differentiated():
    logits = seeded((2, 1, 3, 4)).requires_grad_()
    nothing = torch.zeros(2, 1, 3, 4, dtype=torch.bool)
    loss = guided_loss(logits, nothing, nothing)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_a_constant_map_is_all_background():
    attention = unit_range(torch.full((1, 1, 4, 4), 3.0))
    assert not attention.any()
    target, known = seeds(attention, 0.7, 0.01, 30)
    assert known.all()
    assert not target.any()


def test_losses_are_those_of_the_three_lessons(batch, state):
    net = model(min_seeds=3)
    features = net.backbone(batch.image)

    def full(maps):
        return functional.interpolate(maps, (64, 64), mode="bilinear", align_corners=False)

    with torch.no_grad():
        b1 = full(net.guide_shared(net.guide_early(features["conv4"])))
        b2 = full(net.guide_shared(net.guide_late(features["conv5"])))
        c = full(net.guide_head(features["conv5"]))
        maps = net.head.class_maps(features["conv5"])
        attention = full(torch.stack([maps[n, k] for n, k in enumerate(batch.label)])[:, None])
        for n in range(6):
            attention[n] -= attention[n].min()
            attention[n] /= attention[n].max()
    lessons = {
        "loss_b2": (b2, attention, "thresholds_a"),
        "loss_b1": (b1, b2.sigmoid(), "thresholds_b"),
        "loss_c": (c, (b1.sigmoid() + b2.sigmoid()) / 2, "thresholds_c"),
    }
    # Branches that have learnt nothing answer near one half: thresholds among their answers give seeds of both kinds.
    # Not one of them itself, which rounding could put on either side.
    for _, teacher, thresholds in lessons.values():
        net.thresholds[thresholds] = tuple(teacher.quantile(share).item() + 1e-9 for share in (0.8, 0.3))
    losses = net.training_step(batch, state)
    for name, (pupil, teacher, thresholds) in lessons.items():
        target, known = seeds(teacher, *net.thresholds[thresholds], 3)
        assert 0.1 < target.double().mean() < known.double().mean() < 0.9
        assert_close(losses[name], guided_loss(pupil, target, known))
    assert_close(losses["loss_cls"], functional.cross_entropy(maps.mean((2, 3)), batch.label))
    assert_close(losses["loss"], sum(losses[name] for name in ("loss_cls", *lessons)))


def test_teachers_learn_nothing_from_their_pupils(batch, state):
    net = model()
    losses = net.training_step(batch, state)
    losses["loss_c"].backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in net.guide_shared.parameters())
    losses["loss_b2"].backward()
    assert all(parameter.grad is None for parameter in net.head.parameters())
    assert all(parameter.grad is None for parameter in net.guide_early.parameters())
