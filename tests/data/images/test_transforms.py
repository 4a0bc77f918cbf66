import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast.data import DataError, Placement, View, resize, ten_crop


def pixels(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (97, 33), (1, 1), (224, 224), (20, 700)])
@pytest.mark.parametrize("side", [224, 64])
def test_warp_is_pillows_within_one_level(height, width, side):
    image = pixels(height, width)
    expected = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)).astype(int)
    warped = resize(torch.from_numpy(image).permute(2, 0, 1), (side, side)).permute(1, 2, 0).numpy()
    assert warped.shape == expected.shape
    assert np.abs(warped - expected).max() <= 1


@pytest.mark.parametrize(
    ("view", "shape", "placement"),
    [
        (View(), (3, 30, 50), Placement((50, 30), (50, 30), (1.0, 1.0), (0, 0))),
        (View(20), (3, 20, 20), Placement((50, 30), (20, 20), (0.4, 20 / 30), (0, 0))),
        (View((15, 10)), (3, 15, 10), Placement((50, 30), (10, 15), (0.2, 0.5), (0, 0))),
        (View(60, keep_aspect=True), (3, 60, 100), Placement((50, 30), (100, 60), (2.0, 2.0), (0, 0))),
        (View(60, 40, keep_aspect=True), (3, 40, 40), Placement((50, 30), (40, 40), (2.0, 2.0), (30, 10))),
    ],
)
def test_evaluation_views(view, shape, placement):
    image, where = view(pixels(30, 50), [], "image")
    assert image.shape == shape
    assert where == placement


def test_center_crop_takes_the_middle():
    image = pixels(9, 12)
    view, _ = View(crop=5)(image, [], "image")
    assert torch.equal(view, torch.from_numpy(image[2:7, 4:9]).permute(2, 0, 1))


@pytest.mark.parametrize("flip", [0, 1])
def test_random_crop_follows_its_draws(flip):
    image = pixels(9, 12)
    view, placement = View(crop=5, train=True)(image, [4 + 5 * 7, 6 + 8 * 3, flip], "image")
    expected = torch.from_numpy(image[4:9, 6:11]).permute(2, 0, 1)
    assert torch.equal(view, expected.flip(-1) if flip else expected)
    assert placement.offset == (6, 4)
    assert placement.flip == bool(flip)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_go_to_the_view_and_back(flip):
    placement = Placement((500, 375), (224, 224), (256 / 500, 256 / 375), (17, 5), flip)
    boxes = torch.tensor([[0.0, 0, 500, 375], [12, 40, 300.5, 41], [100, 100, 101, 101]], dtype=torch.float64)
    torch.testing.assert_close(placement.boxes_to_image(placement.boxes_to_view(boxes)), boxes, rtol=0, atol=1e-10)
    assert placement.boxes_to_view(boxes.float()).dtype == torch.float64


@pytest.mark.parametrize("flip", [False, True])
def test_a_box_holds_the_same_pixels_in_the_image_and_in_the_view(flip):
    image = np.zeros((40, 60, 3), np.uint8)
    image[8:20, 30:46] = 255
    view, placement = View(crop=32, train=True)(image, [3, 20, int(flip)], "image")
    x0, y0, x1, y1 = placement.boxes_to_view(torch.tensor([30, 8, 46, 20])).long().tolist()
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[y0:y1, x0:x1] = True
    assert torch.equal(view[0] == 255, inside)


@pytest.mark.parametrize("flip", [False, True])
def test_maps_return_to_where_they_came_from(flip):
    image = np.zeros((40, 60, 3), np.uint8)
    image[8:20, 30:46] = 255
    view, placement = View(crop=32, train=True)(image, [3, 20, int(flip)], "image")
    back = placement.maps_to_image(view[:1].double() / 255)
    assert torch.equal(back[0], torch.from_numpy(image[..., 0] / 255.0))


def test_maps_of_a_warped_view_cover_the_image():
    _, placement = View(14)(pixels(30, 50), [], "image")
    maps = torch.rand(2, 7, 7)
    back = placement.maps_to_image(maps)
    expected = torch.nn.functional.interpolate(maps[None], (30, 50), mode="bilinear")[0]
    torch.testing.assert_close(back, expected, rtol=0, atol=1e-5)


def test_ten_crop_is_corners_and_centre_then_mirrored():
    images = torch.arange(2 * 3 * 6 * 9).reshape(2, 3, 6, 9)
    crops = ten_crop(images, 4)
    assert crops.shape == (2, 10, 3, 4, 4)
    places = [(0, 0), (0, 5), (2, 0), (2, 5), (1, 2)]
    for k, (top, left) in enumerate(places):
        assert torch.equal(crops[:, k], images[..., top : top + 4, left : left + 4])
        assert torch.equal(crops[:, 5 + k], images.flip(-1)[..., top : top + 4, left : left + 4])
    with pytest.raises(ValueError, match="crop=7 is larger than the images, 6x9"):
        ten_crop(images, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 0}, "resize: expected a positive side"),
        ({"resize": (10, 20, 30)}, "resize: expected a positive side"),
        ({"resize": (10,)}, "resize: expected a positive side"),
        ({"resize": 20, "crop": 21}, "expected 1 <= crop <= resize, got crop=21 with resize=20"),
        ({"crop": 0}, "expected 1 <= crop <= resize"),
        ({"resize": (10, 20), "keep_aspect": True}, "keep_aspect: resize is then the shorter side"),
    ],
)
def test_impossible_views_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        View(**options)


def test_image_smaller_than_its_crop_is_named():
    with pytest.raises(DataError, match=r"tiny.jpg: 4x3 px is smaller than crop=5"):
        View(crop=5)(pixels(3, 4), [], "tiny.jpg")
