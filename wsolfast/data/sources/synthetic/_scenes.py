"""A scene: a species in a habitat, pixels and exact mask."""

import functools
from dataclasses import dataclass

import numpy as np

from wsolfast.data.sources.synthetic._draws import Draws, Noise
from wsolfast.data.sources.synthetic._figures import draw_figure


@dataclass(frozen=True)
class _Habitat:
    """A background texture: palette from dark to light over stretched value noise, perhaps folded into ripples."""

    palette: tuple[tuple[int, int, int], ...]
    cells: tuple[int, int]  # noise cells across the coarsest octave (x, y)
    ripples: float = 0.0  # bands down the image; 0 for plain noise
    levels: int = 0  # posterised to so many tones; 0 for continuous


_HABITATS = (
    _Habitat(((24, 62, 22), (70, 124, 40), (150, 186, 84)), (26, 3)),  # meadow
    _Habitat(((14, 50, 92), (36, 104, 150), (132, 190, 206)), (4, 7), ripples=7.0),  # water
    _Habitat(((150, 112, 66), (204, 170, 112), (238, 216, 166)), (3, 5), ripples=9.0),  # sand
    _Habitat(((26, 40, 28), (58, 84, 44), (120, 128, 56), (176, 150, 66)), (7, 7), levels=5),  # leaves
    _Habitat(((62, 62, 66), (118, 116, 114), (186, 182, 174)), (9, 9), levels=7),  # stone
    _Habitat(((46, 26, 18), (96, 60, 38), (156, 110, 74)), (22, 2)),  # bark
    _Habitat(((66, 48, 96), (156, 96, 128), (240, 178, 142)), (3, 4)),  # dusk
    _Habitat(((190, 202, 216), (222, 230, 238), (250, 250, 252)), (5, 4)),  # snow
)


@dataclass(frozen=True)
class Scenery:
    """Settings that all images of a set share; see :func:`wsolfast.data.sources.synthetic.open_source`."""

    size: int
    cooccurrence: float
    body_cue: float
    extent: tuple[float, float]  # smallest and largest


def render(label: int, scenery: Scenery, draws: Draws, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Render image uint8 [size, size, 3] and mask uint8 [size, size]."""
    size = scenery.size
    at_home = draws.chance(scenery.cooccurrence)
    other = draws.one_of(range(len(_HABITATS)))
    habitat = _HABITATS[label % len(_HABITATS) if at_home else other]
    image = _background(habitat, size, draws, noise)
    mask = np.zeros((size, size), np.uint8)
    draw_figure(image, mask, label, scenery.extent, scenery.body_cue, draws, noise)
    tint = np.array([draws.between(0.92, 1.08) for _ in range(3)], np.float32)[:, None, None]
    grain = (noise.take(size, size) - np.float32(127.5)) * np.float32(0.06)
    image *= tint * np.float32(draws.between(0.88, 1.1))
    image += grain
    np.clip(image, 0, 255, out=image)
    return (image + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0), mask


def _background(habitat: _Habitat, size: int, draws: Draws, noise: Noise) -> np.ndarray:
    """Paint the texture of a habitat, float32 [3, size, size]."""
    across, down = habitat.cells
    tone = noise.field(size, (across, down)) * np.float32(0.6)
    tone += noise.field(size, (across * 2, down * 2)) * np.float32(0.28)
    tone += noise.field(size, (across * 4, down * 4)) * np.float32(0.12)
    if habitat.ripples:
        row = np.arange(size, dtype=np.float32)[:, None] * np.float32(habitat.ripples / size)
        phase = row + tone * np.float32(2.2 / 255) + np.float32(draws.between(0, 1))
        fold = phase - np.floor(phase)  # a sawtooth, mirrored into a triangle wave
        tone = np.abs(fold * 2 - 1) * np.float32(190) + tone * np.float32(0.25)
    else:
        tone = (tone - np.float32(127.5)) * np.float32(1.6) + np.float32(127.5)
    if habitat.levels:
        step = np.float32(256 / habitat.levels)
        tone = np.floor(tone / step) * step + (tone - np.floor(tone / step) * step) * np.float32(0.25)
    tone = np.clip(tone + np.float32(draws.between(-24, 24)), 0, 255).astype(np.uint8)
    return np.take(_ramp(habitat.palette), tone, axis=1)


@functools.lru_cache(maxsize=64)
def _ramp(palette: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Return the palette as 256 colours [3, 256]."""
    colours = np.array(palette, np.float32).T
    position = np.arange(256, dtype=np.float32) * np.float32((len(palette) - 1) / 255)
    low = np.minimum(position.astype(np.int64), len(palette) - 2)
    return colours[:, low] + (colours[:, low + 1] - colours[:, low]) * (position - low.astype(np.float32))
