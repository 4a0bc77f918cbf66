"""JPEG by libraries that are faster than Pillow: the pixels that Pillow gives, or none and Pillow decides."""

import difflib
import functools
import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from wsolfast.data.errors import DataError

# Height and width of an image to the least height and width that it is wanted at.
Target = Callable[[int, int], tuple[int, int]]

DECODERS = ("auto", "pil", "simplejpeg", "cv2", "fast")
LOSSY = ("fast",)

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_START_OF_SCAN, _APP1, _APP2 = 0xDA, 0xE1, 0xE2
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive; all Huffman-coded
_PROGRESSIVE = 0xC2
_SKIPPED = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, restart interval, comment, application data
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # of data neither a stuffed byte nor a restart


@dataclass(frozen=True)
class Header:
    """What a JPEG's segments before its first scan say."""

    width: int
    height: int
    has_app1: bool  # where EXIF and XMP keep an orientation
    one_scan: bool  # sequential, and nothing but data and restart markers follows the first scan's head


def read_header(encoded: bytes) -> Header | None:
    """Header of a complete 8-bit JPEG of one or three channels; None for everything else, which is Pillow's."""
    # Libraries fill the missing part of a truncated file with grey and say nothing.
    if not (encoded.startswith(_START) and encoded.endswith(_END)):
        return None
    position, size, has_app1, one_scan = 2, None, False, True
    try:
        while True:
            mark, marker, length = struct.unpack_from(">BBH", encoded, position)
            if mark != 0xFF or length < 2:
                return None
            if marker == _START_OF_SCAN:
                one_scan &= _MARKER.search(encoded, position + length, len(encoded) - len(_END)) is None
                return size and Header(*size, has_app1, one_scan)
            if marker in _FRAMES and size is None:
                precision, height, width, channels = struct.unpack_from(">BHHB", encoded, position + 4)
                if precision != 8 or channels not in (1, 3) or not width * height:
                    return None
                size, one_scan = (width, height), marker != _PROGRESSIVE
            elif marker not in _SKIPPED or (marker == _APP2 and encoded.startswith(b"MPF\0", position + 4)):
                return None
            has_app1 |= marker == _APP1
            position += 2 + length
    except struct.error:
        return None


def decode_jpeg(encoded: bytes, header: Header, decoder: str, target: tuple[int, int] | None) -> np.ndarray | None:
    """RGB pixels [H, W, 3] of data that :func:`read_header` takes; None if Pillow shall decode it.

    Args:
        encoded: the file's bytes.
        header: of them.
        decoder: one of ``DECODERS``; all but ``"fast"`` give Pillow's pixels to the bit.
        target: ``"fast"``: height and width that the result is not below, if it is to be shrunk.

    Raises:
        DataError: if the decoder is not installed, or not exact as installed.
    """
    if decoder == "fast":
        return _fast(encoded, target)
    name = _exact(decoder)
    # OpenCV keeps what it has when a later scan is broken, and does not tell; Pillow refuses the file.
    return None if name == "pil" or (name == "cv2" and not header.one_scan) else _LIBRARIES[name](encoded)


@functools.cache
def _exact(decoder: str) -> str:
    """The library behind an exact decoder; ``"auto"`` is the fastest one here that decodes samples as Pillow does."""
    if decoder == "pil":
        return decoder
    for name in ("simplejpeg", "cv2") if decoder == "auto" else (decoder,):
        try:
            if all(_agrees_with_pillow(_LIBRARIES[name](sample), sample) for sample in _samples()):
                return name
            problem = f"decoder={name!r}: as installed it does not give Pillow's pixels; use 'auto' or 'pil'"
        except ImportError:
            problem = f"decoder={name!r} needs a package: pip install 'wsolfast[fast]'"
        if decoder != "auto":
            raise DataError(problem)
    return "pil"


def chosen(decoder: str) -> str:
    """What results call the decoder that is used here: ``"auto"`` by the library it stands for.

    Raises:
        DataError: if it is not installed, or not exact as installed.
        ValueError: for an unknown name.
    """
    if decoder not in DECODERS:
        near = difflib.get_close_matches(decoder, DECODERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"decoder: expected one of {', '.join(DECODERS)}, got {decoder!r}{hint}")
    if decoder in LOSSY:
        _import_simplejpeg()
        return decoder
    return _exact(decoder)


def _samples() -> list[bytes]:
    """Small images that tell apart how DCT, upsampling and colours are computed."""
    smooth = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(smooth).resize((75, 53), Image.Resampling.BICUBIC)
    kinds = [{"subsampling": kind} for kind in ("4:2:0", "4:2:2", "4:4:4")] + [{"progressive": True}]
    return [_encoded(picture, quality=85, **kind) for kind in kinds] + [_encoded(picture.convert("L"))]


def _encoded(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


def _agrees_with_pillow(pixels: np.ndarray | None, encoded: bytes) -> bool:
    return pixels is not None and np.array_equal(pixels, _pillow(encoded))


def _pillow(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.array(image.convert("RGB"))


def _simplejpeg(encoded: bytes) -> np.ndarray | None:
    import simplejpeg

    try:
        # It is strict: data that libjpeg warns of is an error, and so Pillow's to judge.
        return simplejpeg.decode_jpeg(encoded, "RGB")
    except ValueError:
        return None


def _cv2(encoded: bytes) -> np.ndarray | None:
    import cv2

    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


_LIBRARIES = {"simplejpeg": _simplejpeg, "cv2": _cv2}


def _fast(encoded: bytes, target: tuple[int, int] | None) -> np.ndarray | None:
    simplejpeg = _import_simplejpeg()
    height, width = target or (0, 0)
    # Below a factor of two libjpeg's scaled DCT has no vector code and costs more than it saves.
    shrunk = {"min_height": height, "min_width": width, "min_factor": 2} if target else {}
    try:
        return simplejpeg.decode_jpeg(encoded, "RGB", fastdct=True, fastupsample=True, **shrunk)
    except ValueError:
        return None


def _import_simplejpeg() -> ModuleType:
    try:
        import simplejpeg
    except ImportError:
        raise DataError("decoder='fast' needs simplejpeg: pip install 'wsolfast[fast]'") from None
    return simplejpeg
