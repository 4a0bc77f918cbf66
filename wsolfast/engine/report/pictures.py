"""Pictures of score maps and boxes, with Pillow alone: colours, overlays, boxes, contact sheets, data URIs."""

import base64
import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

PREDICTED = (46, 204, 83)
TRUE = (255, 59, 48)

_HALO = (16, 16, 20)
_PAPER = (255, 255, 255)
_INK = (28, 28, 32)
_FAINT_INK = (110, 110, 118)

# Linear-light RGB of Oklab's cone responses, and the cone responses of (L, a, b) before cubing (Ottosson, 2020).
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_LAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)


def _linear_rgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    return (lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T


@cache
def color_table() -> np.ndarray:
    """Return the colours of scores 0 to 1: uint8 [256, 3], night blue over magenta and orange to pale yellow.

    Lightness rises evenly in Oklab, so equal steps of the score are equal steps to the eye and the order of scores
    survives in grey and for colour-blind readers. Every colour is as vivid as sRGB allows, less a margin of 15 %.
    """
    lightness = np.linspace(0.16, 0.96, 256)
    hue = np.deg2rad(np.linspace(275.0, 465.0, 256))
    inside, outside = np.zeros(256), np.full(256, 0.4)
    for _ in range(20):
        middle = (inside + outside) / 2
        rgb = _linear_rgb(lightness, middle, hue)
        fits = ((rgb >= 0) & (rgb <= 1)).all(axis=-1)
        inside, outside = np.where(fits, middle, inside), np.where(fits, outside, middle)
    # The gamut has corners along the path; a running mean keeps them from showing as rings in a smooth map.
    window = np.ones(33) / 33
    chroma = np.minimum(0.85 * inside, np.convolve(np.pad(0.85 * inside, 16, mode="edge"), window, mode="valid"))
    rgb = np.clip(_linear_rgb(lightness, chroma, hue), 0, 1)
    srgb = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    table = np.round(srgb * 255).astype(np.uint8)
    table.setflags(write=False)
    return table


def _levels(score_map: ArrayLike) -> np.ndarray:
    scores = np.asarray(score_map, dtype=np.float32)
    if scores.ndim != 2:
        raise ValueError(f"a score map has shape [h, w], got {list(scores.shape)}; pass one map at a time")
    return np.round(np.clip(np.nan_to_num(scores, nan=0.0), 0, 1) * 255).astype(np.uint8)


def resize_map(score_map: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """Resample a score map bicubically to ``size`` (w, h): float32 [h, w] in [0, 1]."""
    scores = np.nan_to_num(np.asarray(score_map, dtype=np.float32), nan=0.0)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"a score map has shape [h, w] with h, w >= 1, got {list(scores.shape)}")
    return np.clip(np.asarray(Image.fromarray(scores).resize(size, Image.Resampling.BICUBIC)), 0, 1)


def colorize(score_map: ArrayLike) -> Image.Image:
    """Draw a score map as a palette image.

    The palette is :func:`color_table`; ``.convert("RGB")`` gives plain colours, and PNG keeps it small.

    Args:
        score_map (Array[h, w]): or a CPU tensor; values outside [0, 1] are clipped, NaN is 0.
    """
    picture = Image.fromarray(_levels(score_map))
    picture.putpalette(color_table().tobytes())
    return picture


def overlay(image: Image.Image, score_map: ArrayLike, alpha: float = 0.55, *, fade: bool = False) -> Image.Image:
    """Draw ``image`` under its score map, resampled to the image's size.

    Args:
        image: of any mode.
        score_map (Array[h, w]): or a CPU tensor; in [0, 1], clipped, NaN is 0.
        alpha: share of the map's colours, in [0, 1].
        fade: that share falls to a fifth of ``alpha`` where the score is 0, so that the map does not hide the image.

    Returns:
        Image.Image: RGB, of the image's size.

    Raises:
        ValueError: if ``alpha`` or the shape of the map is wrong.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is a share in [0, 1], got {alpha}")
    scores, picture = resize_map(score_map, image.size), image.convert("RGB")
    colors = colorize(scores).convert("RGB")
    if not fade:
        return Image.blend(picture, colors, alpha)
    # From half of the range on the colours have their whole share.
    share = alpha * (0.2 + 0.8 * np.minimum(1, 2 * scores))
    return Image.composite(colors, picture, Image.fromarray(np.round(255 * share).astype(np.uint8)))


def spotlight(image: Image.Image, mask: ArrayLike) -> Image.Image:
    """Draw ``image`` where ``mask`` (bool [h, w], stretched to it) holds; dark and grey elsewhere."""
    stencil = Image.fromarray(np.asarray(mask, dtype=np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    dark = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, _HALO), 0.7)
    return Image.composite(image.convert("RGB"), dark, stencil)


def _dashes(start: float, end: float, dash: float) -> list[tuple[float, float]]:
    cuts = np.arange(start, end, 2 * dash)
    return [(cut, min(cut + dash, end)) for cut in cuts]


def draw_boxes(
    image: Image.Image,
    boxes: ArrayLike,
    color: tuple[int, int, int] = PREDICTED,
    width: int = 2,
    *,
    dashed: bool = False,
) -> Image.Image:
    """Draw boxes on a copy of ``image``, on a dark halo so that they stand out from any background.

    Args:
        boxes (Array[B, 4]): half-open (x0, y0, x1, y1) pixels of ``image``; parts outside it are clipped.
        color: RGB, each 0 to 255.
        width: of the lines, in pixels.
        dashed: interrupts the line, so that two kinds of boxes differ without their colours.
    """
    picture = image.convert("RGB")
    draw = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        x0, x1 = np.clip([x0, x1], 0, picture.width)
        y0, y1 = np.clip([y0, y1], 0, picture.height)
        if x1 - x0 < 1 or y1 - y0 < 1:
            continue
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=_HALO, width=width + 1)
        if not dashed:
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=color, width=width)
            continue
        dash = max(4, 3 * width)
        for a, b in _dashes(x0, x1 - 1, dash):
            draw.rectangle((a, y0, b, min(y0 + width, y1) - 1), fill=color)
            draw.rectangle((a, max(y1 - width, y0), b, y1 - 1), fill=color)
        for a, b in _dashes(y0, y1 - 1, dash):
            draw.rectangle((x0, a, min(x0 + width, x1) - 1, b), fill=color)
            draw.rectangle((max(x1 - width, x0), a, x1 - 1, b), fill=color)
    return picture


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """Resize a picture so that its longer side has ``side`` pixels."""
    size = [max(1, round(length * side / max(picture.size))) for length in picture.size]
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _shortened(text: str, font: Any, space: int) -> str:
    if font.getlength(text) <= space:
        return text
    while text and font.getlength(text + "…") > space:
        text = text[:-1]
    return text + "…"


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str],
    captions: Sequence[Sequence[str]],
    *,
    title: str = "",
    legend: Sequence[tuple[tuple[int, int, int], str]] = (),
    cell: int = 192,
) -> Image.Image:
    """Draw pictures in a grid, each over its caption, under column titles.

    Args:
        rows: pictures; every row has one per column. Each is fitted into a square of ``cell`` pixels.
        columns: the column titles.
        captions: one line of text under each picture, in the grid's shape.
        title: above it all.
        legend: (colour, meaning) pairs, printed below the grid.

    Raises:
        ValueError: if rows, columns and captions do not fit together.
    """
    if any(len(row) != len(columns) for row in rows) or [len(c) for c in captions] != [len(r) for r in rows]:
        raise ValueError(f"a contact sheet needs {len(columns)} pictures and captions in every row, one per column")
    gap, margin, line = cell // 12, cell // 6, cell // 8
    bold, plain = ImageFont.load_default(size=cell // 11), ImageFont.load_default(size=cell // 14)
    fitted = [[_fit(picture, cell) for picture in row] for row in rows]
    heights = [max((picture.height for picture in row), default=0) for row in fitted]
    top = margin + (2 * line if title else 0) + line + gap // 2
    end = top + sum(heights) + len(rows) * (line + gap)
    width = 2 * margin + len(columns) * (cell + gap) - gap
    sheet = Image.new("RGB", (width, end + (2 * line if legend else 0) + margin // 2), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin), _shortened(title, bold, width - 2 * margin), _INK, bold)
    for j, name in enumerate(columns):
        x, y = margin + j * (cell + gap), top
        draw.text((x, top - line - gap // 2), _shortened(name, bold, cell), _INK, bold)
        for row, height, caption in zip(fitted, heights, captions, strict=True):
            sheet.paste(row[j], (x + (cell - row[j].width) // 2, y + (height - row[j].height) // 2))
            draw.text((x, y + height + line // 6), _shortened(caption[j], plain, cell), _FAINT_INK, plain)
            y += height + line + gap
    x, y = margin, end + line // 2
    for color, meaning in legend:
        draw.rectangle((x, y, x + line, y + line * 2 // 3), outline=color, width=3)
        draw.text((x + line * 3 // 2, y - line // 12), meaning, _INK, plain)
        x += line * 3 + int(plain.getlength(meaning))
    return sheet


def encode_jpeg_data_uri(image: Image.Image, quality: int = 78) -> str:
    """Encode an image as a ``data:image/jpeg`` address, for pages that must stand alone."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, format="JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
