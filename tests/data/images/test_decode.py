import io
import struct
import sys
import typing
import zlib

import numpy as np
import pytest
from PIL import Image

from wsolfast.data import LOSSY, DataError
from wsolfast.data.images import decode
from wsolfast.recipe import DataSpec

EXIF_ORIENTATION = 0x0112


@pytest.fixture(params=decode.DECODERS)
def decoder(request):
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    return request.param


@pytest.fixture
def taken(monkeypatch):
    """Images that simplejpeg decoded."""
    simplejpeg = pytest.importorskip("simplejpeg")
    library, images = simplejpeg.decode_jpeg, []

    def watched(encoded, *options):
        pixels = library(encoded, *options)
        images.append(pixels)
        return pixels

    assert decode.chosen("auto") == "simplejpeg"
    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    return images


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_any_colour_space_becomes_rgb(write_image, decoder, mode):
    path = write_image("a.jpg", mode=mode, quality=95)
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode.decode(path, decoder), expected)


def jpegs():
    """Kinds of JPEG: (what it is, bytes, whether a library other than Pillow decodes it)."""
    cv2 = pytest.importorskip("cv2")
    generator = np.random.default_rng(0)
    sampled = {name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in ("440", "411")}
    for height, width in ((1, 1), (1, 9), (7, 2), (16, 16), (33, 47), (75, 101)):
        smooth = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))
        noise = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for image in (smooth, noise):
            for quality, progressive in ((40, False), (95, True), (100, False)):
                options = {"quality": quality, "progressive": progressive}
                for kind in ("4:4:4", "4:2:2", "4:2:0"):
                    yield kind, jpeg(image, subsampling=kind, **options), True
                yield "restarts", jpeg(image, restart_marker_blocks=1, **options), True
                yield "RGB", jpeg(image, keep_rgb=True, **options), True
                yield "gray", jpeg(image.convert("L"), **options), True
                yield "CMYK", jpeg(image.convert("CMYK"), **options), False
                for kind, factor in sampled.items():
                    settings = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, cv2.IMWRITE_JPEG_QUALITY, quality)
                    yield kind, cv2.imencode(".jpg", np.asarray(image), settings)[1].tobytes(), True


def jpeg(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def test_simplejpeg_gives_pillows_bits(taken):
    for kind, content, plain in jpegs():
        file = decode.Encoded(content, kind)
        before = len(taken)
        assert np.array_equal(decode.decode(file, "simplejpeg"), decode.decode(file, "pil")), kind
        assert (len(taken) > before) == plain, kind


def test_simplejpeg_takes_and_refuses_what_pillow_does():
    pytest.importorskip("simplejpeg")
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize((90, 70))
    refused = 0
    for trial in range(600):
        content = bytearray(jpeg(smooth, quality=80, progressive=trial % 2 == 1, subsampling=trial % 3))
        first = 2 if trial % 3 else len(content) // 2
        for at in generator.integers(first, len(content) - 2, 1 + trial % 3):
            content[at] = generator.integers(0, 256)
        found = []
        for decoder in ("pil", "simplejpeg"):
            try:
                found.append(decode.decode(decode.Encoded(bytes(content), "a"), decoder))
            except DataError:
                found.append(None)
        refused += found[0] is None
        assert (found[0] is None and found[1] is None) or np.array_equal(*found), trial
    assert 50 < refused < 550


def test_simplejpeg_is_chosen_if_it_is_exact(taken, monkeypatch, write_image):
    path = write_image("a.jpg")
    decode.decode(path)
    assert len(taken) == 1
    decode.chosen.cache_clear()
    try:
        assert decode.chosen("auto") == "simplejpeg"
        decode.chosen.cache_clear()
        # One that rounds otherwise is not taken, and a call by name refuses it.
        simplejpeg, exact = sys.modules["simplejpeg"], sys.modules["simplejpeg"].decode_jpeg
        monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *options: exact(*options) ^ 1)
        assert decode.chosen("auto") == "pil"
        with pytest.raises(DataError, match="as installed it does not give Pillow's pixels"):
            decode.decode(path, "simplejpeg")
    finally:
        decode.chosen.cache_clear()


@pytest.mark.realdata
def test_simplejpeg_gives_pillows_bits_on_real_images(real_data, taken):
    files = [file for pattern in ("*.jpg", "*.JPEG") for file in sorted(real_data.rglob(pattern))][::16]
    assert len(files) > 100
    for file in files:
        assert np.array_equal(decode.decode(file, "simplejpeg"), decode.decode(file, "pil")), file
    assert len(taken) > 0.9 * len(files)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA"])
def test_png_of_any_mode_becomes_rgb(write_image, mode):
    pixels = decode.decode(write_image("a.png", mode=mode))
    assert pixels.shape == (30, 40, 3)
    assert pixels.dtype == np.uint8


def test_transparency_is_laid_over_white(write_image):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    pixels = decode.decode(write_image("a.png", mode="RGBA", pixels=rgba))
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[1, 1].tolist() == [255, 255, 255]


def test_sixteen_bit_grayscale_keeps_its_upper_bits(tmp_path):
    values = np.array([[0, 255], [256, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert decode.decode(tmp_path / "a.png")[..., 0].tolist() == [[0, 0], [1, 255]]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_twelve_bits_in_a_file_of_sixteen_are_refused(tmp_path, suffix, shape):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / f"a.{suffix}"
    for most, refused in ((4095, True), (300, True), (4096, False), (65535, False), (0, False)):
        values = np.zeros(shape, np.uint16)
        values[1:] = most
        cv2.imwrite(str(path), values)
        if refused:
            with pytest.raises(
                DataError, match=rf"a.{suffix}: at most 12 of its 16 bits .* data.options.bits=16 or 12 "
            ):
                decode.decode(path)
        else:
            assert decode.decode(path).max() == most >> 8
        # Whoever knows that it is dark says so.
        assert decode.decode(path, bits=16).max() == most >> 8


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_the_bits_of_a_file_of_sixteen_can_be_told(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    values = np.array([[0, 15, 16], [1023, 2048, 4095]], np.uint16)
    Image.fromarray(values).save(path)
    for bits in (12, 14, 16):
        assert decode.decode(path, bits=bits)[..., 1].tolist() == (values >> (bits - 8)).tolist()
    with pytest.raises(DataError, match=r"its values go up to 4095, and those of 10 bits to 1023: correct bits"):
        decode.decode(path, bits=10)
    Image.fromarray(np.stack([values >> 4] * 3, -1).astype(np.uint8)).save(path)
    assert decode.decode(path, bits=12).max() == 255, "files of 8 bits are what they are"


def test_colours_keep_no_fewer_bits_than_sixteen(tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 5, 3), 4000, np.uint16))
    with pytest.raises(DataError, match=r"a.png: of colours of 12 bits in 16 only the upper 8 can be read: store it "):
        decode.decode(tmp_path / "a.png", bits=12)


@pytest.mark.parametrize(("significant", "believed"), [(16, True), (14, True), (12, False), (None, False)])
def test_a_dark_png_that_says_its_bits_is_believed(tmp_path, significant, believed):
    stream = io.BytesIO()
    Image.fromarray(np.full((3, 4), 700, np.uint16)).save(stream, "PNG")
    content, chunk = stream.getvalue(), b""
    if significant is not None:
        chunk = b"sBIT" + bytes([significant])
        chunk = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    # Behind the signature and the header, which has 13 bytes.
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    if believed:
        assert (decode.decode(tmp_path / "a.png") == 700 >> 8).all()
    else:
        with pytest.raises(DataError, match="at most 12 of its 16 bits"):
            decode.decode(tmp_path / "a.png")


@pytest.mark.parametrize(("most", "believed"), [(65535, True), (4096, True), (4095, False), (700, False), ("x", False)])
def test_a_dark_tiff_that_says_its_range_is_believed(tmp_path, most, believed):
    tags = {281: most} if isinstance(most, int) else {270: most}
    Image.fromarray(np.full((3, 4), 700, np.uint16)).save(tmp_path / "a.tif", tiffinfo=tags)
    if believed:
        assert (decode.decode(tmp_path / "a.tif") == 700 >> 8).all()
    else:
        with pytest.raises(DataError, match="at most 12 of its 16 bits"):
            decode.decode(tmp_path / "a.tif")


def tiff_of_twelve_bits(values):
    """A file whose values are packed, three bytes for two of them; Pillow writes none."""
    height, width = values.shape
    packed = b"".join(((int(a) << 12) | int(b)).to_bytes(3, "big") for a, b in values.reshape(-1, 2))
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(packed)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("bits", [None, 12, 16])
def test_a_tiff_of_twelve_bits_is_what_it_says(tmp_path, bits):
    values = np.array([[0, 15, 16, 700], [1023, 2048, 3000, 4095]], np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff_of_twelve_bits(values))
    assert decode.decode(tmp_path / "a.tif", bits=bits)[..., 2].tolist() == (values >> 4).tolist()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "mpo"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_size(write_image, decoder, orientation, suffix):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    lossless = {"lossless": True} if suffix == "webp" else {}
    path = write_image(f"a.{suffix}", width=48, height=32, exif=exif, **lossless)
    with Image.open(write_image(f"b.{suffix}", width=48, height=32, **lossless)) as image:
        stored = np.asarray(image.convert("RGB"))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored[::-1].transpose(1, 0, 2),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    assert np.array_equal(decode.decode(path, decoder), upright)
    assert decode.image_size(path) == (upright.shape[1], upright.shape[0])
    assert np.array_equal(decode.decode(path, decoder, orient=False), stored)
    assert decode.image_size(path, orient=False) == (48, 32)


def test_truncated_jpeg_is_named(write_image, decoder):
    path = write_image("folder/cut.jpg", width=200, height=200)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"folder/cut.jpg: cannot be decoded .*truncated.*--skip-bad"):
        decode.decode(path, decoder)
    assert decode.image_size(path) == (200, 200)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0"])
def test_what_is_not_an_image_is_named(tmp_path, decoder, content):
    path = tmp_path / "b.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"b.jpg: "):
        decode.decode(path, decoder)


def test_missing_image_is_named(tmp_path, decoder):
    with pytest.raises(DataError, match=r"gone.jpg: no such image file"):
        decode.decode(tmp_path / "gone.jpg", decoder)


def test_decompression_bomb_is_refused_before_decoding(write_image, monkeypatch):
    path = write_image("big.png", width=50, height=41)
    monkeypatch.setattr(decode, "MAX_PIXELS", 2000)
    with pytest.raises(DataError, match=r"big.png: 50x41 px is over the limit of 2000 px"):
        decode.decode(path)


def test_float_image_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(DataError, match=r"f.tiff: .*no defined range"):
        decode.decode(tmp_path / "f.tiff")


def test_unknown_decoder_is_refused(write_image):
    with pytest.raises(ValueError, match="expected one of auto, pil, simplejpeg, got 'nvjpeg'"):
        decode.decode(write_image("a.jpg"), "nvjpeg")


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([[0, 1], [2, 0]], [[0, 1], [255, 0]]),
        ([[0, 1], [255, 0]], [[0, 1], [255, 0]]),
        ([[0, 255]], [[0, 1]]),
        ([[0]], [[0]]),
    ],
)
@pytest.mark.parametrize("mode", ["L", "P"])
def test_mask_values(tmp_path, stored, expected, mode):
    image = Image.fromarray(np.array(stored, np.uint8))
    if mode == "P":
        image.putpalette([channel for level in range(256) for channel in (level, 0, 0)])
    image.save(tmp_path / "m.png")
    assert decode.decode_mask(tmp_path / "m.png").tolist() == expected


def test_bad_masks_are_named(tmp_path):
    Image.fromarray(np.full((2, 2), 7, np.uint8)).save(tmp_path / "seven.png")
    with pytest.raises(DataError, match=r"seven.png: mask values are 0, 1, 2 or 255, found \[7\]"):
        decode.decode_mask(tmp_path / "seven.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match=r"rgb.png: a mask is .* mode RGB"):
        decode.decode_mask(tmp_path / "rgb.png")


def test_a_missing_package_names_the_extra(write_image, monkeypatch):
    path = write_image("a.jpg")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    decode.chosen.cache_clear()
    try:
        with pytest.raises(DataError, match=r"decoder='simplejpeg' needs .*: pip install 'wsolfast\[fast\]'"):
            decode.decode(path, "simplejpeg")
        assert decode.chosen("auto") == "pil"
        assert decode.decode(path).shape == (30, 40, 3)
    finally:
        decode.chosen.cache_clear()


def test_recipes_know_the_decoders():
    choices, _ = typing.get_args(typing.get_type_hints(DataSpec)["decoder"])
    assert typing.get_args(choices) == (*decode.DECODERS, *LOSSY)
