"""Images that a user gives, as paths, PIL images, arrays or tensors, as a data set that evaluation's pipeline reads."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from wsolfast import data
from wsolfast.data.images.decode import decode, to_pixels
from wsolfast.engine.run.errors import MissingError, UsageError

GivenImage: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor

# Side of what stands for an unreadable image, whose results nobody reads.
_BLANK = 64


def find_images(words: Iterable[str | Path], leave_out: Iterable[Path] = ()) -> list[Path]:
    """List the image files that ``words`` name.

    Args:
        words: each a file, a folder, whose image files at any depth are taken, or a pattern such as ``photos/*.jpg``,
            where ``**`` stands for any number of folders. A word that is neither is taken for a missing file.
        leave_out: files that folders and patterns are not asked for, such as overlays of an earlier call.

    Returns:
        list[Path]: each file once, in the order of the words; files of a folder or a pattern are sorted.

    Raises:
        MissingError: if none of the files exists, or a folder holds no image.
    """
    asked, hidden = [Path(word) for word in words], {file.resolve() for file in leave_out}
    found: list[Path] = []
    for word in asked:
        if word.is_dir():
            inside = [file for file in sorted(word.rglob("*")) if _is_image(file) and file.resolve() not in hidden]
            if not inside:
                raise MissingError(f"{word}: no image in this folder; give a folder with JPEG, PNG or other images")
            found += inside
        elif not word.exists() and glob.has_magic(str(word)):
            matches = sorted(map(Path, glob.glob(str(word), recursive=True)))
            found += [file for file in matches if file.is_file() and file.resolve() not in hidden]
        else:
            found.append(word)
    if not any(file.is_file() for file in found):
        named = ", ".join(map(str, asked[:3])) or "no path"
        raise MissingError(f"no image at {named}; give the paths of existing files")
    return list(dict.fromkeys(found))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in Image.registered_extensions() and not file.name.startswith(".") and file.is_file()


def as_list(images: GivenImage | Iterable[GivenImage]) -> list[Path | Image.Image | np.ndarray]:
    """Return given images one by one: paths as files, tensors and arrays as uint8 [H, W, 3].

    Args:
        images: one image or several. A path may be a folder or a pattern, see :func:`find_images`. An array is uint8
            [H, W, 3], [H, W] (grey) or a batch [N, H, W, 3]; a tensor is uint8 [3, H, W] or a batch [N, 3, H, W].

    Returns:
        list: files, PIL images and arrays.

    Raises:
        UsageError: if something is none of these, or has another type or shape.
        MissingError: as :func:`find_images`, if paths are given.
    """
    single = isinstance(images, str | Path | Image.Image | np.ndarray | Tensor)
    given: list[Any] = [images] if single else list(images)  # type: ignore[arg-type]  # one image is not iterated over
    found: list[Path | Image.Image | np.ndarray] = []
    for image in given:
        if isinstance(image, str | Path):
            found += find_images([image])
        elif isinstance(image, Image.Image):
            found.append(image)
        elif isinstance(image, Tensor):
            pixels = image.detach().cpu()
            found += _arrays((pixels.movedim(-3, -1) if pixels.ndim in (3, 4) else pixels).numpy())
        elif isinstance(image, np.ndarray):
            found += _arrays(image)
        else:
            raise UsageError(
                f"images: expected paths, PIL images, arrays or tensors, got {type(image).__name__}; convert it"
            )
    return found


def _arrays(pixels: np.ndarray) -> list[np.ndarray]:
    """Split uint8 [H, W], [H, W, 3] or [N, H, W, 3] into images [H, W, 3]."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3 or 0 in pixels.shape[-3:]:
        raise UsageError(
            f"images: got an array of {pixels.dtype} with shape {list(pixels.shape)}; give uint8, as an array "
            "[H, W, 3] or a tensor [3, H, W], not empty"
        )
    return list(pixels) if pixels.ndim == 4 else [pixels]


class _GivenSource(data.Source):
    def __init__(self, images: Sequence[Path | Image.Image | np.ndarray], orient: bool, bits: int | None):
        self.images, self.orient, self.bits = images, orient, bits
        names = [str(one) if isinstance(one, Path) else f"image {k}" for k, one in enumerate(images)]
        self.image_ids, self.labels, self.class_names = names, np.zeros(len(images), np.int64), ("",)

    def read(self, index: int) -> np.ndarray:
        image = self.images[index]
        if isinstance(image, Path):
            return decode(image, orient=self.orient, bits=self.bits)
        if isinstance(image, Image.Image):
            return to_pixels(image, self.orient)
        return np.ascontiguousarray(image)


class GivenImages(data.Dataset):
    """Images of any size, seen through the views of an evaluation; unreadable ones are noted, not raised.

    Args:
        images: what :func:`as_list` returned; at least one.
        view: what the localiser sees.
        wide: what ranks the classes; None if that is ``view``.
        orient: apply the orientation that EXIF data names.
        bits: how many bits the values of 16-bit files have, see :func:`wsolfast.data.images.decode.decode`.

    Attributes:
        sizes: (width, height) by position, of images that were read.
        failures: error by position, of images that could not be read.
    """

    def __init__(
        self,
        images: Sequence[Path | Image.Image | np.ndarray],
        view: data.View,
        wide: data.View | None = None,
        *,
        orient: bool = True,
        bits: int | None = None,
    ):
        self._given = _GivenSource(images, orient, bits)
        super().__init__(self._given, "test", view, wide=wide)
        self.sizes: dict[int, tuple[int, int]] = {}
        self.failures: dict[int, data.DataError] = {}

    def __getitem__(self, index: int) -> data.Sample:
        try:
            sample = super().__getitem__(index)
        except data.DataError as error:
            self.failures[index] = error
            return self._blank(index)
        self.sizes[index] = sample.placement.image_size
        return sample

    def batches(self, batch_size: int) -> list[range]:
        """Cut the images into batches; of one image each where a view leaves them the size that they have."""
        views = [view for view in (self.view, self._wide_view) if view is not None]
        fixed = all(view.crop is not None or (view.resize is not None and not view.keep_aspect) for view in views)
        step = batch_size if fixed else 1
        return [range(start, min(start + step, len(self))) for start in range(0, len(self), step)]

    def picture(self, index: int) -> Image.Image:
        """Return image ``index`` upright, at its own size.

        Raises:
            DataError: if it cannot be read.
        """
        return Image.fromarray(self._given.read(index))

    def _blank(self, index: int) -> data.Sample:
        side = max(_BLANK, *(view.crop or 0 for view in (self.view, self._wide_view) if view is not None), 0)
        pixels, name = np.zeros((side, side, 3), np.uint8), self.image_ids[index]
        image, placement = self.view(pixels, [], name)
        wide = None if self._wide_view is None else self._wide_view(pixels, [], name)[0]
        return data.Sample(image, 0, name, index, placement, wide)
