"""JPEG decoded on a CUDA device, many files at once: torchvision's decoder, which is nvJPEG.

Its pixels are not Pillow's: nvJPEG has its own DCT and repeats colours where Pillow interpolates between them.
"""

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsolfast._compat import import_torchvision
from wsolfast.data.errors import DecoderError
from wsolfast.data.images._jpeg import samples
from wsolfast.data.images.decode import Encoded, PlainJpeg, plain_jpeg

# What ``data.decoder`` calls it, and all decoders whose pixels are not Pillow's.
ON_DEVICE = "cuda"
LOSSY = frozenset({ON_DEVICE})

# Mean distance from Pillow's pixels, in levels of 255, that is still the same picture. Colours repeated and not
# interpolated move the samples by less than 4; channels in another order move those that have colours by more than 40.
_SAME_PICTURE = 8

# From the bytes of files, uint8 [n] on the CPU, to their pixels, uint8 [3, H, W] on the device. It raises a
# RuntimeError if there is one among them that it cannot read.
DecodeFiles = Callable[[list[Tensor]], list[Tensor]]


class DeviceDecoder:
    """Decoder of plain JPEG files on a device.

    Args:
        device: where the pixels are.
        decode_files: does it.

    Attributes:
        left: files that it was given and could not read.
    """

    def __init__(self, device: torch.device, decode_files: DecodeFiles):
        self.device, self.left = device, 0
        self._decode_files = decode_files
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work on a stream of the decoder's own; at the end all of the work is done.

        torchvision decodes on a further stream that waits for nothing, into memory that it is given on this one. That
        is free only if nothing of an earlier batch is left to do here.
        """
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()

    def decode(self, files: Sequence[PlainJpeg]) -> list[Tensor | None]:
        """Decode files.

        Args:
            files: that :func:`wsolfast.data.images.decode.plain_jpeg` gives; within :meth:`working` on a device.

        Returns:
            The pixels of each, uint8 [3, H, W] on the device; None of a file that the decoder cannot read.
        """
        found = self._decode(files)
        self.left += sum(pixels is None for pixels in found)
        return found

    def _decode(self, files: Sequence[PlainJpeg]) -> list[Tensor | None]:
        if not files:
            return []
        try:
            found = self._decode_files([file.content for file in files])
        except RuntimeError:
            # Nothing is returned of a batch in which one file is bad: halves find it in few calls.
            if len(files) == 1:
                return [None]
            half = len(files) // 2
            return self._decode(files[:half]) + self._decode(files[half:])
        sizes = [(3, file.height, file.width) for file in files]
        return [pixels if pixels.shape == size else None for pixels, size in zip(found, sizes, strict=True)]


def open_on_device(device: torch.device) -> DeviceDecoder:
    """Open the decoder of a CUDA device; some small files are decoded to see that it works.

    Args:
        device: where the pixels shall be.

    Returns:
        A decoder that has left no file yet.

    Raises:
        DecoderError: if the device is none, torchvision is not installed or was built without nvJPEG, or what it
            decodes is not what Pillow does.
    """
    if device.type != "cuda":
        raise DecoderError(f"decoder 'cuda': needs a CUDA device, and the device is {device}; use 'auto'")
    return DeviceDecoder(device, _checked(device))


@functools.cache
def _checked(device: torch.device) -> DecodeFiles:
    decode_files = _torchvision(device)
    check_same_pictures(DeviceDecoder(device, decode_files))
    return decode_files


def _torchvision(device: torch.device) -> DecodeFiles:
    try:
        import_torchvision()
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError as error:
        raise DecoderError(f"decoder 'cuda': {error}; or use 'auto'") from None
    return lambda files: decode_jpeg(files, mode=ImageReadMode.RGB, device=device)


def check_same_pictures(decoder: DeviceDecoder) -> None:
    """Compare what a decoder makes of some small files with what Pillow does.

    Raises:
        DecoderError: if it cannot read one, or gives another picture.
    """
    files = [one for content in samples() if (one := plain_jpeg(Encoded(content, "sample"))) is not None]
    try:
        # By itself, so that an error says what is wrong: a library without nvJPEG says so.
        with decoder.working():
            decoder._decode_files([files[0].content])
            found = [pixels for pixels in decoder.decode(files) if pixels is not None]
        shown = [pixels.cpu().permute(1, 2, 0).numpy() for pixels in found]
    except (RuntimeError, AttributeError) as error:
        raise DecoderError(
            f"decoder 'cuda': torchvision cannot decode here ({_first_line(error)}); use 'auto'"
        ) from None
    if len(shown) < len(files):
        raise DecoderError(f"decoder 'cuda': reads {len(shown)} of {len(files)} kinds of JPEG; use 'auto'")
    for pixels, file in zip(shown, files, strict=True):
        with Image.open(io.BytesIO(file.content.numpy().tobytes())) as image:
            distance = np.abs(pixels.astype(int) - np.array(image.convert("RGB"))).mean()
        if distance > _SAME_PICTURE:
            raise DecoderError(
                f"decoder 'cuda': gives another picture than Pillow, {distance:.0f} of 255 off; use 'auto'"
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
