import pytest
import torch
from torch.nn.functional import interpolate

from wsolfast import ops
from wsolfast.testing import assert_close, seeded


def by_way_of_the_image(cam, image_size):
    large = interpolate(cam, size=image_size, mode="bilinear", align_corners=False)
    return interpolate(large, size=cam.shape[2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("image_size", [(224, 224), (375, 500), (33, 14), (5, 9), (1, 1)])
def test_equals_the_two_resizes(image_size):
    cam = seeded((2, 3, 14, 9), dtype=torch.float64)
    assert_close(ops.resize_roundtrip(cam, image_size), by_way_of_the_image(cam, image_size))


def test_is_not_the_identity():
    cam = torch.rand(1, 1, 14, 14)
    moved = (ops.resize_roundtrip(cam, (375, 500)) - cam).abs().max()
    assert 0.01 < moved < 0.2


def test_gradient_is_exact():
    cam = seeded((1, 2, 3, 4), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda maps: ops.resize_roundtrip(maps, (7, 11)), cam)


def test_half_precision_keeps_its_dtype():
    cam = seeded((1, 1, 4, 4)).half()
    assert torch.equal(ops.resize_roundtrip(cam, (9, 9)), ops.resize_roundtrip(cam.float(), (9, 9)).half())


def test_empty_batch_stays_empty():
    assert ops.resize_roundtrip(torch.zeros(0, 2, 3, 4), (20, 30)).shape == (0, 2, 3, 4)


@pytest.mark.parametrize(
    ("cam", "image_size", "message"),
    [
        (torch.zeros(3), (5, 5), r"shape \[\.\.\., h, w\], got torch.float32 \[3\]"),
        (torch.zeros(3, 3).long(), (5, 5), "floating-point"),
        (torch.zeros(3, 3), (0, 5), r"positive image size \(H, W\), got \(0, 5\)"),
    ],
)
def test_bad_input_is_named(cam, image_size, message):
    with pytest.raises(ValueError, match=message):
        ops.resize_roundtrip(cam, image_size)
