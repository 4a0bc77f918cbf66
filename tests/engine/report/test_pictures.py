import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from wsolfast.engine.report import pictures


def _oklab_lightness(rgb):
    srgb = rgb.astype(np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lms = np.cbrt(linear @ np.linalg.inv(pictures._LMS_TO_RGB).T)
    return (lms @ np.linalg.inv(pictures._LAB_TO_LMS).T)[:, 0]


def _decoded(uri, mime):
    head, payload = uri.split(",", 1)
    assert head == f"data:{mime};base64"
    return Image.open(io.BytesIO(base64.b64decode(payload)))


def test_color_table_rises_evenly_in_lightness():
    table = pictures.color_table()
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    steps = np.diff(_oklab_lightness(table))
    # A table of bytes cannot be smoother than its rounding, about 1/255 of lightness in the dark end.
    assert np.abs(steps - 0.8 / 255).max() < 0.004
    assert np.abs(np.diff(table.astype(int), axis=0)).max() <= 6


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_colorize_maps_scores_to_the_table_and_clips(kind):
    picture = pictures.colorize(kind(np.array([[0.0, 1.0, 0.5], [-3.0, 7.0, np.nan]], dtype=np.float32)))
    assert picture.size == (3, 2)
    expected = pictures.color_table()[[[0, 255, 128], [0, 255, 0]]]
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), expected)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_colorize_says_which_shape_it_wants(shape):
    with pytest.raises(ValueError, match=r"shape \[h, w\]"):
        pictures.colorize(np.zeros(shape))


def test_a_fading_overlay_keeps_the_image_where_the_score_is_low():
    image = Image.new("RGB", (3, 1), (250, 240, 230))
    scores = np.array([[0.0, 0.5, 1.0]])
    shown = np.asarray(pictures.overlay(image, scores, 0.5, fade=True), dtype=float)
    colors = np.asarray(pictures.colorize(scores).convert("RGB"), dtype=float)
    for column, share in enumerate((0.1, 0.5, 0.5)):
        # Shares and colours are rounded to 255 levels.
        np.testing.assert_allclose(
            shown[0, column], (1 - share) * np.array((250, 240, 230)) + share * colors[0, column], atol=1.5
        )


def test_overlay_keeps_the_image_at_zero_and_the_map_at_one():
    image = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
    score_map = np.random.default_rng(0).random((5, 7))
    np.testing.assert_array_equal(np.asarray(pictures.overlay(image, score_map, 0.0)), np.asarray(image))
    colors = np.asarray(pictures.colorize(score_map).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(pictures.overlay(image, score_map, 1.0)), colors)
    with pytest.raises(ValueError, match="alpha"):
        pictures.overlay(image, score_map, 1.5)


def test_resize_map_peaks_where_the_map_peaks():
    score_map = np.zeros((4, 8), np.float32)
    score_map[1, 6] = 1
    large = pictures.resize_map(score_map, (80, 40))
    y, x = np.unravel_index(large.argmax(), large.shape)
    assert large.shape == (40, 80)
    assert (y // 10, x // 10) == (1, 6)
    assert 0 <= large.min() <= large.max() <= 1


def test_boxes_are_half_open_and_clipped():
    black = Image.new("RGB", (20, 10))
    drawn = np.asarray(pictures.draw_boxes(black, [[2, 3, 9, 8]], (0, 255, 0), 1))
    ys, xs = np.nonzero((drawn == (0, 255, 0)).all(-1))
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (2, 3, 8, 7)
    assert np.asarray(black).max() == 0, "the picture given must stay as it was"
    outside = np.asarray(pictures.draw_boxes(black, [[-5, -5, 99, 99]], (0, 255, 0), 1))
    assert (outside[0] == (0, 255, 0)).all()
    assert np.asarray(pictures.draw_boxes(black, np.zeros((0, 4)))).max() == 0
    assert np.asarray(pictures.draw_boxes(black, [[4, 4, 4, 4]])).max() == 0


def test_a_dashed_box_has_gaps_that_a_plain_one_lacks():
    black = Image.new("RGB", (60, 60))
    plain, dashed = (
        (np.asarray(pictures.draw_boxes(black, [[5, 5, 55, 55]], (255, 0, 0), 2, dashed=d)) == (255, 0, 0)).all(-1)
        for d in (False, True)
    )
    assert (dashed <= plain).all()
    assert 0.3 * plain.sum() < dashed.sum() < 0.75 * plain.sum()


def test_data_uris_decode_to_the_picture():
    picture = pictures.colorize(np.linspace(0, 1, 64 * 48).reshape(64, 48))
    seen = _decoded(pictures.encode_jpeg_data_uri(picture, 95), "image/jpeg")
    assert seen.size == (48, 64)
    assert np.abs(np.asarray(seen, dtype=int) - np.asarray(picture.convert("RGB"))).mean() < 3


def test_contact_sheet_fits_any_picture_and_rejects_ragged_rows():
    pictures_ = [Image.new("RGB", (50, 20), (9, 9, 200)), Image.new("RGB", (20, 50), (9, 200, 9))]
    sheet = pictures.contact_sheet(
        [pictures_] * 3, ["a", "b"], [["x" * 300, "y"]] * 3, title="t", legend=[((1, 2, 3), "box")], cell=96
    )
    seen = {tuple(color) for color in np.asarray(sheet).reshape(-1, 3)}
    assert {(9, 9, 200), (9, 200, 9), (1, 2, 3)} <= seen
    assert sheet.height > 3 * 96
    with pytest.raises(ValueError, match="2 pictures"):
        pictures.contact_sheet([pictures_[:1]], ["a", "b"], [["x"]])
