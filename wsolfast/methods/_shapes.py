"""Shapes in closed form: a soft mask that is differentiable in their parameters, and the box around them.

Parameters [N, 4 or 5] are shares: centre (x, y), extents along the two axes of the shape, and of a turned one φ in
[0, 1] for an angle of π(φ - 1/2). x and y run from 0 to 1, and corners are the centres of the corner pixels.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Shape = Literal["rectangle", "rotated_rectangle", "ellipse"]

PARAMETERS: dict[Shape, int] = {"rectangle": 4, "rotated_rectangle": 5, "ellipse": 5}
# Least A and B, by which the mask divides: one pixel of 224.
LEAST_EXTENT = 1 / 224


def shape_mask(parameters: Tensor, shape: Shape, sharpness: Tensor, size: Sequence[int]) -> Tensor:
    r"""Return soft masks [N, H, W]: 1/2 on the edge of the shape, more inside, and nowhere 0 or 1.

    .. math:: m = \tfrac{1}{2} - \tfrac{1}{\pi} \arctan(s (q - 1))

    with q of :func:`shape_level`.

    Args:
        parameters (Tensor[N, 4 or 5]): of the shapes.
        shape: what they are parameters of.
        sharpness (Tensor[]): s.
        size: (H, W).
    """
    return 0.5 - torch.atan(sharpness * (shape_level(parameters, shape, size) - 1)) / math.pi


def shape_level(parameters: Tensor, shape: Shape, size: Sequence[int]) -> Tensor:
    r"""Return q [N, H, W], which is below 1 inside of the shape, 1 on its edge and grows outwards.

    .. math:: q = \left(\tfrac{u}{A}\right)^2 + \left(\tfrac{w}{B}\right)^2, \qquad
        q = 2 \max\left(\tfrac{|u|}{A}, \tfrac{|w|}{B}\right)

    of an ellipse and of a rectangle: A and B are half the extents of the ellipse, and those of the rectangle. (u, w) is
    the place as seen from the centre. A rectangle turns the other way than an ellipse: as released.

    Args:
        parameters, shape, size: as for :func:`shape_mask`.
    """
    height, width = size
    ys, xs = (torch.linspace(0, 1, side, device=parameters.device, dtype=parameters.dtype) for side in (height, width))
    dx = (xs - parameters[:, :1])[:, None, :]
    dy = (ys - parameters[:, 1:2])[:, :, None]
    cos, sin = (one[:, None, None] for one in _direction(parameters))
    along, across = (one[:, None, None] for one in _axes(parameters, shape))
    if shape == "ellipse":
        return ((dx * cos + dy * sin) / along).square() + ((dx * sin - dy * cos) / across).square()
    if shape == "rotated_rectangle":
        dx, dy = dx * cos - dy * sin, dx * sin + dy * cos
    return 2 * torch.maximum((dx / along).abs(), (dy / across).abs())


def shape_half_extents(parameters: Tensor, shape: Shape) -> Tensor:
    r"""Return half the width and half the height [N, 2] of the box around each shape, as shares.

    .. math:: \sqrt{A^2 \cos^2 + B^2 \sin^2}, \sqrt{A^2 \sin^2 + B^2 \cos^2} \quad\text{and}\quad
        \tfrac{1}{2} (A |\cos| + B |\sin|), \tfrac{1}{2} (A |\sin| + B |\cos|)

    of an ellipse and of a turned rectangle: the sense in which it is turned does not matter.

    Args:
        parameters, shape: as for :func:`shape_mask`.
    """
    cos, sin = _direction(parameters)
    along, across = _axes(parameters, shape)
    if shape == "ellipse":
        return torch.stack([torch.hypot(along * cos, across * sin), torch.hypot(along * sin, across * cos)], dim=1)
    cos, sin = cos.abs(), sin.abs()
    return torch.stack([along * cos + across * sin, along * sin + across * cos], dim=1) / 2


def with_full_extents(parameters: Tensor) -> Tensor:
    """Return parameters [N, 4 or 5] whose extents are twice as large: of a shape that is described by halves."""
    return torch.cat([parameters[:, :2], 2 * parameters[:, 2:4], parameters[:, 4:]], dim=1)


def shape_boxes(parameters: Tensor, shape: Shape, size: Sequence[int]) -> Tensor:
    """Return boxes [N, 4] around the shapes: (x0, y0, x1, y1) in pixels of an image of ``size``, not clipped.

    A share is multiplied by the number of pixels, as released.

    Args:
        parameters, shape, size: as for :func:`shape_mask`.
    """
    centre, half = parameters[:, :2], shape_half_extents(parameters, shape)
    return to_pixels(torch.cat([centre - half, centre + half], dim=1), size)


def to_pixels(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Return boxes [N, 4], xyxy in shares of an image of ``size`` (H, W), in pixels of it."""
    height, width = size
    # Number by number: a tensor of them would be copied to the device, and the host would wait for that.
    sides = zip(boxes.unbind(1), (width, height, width, height), strict=True)
    return torch.stack([share * pixels for share, pixels in sides], dim=1)


def _direction(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [N] of the angle; those of 0 where there is none."""
    if parameters.shape[1] == PARAMETERS["rectangle"]:
        return torch.ones_like(parameters[:, 0]), torch.zeros_like(parameters[:, 0])
    angle = math.pi * (parameters[:, 4] - 0.5)
    return angle.cos(), angle.sin()


def _axes(parameters: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Return A and B [N], at least one pixel of 224 and with the gradient of the extents even there.

    Without a gradient, a shape that is too small once would stay so.
    """
    extents = parameters[:, 2:4] / 2 if shape == "ellipse" else parameters[:, 2:4]
    along, across = (extents + (LEAST_EXTENT - extents).relu().detach()).unbind(1)
    return along, across
