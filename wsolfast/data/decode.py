"""The one place that decodes images. Everything leaves it as uint8 RGB, upright, or as a :class:`DataError`."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wsolfast.data.errors import DataError

MAX_PIXELS = 89_478_485  # Pillow's own warning level; an image above it is a decompression bomb or not a photograph

_ORIENTATION = 0x0112
_SWAPS_AXES = {5, 6, 7, 8}
_ADVICE = "repair or remove it, or open the data with skip_bad (--skip-bad)"
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def decode(path: Path, decoder: str = "pil", orient: bool = True) -> np.ndarray:
    """Pixels of an image file as RGB.

    Grayscale, palette, CMYK and 16-bit images are converted; transparency is laid over white. The orientation that EXIF
    records is applied, so annotations are those of the upright image.

    Args:
        path: image file.
        decoder: ``"pil"``, or ``"cv2"`` for plain JPEG (bit-identical and faster; other files still go to Pillow).
        orient: False keeps the stored orientation, as loaders that ignore EXIF do.

    Returns:
        uint8 array [H, W, 3].

    Raises:
        DataError: if the file is missing, truncated, not an image, or larger than ``MAX_PIXELS``.
    """
    if decoder == "cv2":
        pixels = _decode_jpeg_with_cv2(path, orient)
        if pixels is not None:
            return pixels
    elif decoder != "pil":
        raise ValueError(f"decoder: expected 'pil' or 'cv2', got {decoder!r}")
    with _open(path) as image:
        try:
            upright = ImageOps.exif_transpose(image) if orient else image
            return np.array(_to_rgb(upright))
        except _UNREADABLE as error:
            raise DataError(f"{path}: cannot be decoded ({error}); {_ADVICE}") from error


def decode_mask(path: Path) -> np.ndarray:
    """Labels of a mask file: 0 background, 1 object, 255 ignore.

    In the file 0 is background, 1 object, and 2 or 255 ignore; a file that holds 255 but no 1 is black and white, and
    its 255 is the object.

    Returns:
        uint8 array [H, W].

    Raises:
        DataError: if the file is missing, broken, not single-channel, or holds other values.
    """
    with _open(path) as image:
        try:
            labels = np.array(image.convert("L") if image.mode == "1" else image)
        except _UNREADABLE as error:
            raise DataError(f"{path}: mask cannot be decoded ({error}); repair it") from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f"{path}: a mask is an 8-bit palette or grayscale image, this one has mode {image.mode}")
    values = set(np.unique(labels).tolist())
    if values - {0, 1, 2, 255}:
        raise DataError(f"{path}: mask values are 0, 1, 2 or 255, found {sorted(values - {0, 1, 2, 255})[:5]}")
    if 255 in values and 1 not in values:
        return (labels == 255).astype(np.uint8)
    return np.where(labels > 1, np.uint8(255), labels)


def decode_grey(path: Path) -> np.ndarray:
    """Grey levels of a mask file of one object, uint8 [H, W].

    Raises:
        DataError: if the file is missing or broken.
    """
    with _open(path) as image:
        try:
            return np.array(image.convert("L"))
        except _UNREADABLE as error:
            raise DataError(f"{path}: mask cannot be decoded ({error}); repair it") from error


def image_size(path: Path, orient: bool = True) -> tuple[int, int]:
    """(width, height) from the file's header, as :func:`decode` would return it; no pixel is decoded."""
    with _open(path) as image:
        width, height = image.size
        return (height, width) if orient and _orientation(image) in _SWAPS_AXES else (width, height)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file; restore it or remove it from the annotations") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image; {_ADVICE}") from None
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({error}); {_ADVICE}") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise DataError(f"{path}: {image.width}x{image.height} px is over the limit of {MAX_PIXELS} px; shrink it")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except _UNREADABLE:  # a broken EXIF block does not make the pixels unreadable
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"{image.mode!r} pixels have no defined range; store it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _decode_jpeg_with_cv2(path: Path, orient: bool) -> np.ndarray | None:
    """RGB pixels of a complete grayscale or YCbCr JPEG; None for every other file."""
    try:
        import cv2
    except ImportError:
        raise DataError("decoder='cv2' needs OpenCV: pip install 'wsolfast[fast]'") from None
    with _open(path) as image:
        if image.format != "JPEG" or image.mode not in ("L", "RGB"):
            return None
        orientation = _orientation(image) if orient else 1
    encoded = path.read_bytes()
    # OpenCV fills the missing part of a truncated file with grey and says nothing: those go to Pillow, which reports.
    if orientation != 1 or not encoded.endswith(b"\xff\xd9"):
        return None
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
