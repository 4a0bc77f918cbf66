"""The one place that decodes images. Everything leaves it as uint8 RGB, upright, or as a :class:`DataError`."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from wsolfast.data.errors import DataError
from wsolfast.data.images import _jpeg
from wsolfast.data.images._jpeg import DECODERS, Decoder, chosen

__all__ = [
    "DECODERS",
    "MAX_PIXELS",
    "Bits",
    "Decoder",
    "Encoded",
    "PlainJpeg",
    "chosen",
    "decode",
    "decode_grey",
    "decode_labels",
    "decode_mask",
    "image_format",
    "image_size",
    "plain_jpeg",
    "to_pixels",
]

Bits = Literal[10, 12, 14, 16]

MAX_PIXELS = 89_478_485  # Pillow's own warning level; an image above it is a decompression bomb or not a photograph

_TWELVE_BITS = 1 << 12
_ORIENTATION = 0x0112
_MAX_SAMPLE_VALUE = 281
_SWAPS_AXES = {5, 6, 7, 8}
_ADVICE = "repair or remove it, or open the data with skip_bad (--skip-bad)"
_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INVERSE = {6: 8, 8: 6}  # every other turn undoes itself


@dataclass(frozen=True)
class Encoded:
    """An image file's bytes where there is no file: a member of an archive, a cell of a table."""

    content: bytes = field(repr=False)
    name: str  # what an error calls it

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class PlainJpeg:
    """A JPEG file that any decoder reads: upright, 8 bits, gray or the usual colours, Huffman-coded, complete."""

    content: Tensor = field(repr=False)  # uint8 [bytes]
    width: int
    height: int


def decode(file: Path | Encoded, decoder: Decoder = "auto", orient: bool = True, bits: int | None = None) -> np.ndarray:
    """Decode an image file to RGB.

    Grayscale, palette, CMYK and 16-bit images are converted; transparency is laid over white. The orientation that EXIF
    records is applied, so annotations are those of the upright image.

    Of 16-bit values the upper 8 of ``bits`` are kept. A file of 16 bits that uses 12 of them at most is a dark image,
    or one of 12 bits that nobody stretched: where neither ``bits`` nor the file itself says which, it is refused.

    Args:
        file: image file.
        decoder: what decodes plain JPEG data; every other file is Pillow's. ``"pil"`` and ``"simplejpeg"`` give the
            same bits, and ``"auto"`` is the faster one where it is installed.
        orient: False keeps the stored orientation, as loaders that ignore EXIF do.
        bits: how many bits the values of a 16-bit file have, 10, 12, 14 or 16; None believes the file, and refuses what
            may be either.

    Returns:
        uint8 array [H, W, 3].

    Raises:
        DataError: if the file is missing, truncated, not an image, or larger than ``MAX_PIXELS``, its values may be of
            12 bits or have more than ``bits``, or the decoder is not installed.
        ValueError: for an unknown decoder.
    """
    if chosen(decoder) == "simplejpeg":
        file = _read(file)
        if _plain_header(file, orient):
            pixels = _jpeg.decode_jpeg(file.content)
            if pixels is not None:
                return pixels
    with _open(file) as image:
        try:
            # The tiles are gone when it is loaded.
            deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
            if deep or image.mode.startswith("I;16"):
                bits = _bits_of(image, file, bits)
            return np.array(_to_rgb(_turn(image, orient), deep, bits))
        except _RangeUnknown as error:
            raise DataError(f"{file}: {error}") from None
        except Exception as error:  # Pillow's plugins raise whatever the bytes lead them to
            raise DataError(f"{file}: cannot be decoded ({_words(error)})", advice=_ADVICE) from error


def plain_jpeg(file: Path | Encoded, orient: bool = True) -> PlainJpeg | None:
    """Read a file that another decoder may be given in place of :func:`decode`; None of all others, PNG for instance.

    Args:
        file: image file.
        orient: as for :func:`decode`.

    Raises:
        DataError: if the file is missing.
    """
    file = _read(file)
    header = _plain_header(file, orient)
    if header is None or header.is_rgb:
        return None
    # A copy, because a tensor may be written to.
    content = torch.frombuffer(bytearray(file.content), dtype=torch.uint8)
    return PlainJpeg(content, header.width, header.height)


def to_pixels(image: Image.Image, orient: bool = True) -> np.ndarray:
    """Return the pixels of an open image as :func:`decode` returns those of its file.

    Args:
        image: of any mode that has a defined range; it is not changed.
        orient: apply the orientation that its EXIF data names.

    Returns:
        uint8 array [H, W, 3].

    Raises:
        DataError: if the image is broken, larger than ``MAX_PIXELS``, or has a mode without a defined range.
    """
    name = getattr(image, "filename", "") or "image"
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{name}: {image.width}x{image.height} px is over the limit of {MAX_PIXELS} px; shrink it")
    try:
        return np.array(_to_rgb(_turn(image, orient), deep=False, bits=None))
    except Exception as error:
        raise DataError(f"{name}: cannot be read ({_words(error)}); give an 8-bit image") from error


def decode_mask(file: Path | Encoded) -> np.ndarray:
    """Decode a mask file to labels: 0 background, 1 object, 255 ignore.

    In the file 0 is background, 1 object, and 2 or 255 ignore; a file that holds 255 but no 1 is black and white, and
    its 255 is the object.

    Returns:
        uint8 array [H, W].

    Raises:
        DataError: if the file is missing, broken, not single-channel, or holds other values.
    """
    labels = decode_labels(file)
    values = set(np.unique(labels).tolist())
    if values - {0, 1, 2, 255}:
        raise DataError(f"{file}: mask values are 0, 1, 2 or 255, found {sorted(values - {0, 1, 2, 255})[:5]}")
    if 255 in values and 1 not in values:
        return (labels == 255).astype(np.uint8)
    return np.where(labels > 1, np.uint8(255), labels)


def decode_labels(file: Path | Encoded) -> np.ndarray:
    """Decode a mask file to the numbers that it holds, uint8 [H, W]; of a palette its indices.

    Raises:
        DataError: if the file is missing, broken, or not single-channel with 8 bits.
    """
    with _open(file) as image:
        try:
            labels = np.array(image.convert("L") if image.mode == "1" else image)
        except Exception as error:
            raise DataError(f"{file}: mask cannot be decoded ({_words(error)}); repair it") from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f"{file}: a mask is an 8-bit palette or grayscale image, this one has mode {image.mode}")
    return labels


def decode_grey(file: Path | Encoded) -> np.ndarray:
    """Decode a mask file of one object to grey levels, uint8 [H, W].

    Raises:
        DataError: if the file is missing or broken.
    """
    with _open(file) as image:
        try:
            return np.array(image.convert("L"))
        except Exception as error:
            raise DataError(f"{file}: mask cannot be decoded ({_words(error)}); repair it") from error


def image_size(file: Path | Encoded, orient: bool = True) -> tuple[int, int]:
    """Read (width, height) from the file's header, as :func:`decode` would return it; no pixel is decoded."""
    with _open(file) as image:
        try:
            width, height = _stored_size(image)
        except Exception as error:
            raise DataError(f"{file}: cannot be read ({_words(error)})", advice=_ADVICE) from error
        return (height, width) if orient and _orientation(image) in _SWAPS_AXES else (width, height)


def image_format(file: Path | Encoded) -> str | None:
    """Return Pillow's name of the file's format."""
    with _open(file) as image:
        return image.format


def _open(file: Path | Encoded) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(file.content) if isinstance(file, Encoded) else file)
    except FileNotFoundError:
        raise _missing(file) from None
    except UnidentifiedImageError:
        raise DataError(f"{file}: not an image", advice=_ADVICE) from None
    except Exception as error:
        raise DataError(f"{file}: cannot be read ({_words(error)})", advice=_ADVICE) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise DataError(f"{file}: {image.width}x{image.height} px is over the limit of {MAX_PIXELS} px; shrink it")
    return image


def _orientation(image: Image.Image) -> int:
    """Return the orientation, 1 to 8, that a file which is not yet loaded says of itself; 1 if it says none."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not make the pixels unreadable
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    # Pillow turns a TIFF itself, and some of its versions tell the size that comes of that.
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


def _turn(image: Image.Image, orient: bool) -> Image.Image:
    """Return the upright image, or the stored one.

    The orientation alone is read: ImageOps.exif_transpose writes the whole block anew, and fails where a part is odd.
    """
    orientation = _orientation(image)
    turned_by_pillow = isinstance(image, TiffImagePlugin.TiffImageFile)
    image.load()
    if orient == turned_by_pillow:
        return image
    turn = _TURNS[_INVERSE.get(orientation, orientation) if turned_by_pillow else orientation]
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, deep: bool, bits: int | None) -> Image.Image:
    """Convert an image; ``deep`` if its file has 16 bits, of which Pillow keeps the upper 8 where it has colours."""
    if deep and not image.mode.startswith("I"):
        most = int(np.asarray(image.convert("RGB")).max())
        if bits is not None and bits < 16:
            raise _RangeUnknown(f"of colours of {bits} bits in 16 only the upper 8 can be read: store it with 8")
        _check_range(most << 8 | 255 if most else 0, bits)
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        _check_range(int(values.max()), bits)
        return Image.fromarray((values >> ((bits or 16) - 8)).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"{image.mode!r} pixels have no defined range; store it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


class _RangeUnknown(Exception):
    """Values of 16 bits that are not those of the range that is told, or of one that nobody tells."""


def _check_range(most: int, bits: int | None) -> None:
    if bits is None and 0 < most < _TWELVE_BITS:
        raise _RangeUnknown(
            "at most 12 of its 16 bits are used, so it is truly dark or of 12 bits: say which with "
            "data.options.bits=16 or 12 (data check: bits=16, localize: --bits 16), or store it with 8"
        )
    if bits is not None and most >> bits:
        raise _RangeUnknown(f"its values go up to {most}, and those of {bits} bits to {(1 << bits) - 1}: correct bits")


def _bits_of(image: Image.Image, file: Path | Encoded, told: int | None) -> int | None:
    """Return how many bits the values of a file of up to 16 have; None where nobody tells for sure.

    What the file itself says counts where it leaves no doubt, and else what is ``told``.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        depth = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,)))
        if depth < 16 or told is not None:
            return depth if depth < 16 else told
        # The largest value of the image, or of its range: a small one says nothing.
        most = image.tag_v2.get(_MAX_SAMPLE_VALUE, 0)
        values = most if isinstance(most, tuple) else (most,)
        return 16 if any(isinstance(value, int) and value >= _TWELVE_BITS for value in values) else None
    if told is not None or image.format != "PNG":
        return told
    # The standard has values of fewer bits stretched to 16, and not all programs do it.
    return 16 if max(_png_significant_bits(_read(file).content), default=0) > 12 else None


def _png_significant_bits(content: bytes) -> bytes:
    """Return the sBIT chunk of a PNG file: the bits that each channel had before; empty without."""
    at = 8
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if kind in (b"sBIT", b"IDAT"):
            return content[at + 8 : at + 8 + length] if kind == b"sBIT" else b""
        at += length + 12
    return b""


def _plain_header(file: Encoded, orient: bool) -> _jpeg.Header | None:
    """Read the header of a JPEG file; None if Pillow shall decode it, as it does what is over the limit or turned."""
    header = _jpeg.read_header(file.content)
    if header is None or header.width * header.height > MAX_PIXELS:
        return None
    return None if orient and header.has_app1 and _turned(file) else header


def _turned(file: Encoded) -> bool:
    with _open(file) as image:
        return _orientation(image) != 1


def _read(file: Path | Encoded) -> Encoded:
    if isinstance(file, Encoded):
        return file
    try:
        return Encoded(file.read_bytes(), str(file))
    except FileNotFoundError:
        raise _missing(file) from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error})", advice=_ADVICE) from error


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _missing(file: Path | Encoded) -> DataError:
    return DataError(f"{file}: no such image file", advice="restore it or remove it from the annotations")
