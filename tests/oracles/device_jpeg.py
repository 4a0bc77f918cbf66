"""Small JPEG files of all kinds, and a stand-in for a device's decoder of them."""

import io

import numpy as np
import torch
from PIL import Image

ORIENTATION = 0x0112


def pixels_of(content):
    """Decode the bytes of a file, a uint8 tensor [n], by Pillow to [3, H, W]."""
    with Image.open(io.BytesIO(content.numpy().tobytes())) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


class Pillow:
    """A device's decoder by Pillow: it returns nothing of a batch with a file that it does not read."""

    def __init__(self, unread=()):
        self.unread, self.batches = unread, []

    def __call__(self, files):
        self.batches.append(len(files))
        if any(content.numpy().tobytes() in self.unread for content in files):
            raise RuntimeError("Failed to decode batch: 2")
        return [pixels_of(content) for content in files]


def encoded(mode="RGB", size=(40, 30), seed=0, kind="JPEG", **options):
    """Return the bytes of a smooth picture of (width, height)."""
    generator = np.random.default_rng(seed)
    smooth = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(size).convert(mode)
    stream = io.BytesIO()
    smooth.save(stream, kind, **options)
    return stream.getvalue()


def turned(orientation, **options):
    """Return the bytes of a picture that EXIF turns."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(exif=exif, **options)
