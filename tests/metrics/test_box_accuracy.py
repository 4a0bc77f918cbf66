import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import published_metrics as oracle
from oracles.random_images import images, part

from wsolfast.metrics import BoxAccuracy, frames, functional, get_protocol

GRID = [k * 0.1 for k in range(10)]


def test_max_box_accuracies_are_those_of_the_published_loop():
    maps, sizes, boxes, label, topk = images(10)
    truths = [torch.minimum(b, s.repeat(2) - 1).int().tolist() for b, s in zip(boxes, sizes, strict=True)]
    single, multi = (
        np.stack(
            [
                oracle.max_box_hits(m.numpy(), s.tolist(), t, GRID, (0.3, 0.5, 0.7), every)
                for m, s, t in zip(maps, sizes, truths, strict=True)
            ]
        )
        for every in (False, True)
    )
    metric = BoxAccuracy("wsolevaluation", thresholds=GRID)
    metric.update(maps, sizes, boxes, label, topk)
    found = metric.compute()
    assert found["max_box_acc"] == 100 * single[:, :, 1].mean(0).max()
    levels = 100 * multi.mean(0).max(0)
    assert [found["iou30"], found["iou50"], found["iou70"]] == pytest.approx(levels.tolist(), rel=1e-15)
    assert found["max_box_acc_v2"] == pytest.approx(levels.mean(), rel=1e-15)
    assert found["gt_known_loc"] == found["max_box_acc"]
    assert found["curves"]["gt_known_loc"] == pytest.approx((100 * single[:, :, 1].mean(0)).tolist(), rel=1e-15)
    first, five = (topk[:, 0] == label).numpy(), (topk == label[:, None]).any(1).numpy()
    assert found["top1_cls"] == 100 * first.mean()
    assert found["top5_cls"] == 100 * five.mean()
    assert found["top1_loc"] == pytest.approx(100 * (single[:, :, 1] & first[:, None]).mean(0).max())
    assert found["top5_loc"] == pytest.approx(100 * (single[:, :, 1] & five[:, None]).mean(0).max())
    assert 0 < found["top5_loc"] <= found["gt_known_loc"] < 100


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=12, max_size=12))
def test_any_split_over_accumulators_gives_the_same_numbers(owners):
    arguments = images(12, seed=1)
    whole = BoxAccuracy("spa", max_box=False)
    whole.update(*arguments)
    total = BoxAccuracy("spa", max_box=False)
    for owner in range(3):
        index = [k for k in range(12) if owners[k] == owner]
        if index:
            one = BoxAccuracy("spa", max_box=False)
            one.update(*part(arguments, index))
            restored = BoxAccuracy("spa", max_box=False)
            restored.load_state_dict(one.state_dict())
            total.merge_state(restored)
    assert total.compute() == whole.compute()


def test_maps_of_several_sizes_are_the_same_as_one_by_one():
    maps, sizes, boxes, *_ = images(6, seed=2)
    mixed = [maps[n] if n % 2 else maps[n, :5, :6] for n in range(6)]
    together = functional.box_hits(mixed, sizes, boxes, get_protocol("danet"))
    alone = [functional.box_hits([mixed[n]], sizes[n : n + 1], [boxes[n]], get_protocol("danet")) for n in range(6)]
    assert torch.equal(together, torch.cat(alone))
    assert together.any()


@pytest.mark.parametrize("name", ["wsolevaluation", "spa", "cicam", "spol"])
def test_hits_are_the_overlaps_that_reach_the_level(name):
    protocol = get_protocol(name)
    thresholds = frames.as_float64([0.1, 0.5])
    maps, sizes, boxes, *_ = images(6, seed=8)
    overlaps = functional.best_overlaps(maps, sizes, boxes, protocol, thresholds)
    for level in (0.0, 0.3, 0.5):
        hits = functional.box_hits(maps, sizes, boxes, protocol, thresholds, frames.as_float64([level]))[..., 0]
        assert torch.equal(hits, overlaps >= level if protocol.rule.hit == ">=" else overlaps > level)
    assert overlaps.max() > 0.5


def test_accuracy_at_a_threshold_chosen_elsewhere():
    arguments = images(12, seed=3)
    val, test = BoxAccuracy("spa", max_box=False), BoxAccuracy("spa", max_box=False)
    val.update(*part(arguments, range(6)))
    test.update(*part(arguments, range(6, 12)))
    chosen = val.compute()["cam_threshold"]
    transferred, oracle_numbers = test.compute(at=chosen), test.compute()
    for name in ("gt_known_loc", "top1_loc", "top5_loc"):
        position = test.protocol.thresholds.index(chosen[name])
        assert transferred["cam_threshold"][name] == chosen[name]
        assert transferred[name] == oracle_numbers["curves"][name][position] <= oracle_numbers[name]
    assert test.compute(at=0.2)["gt_known_loc"] == oracle_numbers["curves"]["gt_known_loc"][2]
    with pytest.raises(ValueError, match=r"threshold 0.123 was not counted, the nearest is 0.1"):
        test.compute(at=0.123)
    with pytest.raises(ValueError, match="no threshold for 'top1_loc'"):
        test.compute(at={"gt_known_loc": 0.2})


def test_the_best_threshold_is_the_first_of_the_best():
    metric = BoxAccuracy("wsolevaluation", thresholds=[0.0, 0.5, 0.51, 0.9], max_box=False)
    score_map = torch.zeros(1, 8, 8)
    score_map[:, 2:6, 2:6] = 1
    metric.update(score_map, torch.tensor([[8, 8]]), [torch.tensor([[2.0, 2.0, 6.0, 6.0]]).double()])
    found = metric.compute()
    assert found["gt_known_loc"] == 100
    assert found["cam_threshold"]["gt_known_loc"] == min(
        t for t, value in zip(found["curves"]["thresholds"], found["curves"]["gt_known_loc"], strict=True) if value
    )
    assert "top1_loc" not in found


@pytest.mark.parametrize("name", ["wsolevaluation", "spa", "cicam", "ts_cam"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_map_without_information_is_a_miss(name, value):
    metric = BoxAccuracy(name, thresholds=[0.1, 0.5], max_box=False)
    metric.update(torch.full((1, 7, 7), value), torch.tensor([[60, 40]]), [torch.tensor([[10.0, 10.0, 40.0, 35.0]])])
    assert metric.compute()["gt_known_loc"] == 0


def test_reset_forgets_everything():
    metric = BoxAccuracy("spa", max_box=False)
    metric.update(*images(3))
    metric.reset()
    with pytest.raises(ValueError, match="no image was counted"):
        metric.compute()


def test_given_boxes_count_at_every_threshold():
    _, _, boxes, label, topk = images(8, seed=4)
    metric = BoxAccuracy("spa", thresholds=[0.1, 0.9])
    metric.update_boxes(torch.stack([truths[0] for truths in boxes]), boxes, label, topk)
    found = metric.compute()
    assert found["gt_known_loc"] == found["max_box_acc"] == found["max_box_acc_v2"] == 100
    assert found["top1_loc"] == found["top1_cls"]
    metric.update_boxes(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(8, 1), boxes, label, topk)
    assert metric.compute()["gt_known_loc"] == 50


def test_counters_of_another_protocol_are_refused():
    spa, danet = BoxAccuracy("spa"), BoxAccuracy("danet")
    with pytest.raises(ValueError, match="another protocol"):
        spa.merge_state(danet)
    with pytest.raises(ValueError, match="another protocol"):
        spa.load_state_dict(danet.state_dict())
    with pytest.raises(ValueError, match="expected counters"):
        spa.load_state_dict({"config": {}})


def test_a_state_dict_survives_torch_save(tmp_path):
    metric, again = BoxAccuracy("spa", max_box=False), BoxAccuracy("spa", max_box=False)
    metric.update(*images(4))
    torch.save(metric.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.compute() == metric.compute()


MAPS, SIZES, BOXES, LABEL, TOPK = images(2)
BAD = [
    ({"gt_boxes": [BOXES[0], BOXES[1][:0]]}, "image 1 has no true box"),
    ({"gt_boxes": [BOXES[0], BOXES[1][:, :3]]}, r"true boxes \[G, 4\] of real numbers, image 1 has"),
    ({"gt_boxes": [BOXES[0], BOXES[1].flip(1)]}, "image 1 has a true box that is empty"),
    ({"gt_boxes": BOXES[:1]}, "2 score maps, but true boxes of 1"),
    ({"image_sizes": SIZES[:1]}, "2 pairs of positive integers"),
    ({"image_sizes": SIZES.float()}, "2 pairs of positive integers"),
    ({"image_sizes": SIZES * 0}, "2 pairs of positive integers"),
    ({"label": LABEL[:1]}, r"integers of shape \[2\] for label, got torch.int64 \[1\]"),
    ({"label": LABEL.double()}, r"integers of shape \[2\] for label, got torch.float64"),
    ({"topk_classes": TOPK[0]}, r"expected topk_classes as integers \[2, 5\], got torch.int64 \[5\]"),
    ({"score_maps": MAPS[:, None]}, r"map 0 has shape \[1, 7, 7\]"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named(change, message):
    arguments = {"score_maps": MAPS, "image_sizes": SIZES, "gt_boxes": BOXES, "label": LABEL, "topk_classes": TOPK}
    metric = BoxAccuracy("spa", max_box=False)
    with pytest.raises(ValueError, match=message):
        metric.update(**(arguments | change))
    assert int(metric.state_dict()["images"]) == 0


def test_images_with_and_without_classes_do_not_mix():
    metric = BoxAccuracy("spa", max_box=False)
    metric.update(MAPS, SIZES, BOXES, LABEL, TOPK)
    metric.update(MAPS, SIZES, BOXES)
    with pytest.raises(ValueError, match="only 2 of 4 images came with classes"):
        metric.compute()
