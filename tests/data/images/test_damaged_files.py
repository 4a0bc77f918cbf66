"""Whatever the bytes of an image file are, what comes of them is pixels or a DataError with the file's name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from wsolfast.data import DataError, check, open_dataset
from wsolfast.data.images import decode

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ORIENTATION, RESOLUTION_UNIT = 0x0112, 0x0128


def exif_block():
    block = Image.Exif()
    block[ORIENTATION], block[RESOLUTION_UNIT], block[0x011A], block[0x010F] = 6, 2, 72.0, "maker"
    return block


def encoded(kind):
    """A small image with an EXIF block where the format has one."""
    smooth = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    options = {"exif": exif_block()} if kind not in ("GIF", "BMP") else {}
    stream = io.BytesIO()
    Image.fromarray(smooth).resize((24, 18)).save(stream, kind, **options)
    return stream.getvalue()


def with_right_checksums(content):
    """A PNG whose chunks are believed; others as they are."""
    content, at = bytearray(content), 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 8 + length
        if end + 4 > len(content):
            break
        struct.pack_into(">I", content, end, zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(content)


def damaged(kind, count):
    content, generator = encoded(kind), np.random.default_rng(0)
    for trial in range(count):
        changed = bytearray(content)
        for at in generator.integers(0, min(len(content), 400), 1 + trial % 4):
            changed[at] = generator.integers(0, 256)
        if trial % 10 == 0:
            changed = changed[: generator.integers(0, len(changed))]
        yield with_right_checksums(changed) if kind == "PNG" and trial % 2 else bytes(changed)


def looks(file):
    """Read an image file as every command does."""
    yield lambda: decode.decode(file)
    yield lambda: decode.decode(file, "pil", orient=False)
    yield lambda: decode.image_size(file)
    yield lambda: decode.image_format(file)
    yield lambda: decode.decode_mask(file)
    yield lambda: decode.decode_grey(file)


def outcomes(kind, count):
    """How many of the looks at damaged files gave something, and how many a DataError."""
    found, messages = {True: 0, False: 0}, []
    for content in damaged(kind, count):
        for look in looks(decode.Encoded(content, "somewhere/odd")):
            try:
                look()
            except DataError as error:
                messages.append(str(error))
                found[False] += 1
            else:
                found[True] += 1
    assert [message for message in messages if not message.startswith("somewhere/odd: ")] == []
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_pixels_or_a_named_fault(kind):
    assert min(outcomes(kind, 300).values()) > 100


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMATS)
def test_twenty_thousand_damaged_files_are_pixels_or_a_named_fault(kind):
    assert min(outcomes(kind, 20_000).values()) > 1000


@pytest.fixture
def mistyped(tmp_path, write_text):
    """A tree of three images, the first of which has an orientation and a ResolutionUnit that is a text."""
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG").replace(b"\x01\x28\x00\x03", b"\x01\x28\x00\x02"))
    for name in "bc":
        (tmp_path / f"{name}.jpg").write_bytes(encoded("JPEG"))
    rows = "".join(f"{name}.jpg,{name > 'a':d},1,2,3,4,{split}\n" for split, name in (("test", "a"), ("test", "b")))
    write_text("annotations.csv", "image,class_id,x0,y0,x1,y1,split\n" + rows + "c.jpg,0,,,,,train\n")
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_a_mistyped_exif_tag_does_not_hinder_the_orientation(mistyped):
    assert (mistyped / "a.jpg").read_bytes() != (mistyped / "b.jpg").read_bytes()
    dataset = open_dataset("folder", mistyped, "test", skip_bad=True)
    assert dataset.skipped == ()
    assert dataset[0].image.equal(dataset[1].image)
    assert dataset[0].image.shape == (3, 24, 18)
    assert dataset.annotations(0).size == (18, 24)
    assert check("folder", mistyped, decode=True).ok


def test_whatever_a_decoder_raises_is_left_out(mistyped, monkeypatch):
    def fail(self):
        raise struct.error("unpack requires a buffer of 8 bytes")

    monkeypatch.setattr(Image.Image, "load", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(DataError, match=r"a.jpg: cannot be decoded \(unpack requires a buffer of 8 bytes\)"):
        open_dataset("folder", mistyped, "test", decoder="pil")[0]
    with pytest.raises(DataError, match=r"split 'test' has no readable image; 2 were skipped"):
        open_dataset("folder", mistyped, "test", decoder="pil", skip_bad=True)
