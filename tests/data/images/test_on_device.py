"""Files for a device's decoder, and what is made of its pixels; Pillow stands in for the device."""

import numpy as np
import pytest
import torch
from oracles.device_jpeg import Pillow, encoded, pixels_of, turned

from wsolfast.data import DataError, Dataset, DecoderError, View, open_on_device
from wsolfast.data._files import FileSource
from wsolfast.data.images import _jpeg, on_device
from wsolfast.data.images.decode import Encoded, decode, plain_jpeg
from wsolfast.data.images.on_device import DeviceDecoder, check_same_pictures
from wsolfast.data.images.transforms import resize, resize_as_float

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (encoded(), True),
        (encoded("L"), True),
        (encoded(progressive=True), True),
        (encoded(subsampling="4:4:4"), True),
        (turned(1), True),
        (turned(6), False),
        (encoded("CMYK"), False),
        (encoded(keep_rgb=True), False),
        (encoded()[:-40], False),
        (b"\x89PNG\r\n\x1a\n", False),
        (b"", False),
    ],
    ids=["colours", "gray", "progressive", "444", "upright", "turned", "CMYK", "RGB", "truncated", "PNG", "empty"],
)
def test_which_files_are_for_a_device(content, taken):
    found = plain_jpeg(Encoded(content, "a"))
    assert (found is not None) == taken
    if found is not None:
        assert found.content.numpy().tobytes() == content
        assert (found.width, found.height) == (40, 30)


def test_a_turned_file_is_for_a_device_where_nobody_turns_it():
    found = plain_jpeg(Encoded(turned(6), "a"), orient=False)
    assert (found.width, found.height) == (40, 30)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="no such image file"):
        plain_jpeg(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("before", "ids", "is_rgb"),
    [
        (b"", b"\1\2\3", False),
        (b"", b"RGB", True),
        (b"", b"\0\1\2", False),
        (b"\xff\xe0\0\x10JFIF\0" + bytes(9), b"RGB", False),
        (b"\xff\xee\0\x0eAdobe" + bytes(6) + b"\0", b"\1\2\3", True),
        (b"\xff\xee\0\x0eAdobe" + bytes(6) + b"\1", b"RGB", False),
        (b"\xff\xe0\0\x10JFIF\0" + bytes(9) + b"\xff\xee\0\x0eAdobe" + bytes(6) + b"\0", b"\1\2\3", False),
    ],
)
def test_which_colours_a_header_says(before, ids, is_rgb):
    """As libjpeg decides: JFIF before Adobe's mark before the names of the channels."""
    channels = b"".join(bytes([name, 0x11, 0]) for name in ids)
    frame = b"\xff\xc0\0\x11\x08\0\x07\0\x05\x03" + channels
    header = _jpeg.read_header(b"\xff\xd8" + before + frame + b"\xff\xda\0\x08\xff\xd9")
    assert (header.width, header.height, header.is_rgb) == (5, 7, is_rgb)
    gray = b"\xff\xc0\0\x0b\x08\0\x07\0\x05\x01R\x11\0"
    assert not _jpeg.read_header(b"\xff\xd8" + before + gray + b"\xff\xda\0\x08\xff\xd9").is_rgb


def test_a_bad_file_costs_its_batch_nothing_but_a_few_calls():
    contents = [encoded(size=(20 + i, 30)) for i in range(16)]
    files = [plain_jpeg(Encoded(content, "a")) for content in contents]
    pillow = Pillow(unread=[contents[11]])
    decoder = DeviceDecoder(CPU, pillow)
    found = decoder.decode(files)
    assert [pixels is None for pixels in found] == [i == 11 for i in range(16)]
    assert decoder.left == 1
    # All, and two halves at each of four levels.
    assert pillow.batches[0] == 16
    assert len(pillow.batches) == 9
    for file, pixels in zip(files, found, strict=True):
        assert pixels is None or torch.equal(pixels, pixels_of(file.content))
    assert decoder.decode([]) == []


def test_pixels_of_another_size_than_the_file_says_are_not_taken():
    decoder = DeviceDecoder(CPU, lambda files: [torch.zeros(3, 1, 1, dtype=torch.uint8) for _ in files])
    assert decoder.decode([plain_jpeg(Encoded(encoded(), "a"))]) == [None]


def test_a_decoder_is_looked_at_before_it_is_used():
    pillow = Pillow()
    check_same_pictures(DeviceDecoder(CPU, pillow))
    assert pillow.batches == [1, 5]
    swapped = DeviceDecoder(CPU, lambda files: [one.flip(0) for one in pillow(files)])
    with pytest.raises(DecoderError, match=r"another picture than Pillow, \d+ of 255 off; use 'auto'"):
        check_same_pictures(swapped)


def test_a_decoder_of_some_kinds_of_jpeg_is_refused():
    progressive = [content for content in _jpeg.samples() if b"\xff\xc2" in content]
    with pytest.raises(DecoderError, match="reads 4 of 5 kinds of JPEG; use 'auto'"):
        check_same_pictures(DeviceDecoder(CPU, Pillow(unread=progressive)))


def test_a_library_without_nvjpeg_says_so():
    def without(files):
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\nException raised from ...")

    with pytest.raises(DecoderError, match=r"\(decode_jpegs_cuda: torchvision not compiled with nvJPEG support\); use"):
        check_same_pictures(DeviceDecoder(CPU, without))


def test_other_devices_are_refused():
    with pytest.raises(DecoderError, match="needs a CUDA device, and the device is cpu; use 'auto'"):
        open_on_device(CPU)


def test_without_torchvision_its_extra_is_named(monkeypatch):
    def absent():
        raise ImportError("torchvision is not installed; pip install 'wsolfast[train]'")

    monkeypatch.setattr(on_device, "import_torchvision", absent)
    with pytest.raises(
        DecoderError, match=r"decoder 'cuda': torchvision is not installed; pip install .* or use 'auto'"
    ):
        on_device._torchvision(torch.device("cuda"))


@pytest.mark.parametrize("size", [(224, 224), (256, 256), (7, 300), (1, 2), (375, 500)])
@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (1, 9), (64, 64)])
def test_resizing_in_float_is_one_level_from_resizing_integers(shape, size):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, *shape), dtype=np.uint8))
    expected = torch.stack([resize(one, size) for one in images])
    apart = (resize_as_float(images, size).int() - expected.int()).abs().max()
    # A CPU rounds after the rows and after the columns. The first rounding moves a weighted mean by half a level at
    # most, and weights in 16 bits by far less, so the two ends round to neighbours.
    assert apart <= 1


@pytest.fixture
def folder(tmp_path):
    for i, size in enumerate([(90, 100), (50, 60), (90, 100), (33, 90)]):
        (tmp_path / f"{i}.jpg").write_bytes(encoded(size=size))
    return tmp_path


@pytest.mark.parametrize(
    ("view", "wide"),
    [
        (View(32), None),
        (View((40, 24)), View(64, 48)),
        (View(40, 32), View(48, keep_aspect=True)),
        (View(None, 20), None),
    ],
)
def test_views_of_decoded_images_are_those_of_samples(folder, view, wide):
    source = FileSource(folder, [f"{i}.jpg" for i in range(4)], [0] * 4, ["any"])
    dataset = Dataset(source, "test", view, wide=wide)
    for index in range(4):
        pixels = pixels_of(dataset.plain_jpeg(index).content)
        shown, sample = dataset.show(torch.stack([pixels, pixels.flip(0)])), dataset[index]
        assert torch.equal(shown["image"][0], sample.image)
        assert shown["image"].is_contiguous()
        if wide is None:
            assert set(shown) == {"image"}
        else:
            assert torch.equal(shown["wide"][0], sample.wide)


def test_a_file_of_another_size_than_its_annotation_is_refused(folder):
    source = FileSource(folder, ["0.jpg"], [0], ["any"], sizes={0: (100, 90)})
    with pytest.raises(DataError, match=r"the image is 90x100, its annotation says 100x90"):
        Dataset(source, "test", View(32)).plain_jpeg(0)


def test_an_image_that_is_too_long_or_too_small_is_refused(folder):
    (folder / "long.jpg").write_bytes(encoded(size=(9000, 2)))
    source = FileSource(folder, ["long.jpg", "3.jpg"], [0, 0], ["any"])
    with pytest.raises(DataError, match=r"long.jpg: 9000x2 px with data.keep_aspect"):
        Dataset(source, "test", View(300, keep_aspect=True)).plain_jpeg(0)
    dataset = Dataset(source, "test", View(None, 64))
    with pytest.raises(DataError, match="33x90 px is smaller than crop=64"):
        dataset.show(pixels_of(dataset.plain_jpeg(1).content)[None])


def test_a_source_without_files_has_none_for_a_device():
    from wsolfast.data import open_dataset

    assert open_dataset("synthetic", None, "test", num_test=2, size=32).plain_jpeg(0) is None


@pytest.mark.cuda
def test_a_gpu_decodes_what_pillow_does_but_for_colours():
    decoder = open_on_device(torch.device("cuda"))
    kinds = [{"subsampling": kind} for kind in ("4:4:4", "4:2:2", "4:2:0")] + [{"progressive": True}]
    contents = [encoded(size=size, quality=90, **kind) for kind in kinds for size in ((500, 375), (75, 101), (1, 9))]
    contents += [encoded("L", size=(75, 101))]
    files = [plain_jpeg(Encoded(content, "a")) for content in contents]
    with decoder.working():
        found = decoder.decode(files)
    assert decoder.left == 0
    for content, pixels in zip(contents, found, strict=True):
        assert pixels.is_cuda
        apart = np.abs(pixels.cpu().permute(1, 2, 0).numpy().astype(int) - decode(Encoded(content, "a"), "pil"))
        # Colours that are repeated and not interpolated: libjpeg's own way without smoothing is up to 2.3 levels off.
        assert apart.mean() < 4
    broken = plain_jpeg(Encoded(contents[0][:-900] + b"\xff\xd9", "broken"))
    with decoder.working():
        again = decoder.decode([files[0], broken, files[1]])
    assert torch.equal(again[0], found[0])
    assert torch.equal(again[2], found[1])


@pytest.mark.cuda
def test_a_gpu_resizes_to_one_level_of_a_cpu():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 375, 500), dtype=np.uint8))
    for view in (View(256, 224), View(224), View(256, keep_aspect=True)):
        apart = (view.show(images.cuda()).cpu().int() - view.show(images).int()).abs().max()
        # Rounded once instead of twice.
        assert apart <= 1
