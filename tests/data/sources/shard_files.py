"""Tar files of images for the tests of shards."""

import io
import tarfile

import numpy as np
from PIL import Image


def image_bytes(side=20):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def write_shard(path, members, mode="w"):
    """A tar file of (name or TarInfo, content)."""
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def linked(kind, target):
    member = tarfile.TarInfo("2.jpg")
    member.type, member.linkname = kind, target
    return member


GOOD = [("1.jpg", image_bytes()), ("1.cls", b"0")]
