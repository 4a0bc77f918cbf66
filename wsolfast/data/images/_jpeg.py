"""JPEG by simplejpeg, which is faster than Pillow: the pixels that Pillow gives, or none and Pillow decides."""

import functools
import io
import struct
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from wsolfast.data.errors import DataError

Decoder = Literal["auto", "pil", "simplejpeg"]
DECODERS: tuple[Decoder, ...] = get_args(Decoder)

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_START_OF_SCAN, _APP0, _APP1, _APP2, _APP14 = 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive; all Huffman-coded
_SKIPPED = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, restart interval, comment, application data


@dataclass(frozen=True)
class Header:
    """Content of a JPEG's segments before its first scan."""

    width: int
    height: int
    has_app1: bool  # where EXIF and XMP keep an orientation
    is_rgb: bool  # its three channels are red, green and blue, and not the usual brightness and two of colour


def read_header(encoded: bytes) -> Header | None:
    """Read the header of a complete 8-bit JPEG of one or three channels; None for all else, which is Pillow's."""
    # The library fills the missing part of a truncated file with grey and says nothing.
    if not (encoded.startswith(_START) and encoded.endswith(_END)):
        return None
    position, size, has_app1, jfif, transform, ids = 2, None, False, False, None, b""
    try:
        while True:
            mark, marker, length = struct.unpack_from(">BBH", encoded, position)
            if mark != 0xFF or length < 2:
                return None
            if marker == _START_OF_SCAN:
                # As libjpeg decides; data that says nothing is of the usual kind.
                is_rgb = not jfif and (ids == b"RGB" if transform is None else transform == b"\0")
                return size and Header(*size, has_app1, is_rgb and len(ids) == 3)
            if marker in _FRAMES and size is None:
                precision, height, width, channels = struct.unpack_from(">BHHB", encoded, position + 4)
                if precision != 8 or channels not in (1, 3) or not width * height:
                    return None
                size = (width, height)
                ids = encoded[position + 10 : position + 10 + 3 * channels : 3]
            elif marker not in _SKIPPED or (marker == _APP2 and encoded.startswith(b"MPF\0", position + 4)):
                return None
            has_app1 |= marker == _APP1
            jfif |= marker == _APP0 and encoded.startswith(b"JFIF\0", position + 4)
            if marker == _APP14 and length >= 14 and encoded.startswith(b"Adobe", position + 4):
                transform = encoded[position + 15 : position + 16]
            position += 2 + length
    except struct.error:
        return None


def decode_jpeg(encoded: bytes) -> np.ndarray | None:
    """Decode data that :func:`read_header` takes to RGB pixels [H, W, 3]; None if Pillow shall decode it."""
    import simplejpeg

    try:
        # It is strict: data that libjpeg warns of is an error, and so Pillow's to judge.
        return simplejpeg.decode_jpeg(encoded, "RGB")
    except Exception:
        return None


@functools.cache
def chosen(decoder: str) -> str:
    """Return the decoder that is used: ``"auto"`` is simplejpeg if it is installed and decodes samples as Pillow does.

    Raises:
        DataError: if simplejpeg is asked for and not installed, or not exact as installed.
        ValueError: for an unknown name.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder: expected one of {', '.join(DECODERS)}, got {decoder!r}")
    if decoder == "pil":
        return decoder
    try:
        if all(_agrees_with_pillow(sample) for sample in samples()):
            return "simplejpeg"
        problem = "decoder='simplejpeg': as installed it does not give Pillow's pixels; use 'auto' or 'pil'"
    except ImportError:
        problem = "decoder='simplejpeg' needs a package: pip install 'wsolfast[fast]'"
    if decoder == "simplejpeg":
        raise DataError(problem)
    return "pil"


def samples() -> list[bytes]:
    """Make small images that tell apart how DCT, upsampling and colours are computed."""
    smooth = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(smooth).resize((75, 53), Image.Resampling.BICUBIC)
    kinds = [{"subsampling": kind} for kind in ("4:2:0", "4:2:2", "4:4:4")] + [{"progressive": True}]
    return [_encoded(picture, quality=85, **kind) for kind in kinds] + [_encoded(picture.convert("L"))]


def _encoded(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


def _agrees_with_pillow(encoded: bytes) -> bool:
    pixels = decode_jpeg(encoded)
    with Image.open(io.BytesIO(encoded)) as image:
        return pixels is not None and np.array_equal(pixels, np.array(image.convert("RGB")))
