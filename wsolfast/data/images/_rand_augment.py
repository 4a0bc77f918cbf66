"""RandAugment: some of sixteen distortions in a row, all of one magnitude.

Cubuk et al., CVPR Workshops 2020, with the operations and ranges of the PyTorch port that KG-CI-CAM trains with. Traps
of that port, which are kept: a magnitude is a place in an operation's range whatever that means there, so contrast,
colour, brightness and sharpness *fall* at magnitudes below 15; at 10 ``posterize`` leaves one bit; ``solarize_add``
adds to all pixels and inverts the bright ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

DRAWS = 3  # per operation: which one and its sign, and where cutout looks
MAGNITUDES = 30
_GREY = (125, 123, 114)


def rand_augment(image: Tensor, count: int, magnitude: int, draws: Sequence[int]) -> Tensor:
    """Apply ``count`` operations to an image.

    Args:
        image (Tensor[3, H, W]): uint8, RGB.
        count: how many, with replacement.
        magnitude: 0 to 30.
        draws: ``DRAWS`` 64-bit integers for each.

    Returns:
        Tensor[3, H, W]: uint8.
    """
    names, picture = list(OPERATIONS), Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    for n in range(count):
        choice, across, down = draws[n * DRAWS : (n + 1) * DRAWS]
        name = names[choice % len(names)]
        places = (across * 2.0**-64, down * 2.0**-64)
        picture = distort(picture, name, magnitude, -1 if choice >> 63 else 1, places)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def distort(
    picture: Image.Image, name: str, magnitude: int, sign: int = 1, place: tuple[float, float] = (0.5, 0.5)
) -> Image.Image:
    """Apply one operation.

    Args:
        name: one of ``OPERATIONS``.
        sign: -1 turns, shears and moves the other way.
        place: centre of the cutout, as shares of width and height.
    """
    weakest, strongest, operation = OPERATIONS[name]
    value = magnitude / MAGNITUDES * (strongest - weakest) + weakest
    if name == "cutout":
        return _cutout(picture, value, place)
    return operation(picture, value * sign if name in _SIGNED else value)


def _affine(picture: Image.Image, *matrix: float) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix)


def _solarize_add(picture: Image.Image, value: float) -> Image.Image:
    brighter = np.clip(np.asarray(picture).astype(np.int64) + int(value), 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(brighter), 128)


def _cutout(picture: Image.Image, side: float, place: tuple[float, float]) -> Image.Image:
    if side <= 0:
        return picture
    corner = [int(max(0, share * size - side / 2)) for share, size in zip(place, picture.size, strict=True)]
    end = [min(size, start + side) for start, size in zip(corner, picture.size, strict=True)]
    picture = picture.copy()
    ImageDraw.Draw(picture).rectangle((*corner, *end), _GREY)
    return picture


def _enhance(enhancer: type) -> Callable[[Image.Image, float], Image.Image]:
    return lambda picture, value: enhancer(picture).enhance(value)


# Value at magnitude 0, at 30, and what is done with it.
OPERATIONS: dict[str, tuple[float, float, Callable[..., Image.Image]]] = {
    "autocontrast": (0, 1, lambda picture, _: ImageOps.autocontrast(picture)),
    "equalize": (0, 1, lambda picture, _: ImageOps.equalize(picture)),
    "invert": (0, 1, lambda picture, _: ImageOps.invert(picture)),
    "rotate": (0, 30, lambda picture, degrees: picture.rotate(degrees)),
    "posterize": (0, 4, lambda picture, bits: ImageOps.posterize(picture, max(1, int(bits)))),
    "solarize": (0, 256, ImageOps.solarize),
    "solarize_add": (0, 110, _solarize_add),
    "color": (0.1, 1.9, _enhance(ImageEnhance.Color)),
    "contrast": (0.1, 1.9, _enhance(ImageEnhance.Contrast)),
    "brightness": (0.1, 1.9, _enhance(ImageEnhance.Brightness)),
    "sharpness": (0.1, 1.9, _enhance(ImageEnhance.Sharpness)),
    "shear_x": (0, 0.3, lambda picture, slope: _affine(picture, 1, slope, 0, 0, 1, 0)),
    "shear_y": (0, 0.3, lambda picture, slope: _affine(picture, 1, 0, 0, slope, 1, 0)),
    "cutout": (0, 40, _cutout),
    "translate_x": (0, 100, lambda picture, pixels: _affine(picture, 1, 0, pixels, 0, 1, 0)),
    "translate_y": (0, 100, lambda picture, pixels: _affine(picture, 1, 0, 0, 0, 1, pixels)),
}
_SIGNED = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
