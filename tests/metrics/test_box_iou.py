import pytest
import torch

from wsolfast.metrics import box_iou
from wsolfast.testing import seeded


def iou_of_pair(a, b, extra):
    """One pair at a time, on Python's numbers."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    shared = width * height if width > 0 and height > 0 else 0.0
    areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    union = areas[0] + areas[1] - shared
    return shared / union if union > 0 else 0.0


def random_boxes(count, seed):
    low, sides = seeded((2, count, 2), dtype=torch.float64, seed=seed).abs() * 10
    return torch.cat([low, low + sides], 1)


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int64, torch.uint8])
def test_every_pair_has_the_iou_of_the_loop(dtype, plus_one):
    boxes, truths = random_boxes(9, 0).to(dtype), random_boxes(5, 1).to(dtype)
    extra = 1.0 if plus_one else 0.0
    expected = [[iou_of_pair(a, b, extra) for b in truths.double().tolist()] for a in boxes.double().tolist()]
    found = box_iou(boxes, truths, plus_one=plus_one)
    assert found.dtype == torch.float64
    # A few units in the last place of 1, which are 2.2e-16: the loop may round its sums in another order.
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)
    assert (found > 0).sum() > 5


def test_whole_pixels_have_the_exact_ratio():
    box = torch.tensor([[1, 1, 2, 2]])
    truths = torch.tensor([[1, 1, 2, 1], [1, 1, 2, 2], [3, 1, 4, 2], [2, 2, 3, 3]])
    assert box_iou(box, truths, plus_one=True).tolist() == [[2 / 4, 1, 0, 1 / 7]]
    assert box_iou(box, truths).tolist() == [[0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("box", "inclusive"),
    [([5, 5, 5, 5], 1 / 100), ([2, 2, 2, 8], 7 / 100), ([6, 2, 2, 8], 0), ([6, 8, 2, 2], 0)],
    ids=["a pixel", "a column", "one side reversed", "both sides reversed"],
)
def test_box_that_ends_where_it_begins_has_area_only_with_its_last_pixel(box, inclusive):
    box, truth = torch.tensor([box]), torch.tensor([[0, 0, 9, 9]])
    assert box_iou(box, truth).item() == box_iou(box, box).item() == 0
    assert box_iou(box, truth, plus_one=True).item() == inclusive
    assert box_iou(box, box, plus_one=True).item() == (inclusive > 0)


def test_no_box_gives_no_row_and_no_true_box_no_column():
    some, none = torch.ones(3, 4), torch.empty(0, 4)
    assert box_iou(none, some).shape == (0, 3)
    assert box_iou(some, none).shape == (3, 0)


@pytest.mark.parametrize(
    ("boxes", "truths", "message"),
    [
        ((4,), (1, 4), r"expected boxes \[N, 4\] of real numbers, got torch.float32 \[4\]"),
        ((2, 4), (1, 5), r"expected gt_boxes \[G, 4\] of real numbers, got .* \[1, 5\]"),
    ],
)
def test_other_shapes_are_refused(boxes, truths, message):
    with pytest.raises(ValueError, match=message):
        box_iou(torch.ones(boxes), torch.ones(truths))
