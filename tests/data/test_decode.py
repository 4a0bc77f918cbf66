import sys

import numpy as np
import pytest
from PIL import Image

from wsolfast.data import DataError, decode

EXIF_ORIENTATION = 0x0112


@pytest.fixture(params=["pil", "cv2"])
def decoder(request):
    if request.param == "cv2":
        pytest.importorskip("cv2")
    return request.param


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_any_colour_space_becomes_rgb(write_image, decoder, mode):
    path = write_image("a.jpg", mode=mode, quality=95)
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode.decode(path, decoder), expected)


def test_cv2_is_bit_identical_to_pillow(write_image):
    pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8)
    for options in ({"quality": 90}, {"quality": 60, "subsampling": 0}, {"quality": 75, "progressive": True}):
        path = write_image("noise.jpg", pixels=noise, **options)
        assert np.array_equal(decode.decode(path, "cv2"), decode.decode(path, "pil"))


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_size(write_image, decoder, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = write_image("a.jpg", width=48, height=32, exif=exif)
    with Image.open(path) as image:
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
    with pytest.raises(ValueError, match="expected 'pil' or 'cv2', got 'nvjpeg'"):
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


def test_missing_opencv_names_the_extra(write_image, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match=r"decoder='cv2' needs OpenCV: pip install 'wsolfast\[fast\]'"):
        decode.decode(write_image("a.jpg"), "cv2")
