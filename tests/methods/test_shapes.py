import math

import pytest
import torch

from wsolfast.methods._shapes import LEAST_EXTENT, PARAMETERS, shape_boxes, shape_half_extents, shape_level, shape_mask
from wsolfast.testing import assert_close

SHAPES = ["rectangle", "rotated_rectangle", "ellipse"]
SHARPNESS = torch.tensor(10.0, dtype=torch.float64)


def parameters(shape, *values):
    """One shape, the angle in degrees last."""
    *shares, degrees = values
    shares += [degrees / 180 + 0.5] if PARAMETERS[shape] == 5 else []
    return torch.tensor([shares], dtype=torch.float64)


def drawn(shape, count=20):
    """Shapes of all sizes, some of them beyond the image."""
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, PARAMETERS[shape], generator=generator, dtype=torch.float64)


def level_by_loop(values, shape, size):
    """q of one shape, position by position, by the corners of the shape's own frame."""
    height, width = size
    x0, y0, along, across, *angle = values.tolist()
    turn = math.pi * (angle[0] - 0.5) if angle else 0.0
    found = torch.empty(height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            dx = column / max(1, width - 1) - x0
            dy = row / max(1, height - 1) - y0
            if shape == "ellipse":
                u = dx * math.cos(turn) + dy * math.sin(turn)
                w = dx * math.sin(turn) - dy * math.cos(turn)
                a, b = max(along / 2, LEAST_EXTENT), max(across / 2, LEAST_EXTENT)
                found[row, column] = (u / a) ** 2 + (w / b) ** 2
            else:
                u = dx * math.cos(turn) - dy * math.sin(turn)
                w = dx * math.sin(turn) + dy * math.cos(turn)
                a, b = max(along, LEAST_EXTENT), max(across, LEAST_EXTENT)
                # As it is written in the released code, which is twice the larger share.
                found[row, column] = abs(u / a + w / b) + abs(u / a - w / b)
    return found


def outline(values, shape, count=20001):
    """Points of the edge [2, count] of one shape, drawn along it."""
    x0, y0, along, across, *angle = values.tolist()
    turn = math.pi * (angle[0] - 0.5) if angle else 0.0
    t = torch.linspace(0, 2 * math.pi, count, dtype=torch.float64)
    u, w = t.cos(), t.sin()
    if shape == "ellipse":
        u, w = u * along / 2, w * across / 2
        return torch.stack([x0 + u * math.cos(turn) + w * math.sin(turn), y0 + u * math.sin(turn) - w * math.cos(turn)])
    reach = torch.maximum(u.abs(), w.abs())
    u, w = u / reach * along / 2, w / reach * across / 2
    return torch.stack([x0 + u * math.cos(turn) + w * math.sin(turn), y0 - u * math.sin(turn) + w * math.cos(turn)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(9, 14), (1, 1), (1, 6)])
def test_levels_are_those_of_the_loop_over_positions(shape, size):
    shapes = drawn(shape, 5)
    shapes[0, 2] = 1e-4
    expected = torch.stack([level_by_loop(one, shape, size) for one in shapes])
    # Both divide by extents down to 1/224: rounding relative to the largest level.
    torch.testing.assert_close(shape_level(shapes, shape, size), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_are_the_published_values_at_the_centre_and_on_the_edge(shape):
    values = parameters(shape, 0.5, 0.5, 0.5, 0.25, 0)
    mask = shape_mask(values, shape, SHARPNESS, (65, 65))[0]
    assert mask[32, 32].item() == pytest.approx(0.968274, abs=5e-7)  # six digits are given
    # Exact in binary: a quarter of 64 columns and an eighth of 64 rows from the centre.
    assert mask[32, 16].item() == pytest.approx(0.5, abs=1e-12)  # an angle of 0 is exact but for rounding
    assert mask[24, 32].item() == pytest.approx(0.5, abs=1e-12)  # the same


def test_the_corner_of_a_small_ellipse_keeps_a_tail():
    values = parameters("ellipse", 0.5, 0.5, 0.6, 0.6, 0)
    mask = shape_mask(values, "ellipse", SHARPNESS, (224, 224))
    assert mask[0, 0, 0].item() == pytest.approx(0.007, abs=5e-5)  # .7 % is given


def test_half_extents_of_the_ellipse_are_the_published_ones():
    values = parameters("ellipse", 0.5, 0.5, 0.4, 0.2, 30)
    found = shape_half_extents(values, "ellipse")[0].tolist()
    assert found == pytest.approx([0.180278, 0.132288], abs=5e-7)  # six digits are given


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_hold_the_outline_and_touch_it(shape):
    shapes = drawn(shape)
    shapes[:, 2:4] = shapes[:, 2:4].clamp(min=2 * LEAST_EXTENT)
    for values in shapes:
        x, y = outline(values, shape)
        expected = torch.stack([x.min() * 300, y.min() * 200, x.max() * 300, y.max() * 200])
        (box,) = shape_boxes(values[None], shape, (200, 300))
        # Between two of 20,000 points lies less than a hundredth of a pixel of the way to a corner.
        torch.testing.assert_close(box, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_are_those_of_rasterised_masks(shape):
    shapes = parameters(shape, 0.45, 0.5, 0.4, 0.25, 25).repeat(3, 1)
    shapes[1, 2:4] = torch.tensor([0.1, 0.5])
    shapes[2, :2] = torch.tensor([0.3, 0.6])
    side = 1001
    inside = shape_mask(shapes, shape, SHARPNESS, (side, side)) > 0.5
    for mask, half, values in zip(inside, shape_half_extents(shapes, shape), shapes, strict=True):
        rows, columns = mask.any(1).nonzero() / (side - 1), mask.any(0).nonzero() / (side - 1)
        low = torch.stack([columns.min(), rows.min()]).double()
        high = torch.stack([columns.max(), rows.max()]).double()
        # The last position inside lies within two of 1000 steps of the edge, also at the tip of an ellipse.
        torch.testing.assert_close(low, values[:2] - half, rtol=0, atol=0.002)
        torch.testing.assert_close(high, values[:2] + half, rtol=0, atol=0.002)


def test_a_rectangle_turns_the_other_way_than_an_ellipse():
    """At 30 degrees, y down, the long axis of the ellipse falls to the right and the rectangle's rises."""
    values = parameters("ellipse", 0.5, 0.5, 0.9, 0.1, 30)
    below, above = (0.5 + 0.3, 0.5 + 0.3 * math.tan(math.pi / 6)), (0.5 + 0.3, 0.5 - 0.3 * math.tan(math.pi / 6))
    for shape, inside, outside in (("ellipse", below, above), ("rotated_rectangle", above, below)):
        level = shape_level(values, shape, (1001, 1001))[0]
        assert level[round(inside[1] * 1000), round(inside[0] * 1000)] < 1
        assert level[round(outside[1] * 1000), round(outside[0] * 1000)] > 1


@pytest.mark.parametrize("shape", ["rotated_rectangle", "ellipse"])
def test_a_turn_of_ninety_degrees_exchanges_the_extents(shape):
    turned = shape_half_extents(parameters(shape, 0.5, 0.5, 0.4, 0.2, 90), shape)
    assert_close(turned, shape_half_extents(parameters(shape, 0.5, 0.5, 0.2, 0.4, 0), shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_masks_are_those_of_differences(shape):
    shapes = drawn(shape, 3).requires_grad_()
    sharpness = SHARPNESS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values, s: shape_mask(values, shape, s, (5, 7)), (shapes, sharpness))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_vanished_shape_is_finite_and_can_grow(shape):
    shapes = torch.full((2, PARAMETERS[shape]), 0.5)
    shapes[0, 2:4] = 0
    shapes = shapes.requires_grad_()
    mask = shape_mask(shapes, shape, torch.tensor(10.0), (16, 16))
    mask.sum().backward()
    assert mask.isfinite().all()
    assert shapes.grad.isfinite().all()
    assert (shapes.grad[0, 2:4] > 0).all()
    least = LEAST_EXTENT * (1 if shape == "ellipse" else 0.5)
    assert shape_half_extents(shapes.detach(), shape)[0].tolist() == pytest.approx([least, least])


@pytest.mark.parametrize("shape", SHAPES)
def test_no_images_are_no_masks_and_no_boxes(shape):
    none = torch.empty(0, PARAMETERS[shape])
    assert shape_mask(none, shape, torch.tensor(10.0), (3, 4)).shape == (0, 3, 4)
    assert shape_boxes(none, shape, (3, 4)).shape == (0, 4)
