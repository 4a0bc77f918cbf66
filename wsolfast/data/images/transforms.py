"""Image geometry: resize, crop, flip, ten crops, and the way back from a view to its image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsolfast.data.errors import DataError
from wsolfast.data.images._rand_augment import DRAWS, MAGNITUDES, rand_augment
from wsolfast.data.images.decode import MAX_PIXELS

# View.resize and View.keep_aspect: what the resized whole image depends on, besides the image.
Size = tuple[int | tuple[int, int] | None, bool]

# The crop's top and left and the flip; then four for each of ten attempts at an area.
_FLIP_DRAWS = 3
_CROP_DRAWS = _FLIP_DRAWS + 4 * 10


@dataclass(frozen=True)
class Placement:
    """Place of a view in its image: ``x_view = scale_x * x - offset_x``, then mirrored if ``flip``; y likewise.

    Coordinates are continuous, pixel i spans [i, i + 1).
    """

    image_size: tuple[int, int]  # (width, height) of the image
    view_size: tuple[int, int]  # (width, height) of the view
    scale: tuple[float, float]  # (x, y), view pixels per image pixel
    offset: tuple[float, float]  # (x, y), view pixels cut off at the left and the top
    flip: bool = False

    @property
    def resized_size(self) -> tuple[int, int]:
        """(width, height) of the whole image at the scale of the view, before the crop."""
        width, height = (round(size * scale) for size, scale in zip(self.image_size, self.scale, strict=True))
        return width, height

    def cut(self, whole: Tensor) -> Tensor:
        """Crop and mirror a map [..., height, width] over the whole resized image as the image was.

        Crops of a random area start between the map's pixels: there the map follows to a pixel.
        """
        width, height = self.view_size
        left, top = (
            min(round(start), size - side)
            for start, size, side in zip(self.offset, (whole.shape[-1], whole.shape[-2]), self.view_size, strict=True)
        )
        view = whole[..., top : top + height, left : left + width]
        return view.flip(-1) if self.flip else view

    def boxes_to_view(self, boxes: Tensor) -> Tensor:
        """Return ``boxes`` [..., 4] xyxy of the image in pixels of the view, not clipped."""
        x0, y0, x1, y1 = boxes.to(torch.float64).unbind(-1)
        (scale_x, scale_y), (offset_x, offset_y) = self.scale, self.offset
        x0, x1 = x0 * scale_x - offset_x, x1 * scale_x - offset_x
        if self.flip:
            x0, x1 = self.view_size[0] - x1, self.view_size[0] - x0
        return torch.stack([x0, y0 * scale_y - offset_y, x1, y1 * scale_y - offset_y], dim=-1)

    def boxes_shown(self, boxes: Tensor) -> Tensor:
        """Return the part of ``boxes`` [..., 4] xyxy of the image that the view shows, in pixels of the view.

        A box of which it shows nothing ends where it begins, at a side of the view.
        """
        width, height = self.view_size
        return self.boxes_to_view(boxes).clamp(min=0).minimum(torch.tensor([width, height] * 2, dtype=torch.float64))

    def boxes_to_image(self, boxes: Tensor) -> Tensor:
        """Return ``boxes`` [..., 4] xyxy of the view in pixels of the image, not clipped."""
        x0, y0, x1, y1 = boxes.to(torch.float64).unbind(-1)
        if self.flip:
            x0, x1 = self.view_size[0] - x1, self.view_size[0] - x0
        (scale_x, scale_y), (offset_x, offset_y) = self.scale, self.offset
        return torch.stack(
            [
                (x0 + offset_x) / scale_x,
                (y0 + offset_y) / scale_y,
                (x1 + offset_x) / scale_x,
                (y1 + offset_y) / scale_y,
            ],
            dim=-1,
        )

    def maps_to_image(self, maps: Tensor) -> Tensor:
        """Bring maps [N, h, w] over the view to [N, height, width] over the image, bilinear, 0 outside the view."""
        width, height = self.image_size
        x = ((torch.arange(width, dtype=torch.float64) + 0.5) * self.scale[0] - self.offset[0]) / self.view_size[0]
        y = ((torch.arange(height, dtype=torch.float64) + 0.5) * self.scale[1] - self.offset[1]) / self.view_size[1]
        inside = ((y >= 0) & (y < 1))[:, None] & ((x >= 0) & (x < 1))[None, :]  # [height, width]
        grid_y, grid_x = torch.meshgrid(y * 2 - 1, (1 - x if self.flip else x) * 2 - 1, indexing="ij")
        grid = torch.stack([grid_x, grid_y], dim=-1).to(maps).expand(len(maps), -1, -1, -1)
        sampled = F.grid_sample(maps[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
        return sampled * inside.to(maps.device)


@dataclass(frozen=True)
class View:
    """Way of an image to a tensor: resize, in training perhaps distort, then crop, then perhaps mirror.

    Args:
        resize: one side or (height, width) that the whole image is warped to; None keeps its size.
        crop: side of the square crop, random in training and central otherwise; None takes everything.
        train: random crop and horizontal flip with probability 1/2.
        keep_aspect: ``resize`` is the shorter side and the image keeps its aspect ratio.
        crop_area: in training the crop is a rectangle whose share of the area lies between these two and whose aspect
            ratio is 3/4 to 4/3, resized to ``crop``: torchvision's RandomResizedCrop.
        rand_augment: in training, how many operations of what magnitude (0 to 30) distort the whole image, see
            :mod:`wsolfast.data.images._rand_augment`.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    train: bool = False
    keep_aspect: bool = False
    crop_area: tuple[float, float] | None = None
    rand_augment: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        sides = (self.resize,) if isinstance(self.resize, int) else tuple(self.resize or ())
        pair = not sides or isinstance(self.resize, int) or len(sides) == 2
        if not pair or any(not isinstance(side, int) or side < 1 for side in sides):
            raise ValueError(f"resize: expected a positive side, (height, width) or None, got {self.resize!r}")
        if self.keep_aspect and not isinstance(self.resize, int):
            raise ValueError(f"keep_aspect: resize is then the shorter side, one integer; got {self.resize!r}")
        if self.crop is not None and (self.crop < 1 or any(self.crop > side for side in sides)):
            raise ValueError(f"crop: expected 1 <= crop <= resize, got crop={self.crop} with resize={self.resize}")
        area, distortions = self.crop_area, self.rand_augment
        if area is not None and (self.crop is None or len(area) != 2 or not 0 < area[0] <= area[1] <= 1):
            raise ValueError(f"crop_area: expected a crop and two shares, 0 < least <= most <= 1, got {area!r}")
        if distortions is not None and (
            len(distortions) != 2 or distortions[0] < 0 or not 0 <= distortions[1] <= MAGNITUDES
        ):
            raise ValueError(f"rand_augment: expected how many, and a magnitude of 0 to 30, got {distortions!r}")

    @property
    def draws(self) -> int:
        """Number of 64-bit integers that a view of an image takes; none outside of training."""
        if not self.train:
            return 0
        if self.rand_augment is not None:
            return _CROP_DRAWS + self.rand_augment[0] * DRAWS
        return _FLIP_DRAWS if self.crop_area is None else _CROP_DRAWS

    @property
    def size(self) -> Size:
        """All that :meth:`warp` depends on, besides the image."""
        side = self.resize
        return (side if side is None or isinstance(side, int) else (side[0], side[1])), self.keep_aspect

    def __call__(self, pixels: np.ndarray, draws: list[int], name: str) -> tuple[Tensor, Placement]:
        """Make the view of one image: :meth:`warp`, then :meth:`cut`.

        Args:
            pixels: uint8 array [H, W, 3].
            draws: 64-bit integers, :attr:`draws` of them: for the crop's top, its left and the flip, for the crop's
                area, and for the distortions.
            name: what an error calls the image.

        Returns:
            uint8 tensor [3, h, w], contiguous, and where it lies in the image.
        """
        return self.cut(self.warp(pixels, name), (pixels.shape[1], pixels.shape[0]), draws, name)

    def warp(self, pixels: np.ndarray, name: str = "image") -> Tensor:
        """Resize the whole image: what :meth:`cut` takes from, and all that depends on nothing random.

        Args:
            pixels: uint8 array [H, W, 3].
            name: what an error calls the image.

        Returns:
            uint8 tensor [3, h, w].

        Raises:
            DataError: if the image is so long that, at this shorter side, it would exceed ``MAX_PIXELS``.
        """
        self.check_length((pixels.shape[1], pixels.shape[0]), name)
        return resize(torch.from_numpy(pixels).permute(2, 0, 1), self._target(*pixels.shape[:2]))

    def show(self, images: Tensor) -> Tensor:
        """Make the views of decoded images of one size where they lie: nothing is drawn, so crops are central.

        On a device they are resized in float32, and so up to a level of 255 away from a CPU's, which rounds twice.

        Args:
            images (Tensor[N, 3, H, W]): uint8, that :meth:`check_length` has looked at.

        Returns:
            uint8 tensor [N, 3, h, w].

        Raises:
            DataError: if the images are smaller than the crop.
        """
        height, width = images.shape[-2:]
        return self.cut(resize(images, self._target(height, width)), (width, height), [], "image")[0]

    def check_length(self, size: tuple[int, int], name: str) -> None:
        """Refuse an image that :meth:`warp` would enlarge beyond ``MAX_PIXELS``.

        Args:
            size: (width, height) of the image.
            name: what an error calls the image.

        Raises:
            DataError: if it is so long at this shorter side.
        """
        width, height = size
        rows, columns = self._target(height, width)
        if self.keep_aspect and rows * columns > MAX_PIXELS:
            raise DataError(
                f"{name}: {width}x{height} px with data.keep_aspect becomes {columns}x{rows}, over the limit of "
                f"{MAX_PIXELS} px",
                advice="leave it out (--skip-bad) or warp it",
            )

    def cut(self, whole: Tensor, image_size: tuple[int, int], draws: list[int], name: str) -> tuple[Tensor, Placement]:
        """Cut the view from what :meth:`warp` gave: all that is random.

        Args:
            whole (Tensor[..., 3, H, W]): uint8; several only where nothing is resampled or distorted.
            image_size: (width, height) of the image.
            draws: as for a call; without any the crop is the central one and nothing is mirrored.
            name: the same.

        Returns:
            uint8 tensor [..., 3, h, w], contiguous, and where it lies in the image.

        Raises:
            DataError: if the image is smaller than the crop.
        """
        rows, columns = whole.shape[-2:]
        if self.crop is not None and self._area is None and min(rows, columns) < self.crop:
            raise DataError(f"{name}: {columns}x{rows} px is smaller than crop={self.crop}; set resize")
        image = whole
        if self.train and self.rand_augment is not None:
            image = rand_augment(image, *self.rand_augment, draws[_CROP_DRAWS:])
        (x, y, w, h), placement = self._place((columns, rows), image_size, draws)
        width, height = placement.view_size
        image = resize(image[..., y : y + h, x : x + w], (height, width))
        return (image.flip(-1) if placement.flip else image).contiguous(), placement

    def shows(self, box: Tensor, whole_size: tuple[int, int], image_size: tuple[int, int], draws: list[int]) -> bool:
        """Return whether :meth:`cut` shows a part of ``box``.

        Args:
            box (Tensor[4]): xyxy, pixels of the image.
            whole_size: (width, height) of what is cut.
            image_size: (width, height) of the image.
            draws: as for :meth:`cut`.
        """
        placement = self._place(whole_size, image_size, draws)[1]
        x0, y0, x1, y1 = placement.boxes_shown(box).tolist()
        return x0 < x1 and y0 < y1

    @property
    def _area(self) -> tuple[float, float] | None:
        """``crop_area`` where it counts, which is in training."""
        return self.crop_area if self.train else None

    def _place(
        self, whole_size: tuple[int, int], image_size: tuple[int, int], draws: list[int]
    ) -> tuple[tuple[int, int, int, int], Placement]:
        """Return the rectangle (x, y, w, h) that is cut from a whole of (width, height), and the place of the view."""
        x, y = 0, 0
        w, h = view_size = whole_size
        if self.crop is not None:
            view_size = (self.crop, self.crop)
            if self._area is not None:
                x, y, w, h = random_area(*whole_size, self._area, draws[_FLIP_DRAWS:_CROP_DRAWS])
            else:
                w, h = view_size
                spare = whole_size[0] - w, whole_size[1] - h
                x, y = _center(spare[0]), _center(spare[1])
                if self.train and draws:
                    y, x = draws[0] % (spare[1] + 1), draws[1] % (spare[0] + 1)
        across, down = view_size[0] / w, view_size[1] / h
        scale = (whole_size[0] / image_size[0] * across, whole_size[1] / image_size[1] * down)
        flip = self.train and bool(draws) and bool(draws[2] & 1)
        return (x, y, w, h), Placement(image_size, view_size, scale, (x * across, y * down), flip)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the whole image after the resize."""
        if self.resize is None:
            return height, width
        if not isinstance(self.resize, int):
            return self.resize
        if self.keep_aspect:
            shorter = min(height, width)
            # Integer floor division, as torchvision rounds the longer side.
            return self.resize * height // shorter, self.resize * width // shorter
        return self.resize, self.resize


def random_area(width: int, height: int, share: tuple[float, float], draws: Sequence[int]) -> tuple[int, int, int, int]:
    """Draw a rectangle (x, y, w, h) of an image as torchvision's RandomResizedCrop does.

    Ten times an area, even between the two shares, and an aspect ratio, log-even between 3/4 and 4/3, are drawn; the
    first rectangle that fits is taken, at an even place. If none does, it is the central one of the nearest ratio.

    Args:
        draws: 64-bit integers, four for each time.
    """
    for k in range(0, len(draws), 4):
        area, ratio = (draw * 2.0**-64 for draw in draws[k : k + 2])
        area = width * height * (share[0] + area * (share[1] - share[0]))
        ratio = math.exp((2 * ratio - 1) * math.log(4 / 3))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return draws[k + 2] % (width - w + 1), draws[k + 3] % (height - h + 1), w, h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Warp ``image`` [..., 3, H, W] uint8 to ``size`` (height, width), antialiased bilinear, Pillow's to a level."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    images = image if image.dim() == 4 else image[None]
    if image.device.type == "cpu":
        resized = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    else:
        resized = resize_as_float(images, size)
    return resized if image.dim() == 4 else resized[0]


def resize_as_float(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Do what :func:`resize` does in float32, rounded once: devices have no such kernel of integers.

    Args:
        images (Tensor[N, 3, H, W]): uint8.
        size: (height, width).

    Returns:
        uint8 tensor [N, 3, height, width].
    """
    resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def ten_crop(images: Tensor, crop: int) -> Tensor:
    """Crop four corners and the centre, then the same five mirrored: the classification views of the papers.

    Args:
        images (Tensor[N, C, H, W]): any dtype, any device.
        crop: side of a crop.

    Returns:
        Tensor[N, 10, C, crop, crop]: top left, top right, bottom left, bottom right, centre; then those of the mirror
        image.

    Raises:
        ValueError: if the images are smaller than ``crop``.
    """
    height, width = images.shape[-2:]
    if crop > min(height, width):
        raise ValueError(f"ten_crop: crop={crop} is larger than the images, {height}x{width}")
    bottom, right = height - crop, width - crop
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (_center(bottom), _center(right))]

    def crops(source: Tensor) -> list[Tensor]:
        return [source[..., top : top + crop, left : left + crop] for top, left in corners]

    return torch.stack(crops(images) + crops(images.flip(-1)), dim=1)


def _center(spare: int) -> int:
    return round(spare / 2)
