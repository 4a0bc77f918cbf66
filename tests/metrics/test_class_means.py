"""Means over the classes of each class's accuracies, as BAS and PSOL report them."""

import pytest
import torch

from wsolfast.metrics import BoxAccuracy

SIZES = torch.tensor([[8, 8]] * 4)
TRUTHS = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])] * 4
# Class 2 has three images, class 0 one, class 1 none.
LABEL = torch.tensor([2, 2, 2, 0])
LIKELY = torch.tensor([[2, 0], [0, 2], [2, 1], [1, 2]])


def maps(*hits):
    """Maps that show the true box, or the opposite corner."""
    found = torch.zeros(len(hits), 8, 8)
    for one, hit in zip(found, hits, strict=True):
        (one[:4, :4] if hit else one[4:, 4:]).fill_(1)
    return found


def counted(**options):
    metric = BoxAccuracy("csoa", thresholds=[0.3, 0.6], num_classes=3, **options)
    metric.update(maps(True, True, False, True), SIZES, TRUTHS, LABEL, LIKELY)
    return metric


def test_every_class_that_has_images_counts_the_same():
    found = counted().compute()
    assert (found["gt_known_loc"], found["top1_cls"], found["top1_loc"]) == (75.0, 50.0, 25.0)
    # Of three images two are hit, two named rightly, one both; of the other one the box alone is right.
    third = 100 / 3
    expected = {"gt_known_loc": (2 * third + 100) / 2, "top1_cls": third, "top5_cls": 50.0, "top1_loc": third / 2}
    expected["top5_loc"] = third
    for name, value in expected.items():
        assert found[f"{name}_class_mean"] == pytest.approx(value)
    assert found["curves"]["gt_known_loc_class_mean"] == pytest.approx([expected["gt_known_loc"]] * 2)
    assert "top1_cls_class_mean" in counted().scalars()


def test_the_mean_is_at_the_threshold_of_the_accuracy():
    """The mean may be higher where one image counts for all of its class, at a threshold that finds fewer boxes."""
    score_maps = maps(True, True, True, True)
    # Below 0.5 the first two are hits, the last one is not: another figure touches the object.
    score_maps[:2] *= 0.5
    score_maps[:2, 7, 7] = 1.0
    score_maps[3, 4:, 4:] = 0.5
    metric = BoxAccuracy("csoa", thresholds=[0.3, 0.7], num_classes=3, max_box=False)
    metric.update(score_maps, SIZES, TRUTHS, LABEL)
    found = metric.compute()
    assert (found["gt_known_loc"], found["gt_known_loc_class_mean"]) == (75.0, 50.0)
    assert found["curves"]["gt_known_loc_class_mean"] == pytest.approx([50.0, (100 / 3 + 100) / 2])
    assert metric.compute(at=0.7)["gt_known_loc_class_mean"] == pytest.approx(200 / 3)


def test_parts_merge_to_the_whole():
    whole, total = counted(max_box=False), BoxAccuracy("csoa", [0.3, 0.6], max_box=False, num_classes=3)
    score_maps = maps(True, True, False, True)
    for k in range(4):
        one = BoxAccuracy("csoa", [0.3, 0.6], max_box=False, num_classes=3)
        one.update(score_maps[k : k + 1], SIZES[:1], TRUTHS[:1], LABEL[k : k + 1], LIKELY[k : k + 1])
        total.merge_state(one)
    assert total.compute() == whole.compute()


def test_boxes_that_are_given_count_at_every_threshold():
    metric = BoxAccuracy("csoa", thresholds=[0.3, 0.6], max_box=False, num_classes=3)
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]] * 2 + [[4.0, 4.0, 8.0, 8.0]] + [[0.0, 0.0, 4.0, 4.0]])
    metric.update_boxes(boxes, TRUTHS, LABEL, LIKELY)
    assert metric.compute()["curves"] == counted(max_box=False).compute()["curves"]


def test_without_classes_there_is_no_mean():
    metric = BoxAccuracy("csoa", max_box=False)
    metric.update(maps(True, True, False, True), SIZES, TRUTHS, LABEL, LIKELY)
    assert not [name for name in metric.compute() if name.endswith("_class_mean")]


def test_labels_of_no_class_and_counters_of_other_classes_are_refused():
    metric = BoxAccuracy("csoa", max_box=False, num_classes=2)
    with pytest.raises(ValueError, match="expected labels below 2, got up to 2"):
        metric.update(maps(True, True, False, True), SIZES, TRUTHS, LABEL, LIKELY)
    with pytest.raises(ValueError, match="num_classes: 2 instead of 3"):
        counted(max_box=False).merge_state(BoxAccuracy("csoa", [0.3, 0.6], max_box=False, num_classes=2))
    with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
        BoxAccuracy("csoa", num_classes=0)
