import cv2
import numpy as np
import pytest
import torch
from oracles import published_metrics as oracle
from oracles.random_images import images, part

from wsolfast.metrics import ErrorSplit, functional, get_protocol
from wsolfast.metrics.functional import ERROR_KINDS


def test_kinds_are_those_of_the_published_rules():
    maps, sizes, boxes, *_ = images(60, seed=5)
    # Off-centre maps, so that every kind turns up.
    maps = torch.where(torch.arange(60)[:, None, None] % 2 == 0, maps.flip(-1), maps)
    thresholds = torch.tensor([0.2, 0.45, 0.8], dtype=torch.float64)
    right = torch.arange(60) % 5 > 0
    found = functional.error_kinds(maps, sizes, boxes, right, get_protocol("danet"), thresholds)
    seen = set()
    for n in range(60):
        one = maps[n].double().numpy()
        one = (one - one.min()) / (one - one.min()).max()
        one = cv2.resize(one, sizes[n].tolist(), interpolation=cv2.INTER_LINEAR)
        truths = (boxes[n] - torch.tensor([0, 0, 1, 1])).numpy()
        for t, threshold in enumerate(thresholds.tolist()):
            # OpenCV's bilinear differs in the last bits: stay away from the cut.
            assert np.abs(one - threshold).min() > 1e-9
            kind = oracle.spa_error(one >= threshold, truths, bool(right[n]))
            assert ERROR_KINDS[found[n, t]] == kind
            seen.add(kind)
    assert seen == set(ERROR_KINDS)


@pytest.mark.parametrize(
    ("box", "truths", "kind"),
    [
        ([0, 0, 9, 9], [[0, 0, 9, 9]], "correct"),
        # Half of the truth: an overlap of exactly 0.5 is not more than 0.5, and the box lies inside.
        ([0, 0, 9, 4], [[0, 0, 9, 9]], "part"),
        ([0, 0, 9, 9], [[0, 0, 9, 2]], "more"),
        ([0, 0, 9, 9], [[8, 8, 20, 20]], "ot"),
        ([0, 0, 9, 9], [[0, 0, 3, 9], [6, 0, 9, 9]], "m_ins"),
        ([0, 0, 9, 9], [[30, 30, 40, 40], [50, 50, 60, 60]], "ot"),
    ],
)
def test_kinds_by_hand(box, truths, kind):
    """Boxes contain their last pixel. The map is 1 in the box and 0 elsewhere, so that box is cut from it."""
    score_map = torch.zeros(1, 64, 64)
    score_map[0, box[1] : box[3] + 1, box[0] : box[2] + 1] = 1
    half_open = torch.tensor(truths) + torch.tensor([0, 0, 1, 1])
    image = (score_map, torch.tensor([[64, 64]]), [half_open])
    found = functional.error_kinds(*image, torch.tensor([True]), get_protocol("spa"), torch.tensor([0.5]))
    assert ERROR_KINDS[found.item()] == kind


def test_shares_add_up_and_correct_is_top1_loc():
    arguments = images(20, seed=6)
    split = ErrorSplit("spa")
    split.update(*arguments)
    found = split.compute()
    assert sum(found[kind] for kind in ERROR_KINDS) == pytest.approx(100)
    first = arguments[4][:, 0] == arguments[3]
    hits = functional.box_hits(*arguments[:3], get_protocol("spa"))[first, :, 0]
    assert found["correct"] == 100 * hits.sum(0).max().item() / 20
    assert found["cls"] == 100 * (~first).double().mean().item()
    with pytest.raises(ValueError, match="was not counted"):
        split.compute(at=0.5)


def test_any_split_gives_the_same_shares():
    arguments = images(9, seed=7)
    whole, left, right = (ErrorSplit("spa", thresholds=[0.3]) for _ in range(3))
    whole.update(*arguments)
    left.update(*part(arguments, [0, 4, 5]))
    right.update(*part(arguments, [1, 2, 3, 6, 7, 8]))
    left.merge_state(right)
    assert left.compute(at=0.3) == whole.compute()


def test_errors_speak():
    with pytest.raises(ValueError, match="no image was counted"):
        ErrorSplit("spa").compute()
    maps, sizes, boxes, label, topk = images(2)
    with pytest.raises(ValueError, match="no true box"):
        ErrorSplit("spa").update(maps, sizes, [boxes[0], boxes[1][:0]], label, topk)
