"""Boxes that a method gives: in every protocol's frame they are what a map of the same pixels is."""

from dataclasses import replace

import pytest
import torch

from wsolfast.metrics import PROTOCOLS, BoxAccuracy, GivenBoxes, get_protocol
from wsolfast.metrics.functional import box_hits, error_kinds, predicted_boxes

SIDE = 224
LEVELS = torch.arange(1, 20) / 20


def images(count=40):
    """Integer boxes of a view of 224 x 224, image sizes and one to three true boxes each."""
    generator = torch.Generator().manual_seed(1)

    def whole(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    start = whole(0, 150, count, 2)
    boxes = torch.cat([start, start + whole(1, 74, count, 2)], 1)
    boxes[:4] = torch.tensor([[0, 0, SIDE, SIDE - 1], [0, 100, SIDE, 120], [100, 0, 120, SIDE], [50, 50, 51, 51]])
    sizes = whole(60, 500, count, 2)
    truths = []
    for n, (size, box) in enumerate(zip(sizes, boxes, strict=True)):
        near = box.double() * size.repeat(2) / SIDE + whole(-9, 10, 1 + n % 3, 4)
        near[:, :2] = near[:, :2].clamp(min=0).minimum(size - 2.0)
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1).minimum(size.double())
        truths.append(near.round(decimals=1))
    return boxes, sizes, truths


def maps_of(boxes):
    maps = torch.zeros(len(boxes), SIDE, SIDE)
    for one, (x0, y0, x1, y1) in zip(maps, boxes.tolist(), strict=True):
        one[y0:y1, x0:x1] = 1
    return maps


def of_view(boxes, sizes):
    return GivenBoxes(boxes, torch.full_like(sizes, SIDE), sizes)


def plain(name):
    """The protocol, cutting at the view's own size where it cuts at another one, and all of the map that is above 0."""
    protocol = get_protocol(name)
    rule = replace(protocol.rule, selection="union")
    side = protocol.input_size and SIDE
    return replace(protocol, rule=rule, thresholds=(0.0,), iou_thresholds=(0.5,), input_size=side)


# In frame "image" a map is resized, so that its box ends at whole pixels of the image, and a given one does not.
@pytest.mark.parametrize("name", [name for name, one in PROTOCOLS.items() if one.frame != "image"])
def test_hits_and_errors_are_those_of_a_map_of_the_same_pixels(name):
    boxes, sizes, truths = images()
    protocol, given = plain(name), of_view(boxes, sizes)
    hits = box_hits(maps_of(boxes), sizes, truths, protocol, iou_thresholds=LEVELS)
    assert torch.equal(given.hits(truths, protocol, LEVELS), hits[:, 0])
    assert 0 < hits.float().mean() < 1
    right = torch.arange(len(boxes)) % 5 > 0
    kinds = error_kinds(maps_of(boxes), sizes, truths, right, protocol)
    assert torch.equal(given.error_kinds(truths, right, protocol), kinds[:, 0])
    shown = torch.cat(predicted_boxes(maps_of(boxes), sizes, protocol, 0.0))
    assert torch.equal(given.in_images(protocol), shown)


def test_in_the_frame_of_the_image_nothing_is_rounded():
    given = GivenBoxes(
        torch.tensor([[10.5, 0.0, 112.0, 230.0]]), torch.tensor([[224, 224]]), torch.tensor([[448, 100]])
    )
    expected = torch.tensor([[21.0, 0.0, 224.0, 230 * 100 / 224]], dtype=torch.float64)
    assert torch.equal(given.in_frame(get_protocol("csoa")), expected)
    assert torch.equal(given.in_frame(get_protocol("spa")), expected - torch.tensor([0, 0, 1, 1]))
    assert torch.equal(given.in_images(get_protocol("spa")), expected)


def test_the_regressors_true_boxes_are_moved_by_a_pixel_and_into_the_crop():
    """Of a 512 x 512 image the crop shows 32 to 480; a corner at 101 becomes (101 - 1) / 2 - 16 = 34."""
    protocol = get_protocol("psol_regressor")
    given = GivenBoxes(
        torch.tensor([[34.0, 44.0, 134.0, 164.0]]), torch.tensor([[224, 224]]), torch.tensor([[512, 512]])
    )
    assert given.hits([torch.tensor([[101.0, 121.0, 301.0, 361.0]])], protocol, [0.999999]).item()
    assert not given.hits([torch.tensor([[100.0, 121.0, 301.0, 361.0]])], protocol, [0.999]).item()
    # An overlap of a half exactly is none.
    half = [torch.tensor([[101.0, 121.0, 301.0, 241.0]])]
    assert not given.hits(half, protocol).item()
    assert given.hits(half, replace(protocol, rule=replace(protocol.rule, hit=">="))).item()
    # What lies outside the crop is a miss: at 0 there is no pixel of it left.
    assert not given.hits([torch.tensor([[0.0, 0.0, 30.0, 30.0]])], protocol, [0.0]).item()


@pytest.mark.parametrize("protocol", ["spa", "psol_regressor", "wsolevaluation"])
def test_accuracies_are_the_same_at_every_threshold(protocol):
    boxes, sizes, truths = images()
    given, label = of_view(boxes, sizes), torch.arange(len(boxes)) % 3
    classes = torch.stack([label * (label > 1), (label + 1) % 3], 1)
    accuracy = BoxAccuracy(protocol)
    for part in torch.arange(len(boxes)).split(7):
        some = GivenBoxes(boxes[part], given.shown_sizes[part], sizes[part])
        accuracy.update_given_boxes(some, [truths[n] for n in part], label[part], classes[part])
    found = accuracy.compute()
    right = given.hits(truths, accuracy.protocol)[:, accuracy.protocol.iou_thresholds.index(0.5)]
    assert found["gt_known_loc"] == 100 * right.sum().item() / len(boxes)
    assert found["top1_loc"] == 100 * (right & (label != 1)).sum().item() / len(boxes)
    assert len(set(found["curves"]["gt_known_loc"])) == 1
    assert found["images"] == len(boxes)
    whole = given.on_whole_images(accuracy.protocol)
    levels = whole.hits(truths, get_protocol("wsolevaluation"), [0.3, 0.5, 0.7]).double().mean(0) * 100
    assert [found[name] for name in ("iou30", "iou50", "iou70")] == pytest.approx(levels.tolist())  # means in two ways
    assert found["max_box_acc"] == found["iou50"]


def test_a_crop_is_measured_by_maxboxacc_where_it_lies_in_the_image():
    """The crop's whole is the central 224 of 256: of a 256 x 256 image the box (16, 16, 240, 240)."""
    given = of_view(torch.tensor([[0, 0, SIDE, SIDE]]), torch.tensor([[256, 256]]))
    accuracy = BoxAccuracy("psol_regressor")
    accuracy.update_given_boxes(given, [torch.tensor([[16.0, 16.0, 240.0, 240.0]])])
    assert accuracy.compute()["iou70"] == 100
    moved = given.on_whole_images(get_protocol("psol_regressor"))
    assert moved.boxes.tolist() == [[16.0, 16.0, 240.0, 240.0]]


def test_a_box_that_ends_before_it_begins_is_a_miss():
    given = of_view(torch.tensor([[50.0, 50.0, 40.0, 60.0]]), torch.tensor([[100, 100]]))
    assert not given.hits([torch.tensor([[10.0, 10.0, 90.0, 90.0]])], get_protocol("csoa"), [0.0]).item()


def test_no_image_is_no_error():
    none = GivenBoxes(torch.zeros(0, 4), torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64))
    assert none.hits([], get_protocol("spa")).shape == (0, 1)
    assert none.error_kinds([], torch.zeros(0, dtype=torch.bool), get_protocol("spa")).shape == (0,)
    assert none.in_images(get_protocol("spol")).shape == (0, 4)


def test_what_does_not_fit_is_refused():
    size = torch.tensor([[8, 8]])
    with pytest.raises(
        ValueError, match=r"GivenBoxes: expected boxes \[N, 4\] of real numbers, got torch.float32 \[4\]"
    ):
        GivenBoxes(torch.zeros(4), size, size)
    with pytest.raises(ValueError, match="expected image_sizes as 2 pairs"):
        GivenBoxes(torch.zeros(2, 4), size, size)
    given = GivenBoxes(torch.zeros(1, 4), size, size)
    with pytest.raises(ValueError, match="1 given boxes, but true boxes of 2 images"):
        given.hits([torch.tensor([[0, 0, 4, 4]])] * 2, get_protocol("spa"))
    with pytest.raises(ValueError, match="image 0 has no true box"):
        given.hits([torch.zeros(0, 4)], get_protocol("spa"))
