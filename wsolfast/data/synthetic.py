"""``synthetic``: animals rendered from a seed, with the two problems that WSOL papers fight.

Every class is a species of one of three families (bird, fish, beetle). Species of a family share their large body,
which takes on a little of the class's colour (``body_cue``), and differ in a small patterned head: a classifier needs
the head only, so its maps cover a part of the object (*partial activation*). Every class also has a habitat, the
background it stands on with probability ``cooccurrence``: the higher, the more the background tells the class
(*entangled context*). Boxes and masks are exact.

The same seed gives the same bytes everywhere: random numbers are counter-based, and pixels come from IEEE additions,
multiplications, divisions and square roots of float32 alone, element by element (no BLAS, no libm).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from wsolfast.data._base import SPLITS, Annotation, Source
from wsolfast.data._random import byte_draws, unit_draws

LAYOUT = "nothing: the images are rendered"
REQUIRED_SPLITS = SPLITS
Value = TypeVar("Value")

_PARAMETERS, _NOISE = 1, 2  # random streams; 0 is the augmentation's
_CACHE_BYTES = 256 << 20

_HUES = {
    "red": (222, 44, 44),
    "blue": (40, 84, 220),
    "yellow": (250, 205, 30),
    "violet": (150, 50, 200),
    "lime": (176, 250, 10),
    "orange": (250, 125, 20),
    "cyan": (20, 190, 215),
    "pink": (245, 105, 175),
}
_PATTERNS = ("plain", "barred", "spotted", "ringed")
_BODY_COLOURS = ((150, 142, 130), (128, 112, 94), (168, 152, 122), (112, 116, 122), (146, 126, 112))


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
class _Part:
    """One shape of a figure, in units of the figure; u points to the head, v down."""

    kind: str  # "ellipse": (u, v, a, b); "polygon": convex, corners (u, v); "limb": (u0, v0, u1, v1, radius)
    shape: tuple
    paint: str = "body"  # "body", "wing", "head", "horn", "eye"
    beyond: float | None = None  # only where u is larger: the head of a fish is the front of its body


_FAMILIES = {
    "bird": (
        _Part("limb", (-0.02, 0.34, -0.04, 0.64, 0.028), "horn"),
        _Part("limb", (0.12, 0.32, 0.12, 0.64, 0.028), "horn"),
        _Part("polygon", ((-0.5, -0.12), (-0.46, 0.2), (-1.14, 0.22), (-1.2, -0.04)), "wing"),
        _Part("ellipse", (-0.06, 0.06, 0.62, 0.36)),
        _Part("ellipse", (0.3, -0.12, 0.28, 0.26)),
        _Part("ellipse", (-0.22, 0.03, 0.44, 0.2), "wing"),
        _Part("polygon", ((0.66, -0.5), (1.0, -0.32), (0.66, -0.24)), "horn"),
        _Part("ellipse", (0.5, -0.36, 0.25, 0.23), "head"),
        _Part("ellipse", (0.58, -0.42, 0.05, 0.05), "eye"),
    ),
    "fish": (
        _Part("polygon", ((-0.6, -0.06), (-0.6, 0.06), (-0.96, 0.02), (-1.14, -0.42)), "wing"),
        _Part("polygon", ((-0.6, -0.06), (-0.6, 0.06), (-1.14, 0.42), (-0.96, -0.02)), "wing"),
        _Part("polygon", ((-0.42, -0.2), (-0.2, -0.58), (0.12, -0.54), (0.34, -0.2)), "wing"),
        _Part("polygon", ((-0.1, 0.24), (0.2, 0.24), (0.0, 0.56)), "wing"),
        _Part("ellipse", (0.05, 0.0, 0.8, 0.4)),
        _Part("ellipse", (0.05, 0.0, 0.8, 0.4), "head", beyond=0.46),
        _Part("ellipse", (0.64, -0.08, 0.055, 0.055), "eye"),
    ),
    "beetle": (
        *(
            _Part("limb", (u, 0.3 * side, u + lean, 0.74 * side, 0.035), "horn")
            for u, lean in ((0.36, 0.2), (0.0, -0.04), (-0.4, -0.26))
            for side in (-1, 1)
        ),
        _Part("limb", (0.86, -0.1, 1.14, -0.26, 0.025), "horn"),
        _Part("limb", (0.86, 0.1, 1.14, 0.26, 0.025), "horn"),
        _Part("ellipse", (-0.22, 0.0, 0.74, 0.54)),
        _Part("limb", (-0.94, 0.0, 0.3, 0.0, 0.018), "wing"),
        _Part("ellipse", (0.4, 0.0, 0.26, 0.42), "wing"),
        _Part("ellipse", (0.7, 0.0, 0.24, 0.28), "head"),
    ),
}
_SHADOW = _Part("ellipse", (-0.05, 0.12, 1.0, 0.6))


def open_source(
    root: Path | None,
    split: str,
    *,
    num_classes: int = 8,
    size: int = 128,
    num_train: int = 640,
    num_val: int = 80,
    num_test: int = 160,
    cooccurrence: float = 0.25,
    body_cue: float = 0.4,
    smallest: float = 0.45,
    largest: float = 0.85,
    world: int = 0,
) -> "SyntheticSource":
    """A rendered split.

    Args:
        root: not used; nothing is read.
        split: which images.
        num_classes: 2 to 32.
        size: side of the square images.
        num_train: number of images of ``train_weaksup``.
        num_val: number of images of ``train_fullsup``.
        num_test: number of images of ``test``.
        cooccurrence: probability that an animal stands in the habitat of its class; otherwise in any of them.
        body_cue: how much of its class's colour a body takes on; 0 leaves the class to the head.
        smallest: smallest longer side of an animal's box, as a share of the image's side.
        largest: largest longer side, at most 0.98.
        world: seed of the images (the seed of :func:`wsolfast.data.open_dataset` drives the augmentation).
    """
    if not 2 <= num_classes <= len(_HUES) * len(_PATTERNS):
        raise ValueError(f"num_classes: expected 2 to {len(_HUES) * len(_PATTERNS)}, got {num_classes}")
    if size < 32:
        raise ValueError(f"size: expected at least 32 px, got {size}")
    for name, share in (("cooccurrence", cooccurrence), ("body_cue", body_cue)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}: expected a number from 0 to 1, got {share}")
    if not 0.27 <= smallest <= largest <= 0.98:
        raise ValueError(f"smallest, largest: expected 0.27 <= smallest <= largest <= 0.98, got {smallest}, {largest}")
    count = {"train_weaksup": num_train, "train_fullsup": num_val, "test": num_test}[split]
    if count < 1:
        raise ValueError(f"split {split}: expected at least one image, got {count}")
    return SyntheticSource(
        split, count, num_classes, _Scenery(size, cooccurrence, body_cue, (smallest, largest)), world
    )


@dataclass(frozen=True)
class _Scenery:
    """What all images of a set share; see :func:`open_source`."""

    size: int
    cooccurrence: float
    body_cue: float
    extent: tuple[float, float]  # smallest and largest


class SyntheticSource(Source):
    """Rendered images; each process keeps what it has rendered."""

    has_masks = True

    def __init__(self, split: str, count: int, num_classes: int, scenery: _Scenery, world: int):
        self.labels = np.arange(count, dtype=np.int64) % num_classes
        self.class_names = [_class_name(k) for k in range(num_classes)]
        self.image_ids = [f"{split}/{i:06d}" for i in range(count)]
        self._split = SPLITS.index(split)
        self._scenery = scenery
        self._world = world
        self._rendered: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def read(self, index: int) -> np.ndarray:
        return self._render(index)[0].copy()

    def annotation(self, index: int) -> Annotation:
        box = torch.tensor([_tight_box(self._render(index)[1])], dtype=torch.float64)
        return Annotation((self._scenery.size, self._scenery.size), box)

    def mask(self, index: int) -> np.ndarray:
        return self._render(index)[1].copy()

    def scene(self, index: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        """Pixels and xyxy box, rendered anew and not kept."""
        pixels, mask = self._draw(index)
        return pixels, _tight_box(mask)

    def _render(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        scene = self._rendered.get(index)
        if scene is None:
            scene = self._draw(index)
            if (len(self._rendered) + 1) * 4 * self._scenery.size**2 > _CACHE_BYTES:
                self._rendered.clear()
            self._rendered[index] = scene
        return scene

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        position, size = (self._split, index), self._scenery.size
        draws = _Draws(unit_draws(self._world, _PARAMETERS, position, 64))
        noise = _Noise(byte_draws(self._world, _NOISE, position, 3 * 4096 + size**2))
        return _render(int(self.labels[index]), self._scenery, draws, noise)


def _class_name(k: int) -> str:
    return f"{_PATTERNS[_pattern_of(k)]}_{list(_HUES)[k % len(_HUES)]}_{_family_of(k)}"


def _family_of(k: int) -> str:
    return list(_FAMILIES)[k % len(_FAMILIES)]


def _hue_of(k: int) -> tuple[int, int, int]:
    return list(_HUES.values())[k % len(_HUES)]


def _pattern_of(k: int) -> int:
    return (k + k // len(_HUES)) % len(_PATTERNS)


class _Draws:
    """A queue of uniform numbers with the few distributions a scene needs."""

    def __init__(self, units: list[float]):
        self._units = iter(units)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._units)

    def one_of(self, choices: Sequence[Value]) -> Value:
        return choices[int(next(self._units) * len(choices))]

    def chance(self, probability: float) -> bool:
        return next(self._units) < probability


@dataclass
class _Noise:
    """A pool of random bytes that lattices are taken from."""

    pool: np.ndarray
    used: int = field(default=0)

    def take(self, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        taken = self.pool[self.used : self.used + count].reshape(shape)
        self.used += count
        return taken.astype(np.float32)

    def field(self, size: int, cells: tuple[int, int]) -> np.ndarray:
        """Smooth value noise [size, size] in 0..255 with ``cells`` (x, y) across the image."""
        across, down = (min(cell, 60) for cell in cells)
        lattice = self.take(down + 1, across + 1)
        low, weight = _taps(size, down)
        rows = lattice[low] + (lattice[low + 1] - lattice[low]) * weight[:, None]
        low, weight = _taps(size, across)
        left = np.take(rows, low, axis=1)
        return left + (np.take(rows, low + 1, axis=1) - left) * weight


@functools.lru_cache(maxsize=256)
def _taps(size: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel the lattice node before it and the smoothstep weight of the node after it."""
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(cells) / np.float32(size)
    low = np.minimum(position.astype(np.int64), cells - 1)
    t = position - low.astype(np.float32)
    return low, t * t * (3 - 2 * t)


def _render(label: int, scenery: _Scenery, draws: _Draws, noise: _Noise) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [size, size, 3] and mask uint8 [size, size]."""
    size = scenery.size
    at_home = draws.chance(scenery.cooccurrence)
    other = draws.one_of(range(len(_HABITATS)))
    habitat = _HABITATS[label % len(_HABITATS) if at_home else other]
    image = _background(habitat, size, draws, noise)
    mask = np.zeros((size, size), np.uint8)
    _draw_figure(image, mask, label, scenery, draws, noise)
    tint = np.array([draws.between(0.92, 1.08) for _ in range(3)], np.float32)[:, None, None]
    grain = (noise.take(size, size) - np.float32(127.5)) * np.float32(0.06)
    image *= tint * np.float32(draws.between(0.88, 1.1))
    image += grain
    np.clip(image, 0, 255, out=image)
    return (image + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0), mask


def _background(habitat: _Habitat, size: int, draws: _Draws, noise: _Noise) -> np.ndarray:
    """A habitat's texture, float32 [3, size, size]."""
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
    """The palette as 256 colours [3, 256]."""
    colours = np.array(palette, np.float32).T
    position = np.arange(256, dtype=np.float32) * np.float32((len(palette) - 1) / 255)
    low = np.minimum(position.astype(np.int64), len(palette) - 2)
    return colours[:, low] + (colours[:, low + 1] - colours[:, low]) * (position - low.astype(np.float32))


@dataclass(frozen=True)
class _Pose:
    """Where a figure stands: pixel = center + unit · R (u, aspect · v)."""

    unit: float  # pixels per unit of the figure
    cosine: float
    sine: float
    aspect: float
    center: tuple[float, float]

    def coordinates(self, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) of the pixel centres of a window, each [y1 - y0, x1 - x0]."""
        x = (np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - self.center[0])) / np.float32(self.unit)
        y = (np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - self.center[1])) / np.float32(self.unit)
        cosine, sine = np.float32(self.cosine), np.float32(self.sine)
        u = x[None, :] * cosine + y[:, None] * sine
        v = (y[:, None] * cosine - x[None, :] * sine) / np.float32(self.aspect)
        return u, v


def _place(
    parts: tuple[_Part, ...], size: int, extent: tuple[float, float], any_direction: bool, draws: _Draws
) -> _Pose:
    """A random pose whose box lies inside the image; its longer side is a share in ``extent`` of the image's."""
    # Tangent of half the angle: cosine and sine are rational in it, so no libm is needed.
    half = draws.between(-0.22, 0.22)
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    turns = draws.one_of(range(4)) if any_direction else 0
    mirrored = draws.chance(0.5)
    for _ in range(turns):
        cosine, sine = -sine, cosine
    aspect = draws.between(0.85, 1.2)
    points = [point for part in parts for point in _outline(part)]
    xs = [u * cosine - v * aspect * sine for u, v in points]
    ys = [u * sine + v * aspect * cosine for u, v in points]
    if mirrored:
        # Turning the cosine and the aspect around mirrors x and leaves y as it is.
        xs, cosine, aspect = [-x for x in xs], -cosine, -aspect
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    # The shorter side stays above 65 % of the smallest longer one, so that slim poses are not lost.
    shares = max(draws.between(*extent), 0.65 * extent[0] * max(width, height) / min(width, height))
    unit = min(shares, extent[1]) * size / max(width, height)
    left = draws.between(1, size - 1 - width * unit)
    top = draws.between(1, size - 1 - height * unit)
    return _Pose(unit, cosine, sine, aspect, (left - min(xs) * unit, top - min(ys) * unit))


def _outline(part: _Part) -> list[tuple[float, float]]:
    """Points whose hull is about the part's."""
    if part.kind == "polygon":
        return list(part.shape)
    if part.kind == "limb":
        u0, v0, u1, v1, _ = part.shape
        return [(u0, v0), (u1, v1)]
    u, v, a, b = part.shape
    d, e = 0.7071 * a, 0.7071 * b
    steps = ((a, 0), (d, e), (0, b), (-d, e), (-a, 0), (-d, -e), (0, -b), (d, -e))
    return [(u + du, v + dv) for du, dv in steps]


def _depth(part: _Part, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """About how far each point lies inside the part, in units of the figure; negative outside."""
    if part.kind == "ellipse":
        cu, cv, a, b = (np.float32(x) for x in part.shape)
        du, dv = (u - cu) / a, (v - cv) / b
        radius = np.sqrt(du * du + dv * dv) + np.float32(1e-6)
        gu, gv = du / a, dv / b
        depth = (1 - radius) * radius / (np.sqrt(gu * gu + gv * gv) + np.float32(1e-6))
        return depth if part.beyond is None else np.minimum(depth, u - np.float32(part.beyond))
    if part.kind == "limb":
        u0, v0, u1, v1, radius = part.shape
        along_u, along_v = u1 - u0, v1 - v0
        square = along_u * along_u + along_v * along_v
        du, dv = u - np.float32(u0), v - np.float32(v0)
        t = np.clip(du * np.float32(along_u / square) + dv * np.float32(along_v / square), 0, 1)
        du, dv = du - t * np.float32(along_u), dv - t * np.float32(along_v)
        return np.float32(radius) - np.sqrt(du * du + dv * dv)
    depth = None
    corners = part.shape
    middle = [sum(axis) / len(corners) for axis in zip(*corners, strict=True)]
    for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1], strict=True):
        normal_u, normal_v = v1 - v0, u0 - u1
        length = math.sqrt(normal_u * normal_u + normal_v * normal_v)
        inward = 1 if (middle[0] - u0) * normal_u + (middle[1] - v0) * normal_v > 0 else -1
        normal_u, normal_v = inward * normal_u / length, inward * normal_v / length
        edge = u * np.float32(normal_u) + v * np.float32(normal_v) - np.float32(u0 * normal_u + v0 * normal_v)
        depth = edge if depth is None else np.minimum(depth, edge)
    return depth


def _draw_figure(
    image: np.ndarray, mask: np.ndarray, label: int, scenery: _Scenery, draws: _Draws, noise: _Noise
) -> None:
    """Draw the class's figure into ``image`` and its exact mask into ``mask``."""
    size = scenery.size
    family = _family_of(label)
    parts = _FAMILIES[family]
    pose = _place(parts, size, scenery.extent, family == "beetle", draws)
    reach = pose.unit * 1.5
    x0, x1 = max(0, int(pose.center[0] - reach)), min(size, int(pose.center[0] + reach) + 1)
    y0, y1 = max(0, int(pose.center[1] - reach)), min(size, int(pose.center[1] + reach) + 1)
    u, v = pose.coordinates(x0, y0, x1, y1)
    body = _colour(draws.one_of(_BODY_COLOURS)) * np.float32(draws.between(0.8, 1.2))
    body += (_colour(_hue_of(label)) - body) * np.float32(scenery.body_cue)
    texture = noise.field(size, (14, 14))[y0:y1, x0:x1] * np.float32(1 / 255)
    shade = np.float32(1.12) - v * np.float32(0.28) + (texture - np.float32(0.5)) * np.float32(0.3)
    window = image[:, y0:y1, x0:x1]
    # Contact shadow, so that the figure stands on its ground.
    shadow = (_depth(_SHADOW, u, v) + np.float32(0.1)) * np.float32(1.6)
    window *= 1 - np.clip(shadow, 0, 0.35)
    covered = np.zeros(u.shape, np.float32)
    unit = np.float32(pose.unit)
    for part in parts:
        depth = _depth(part, u, v) * unit  # pixels
        alpha = np.clip(depth + np.float32(0.5), 0, 1)
        # A darker rim of about two pixels separates the figure from any background.
        rim = np.float32(0.62) + np.float32(0.38) * np.clip(depth * np.float32(0.5), 0, 1)
        light = rim if part.paint == "eye" else rim * shade
        colour = _paint(part, label, body, u, v)
        window += (colour * light - window) * alpha
        covered = np.maximum(covered, alpha)
    mask[y0:y1, x0:x1] = covered >= 0.5


def _paint(part: _Part, label: int, body: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Colour of a part, [3, 1, 1] or [3, h, w]."""
    if part.paint == "head":
        return _head_pattern(part, label, u, v)
    return {
        "body": body,
        "wing": body * np.float32(0.72),
        "horn": _colour((58, 48, 40)),
        "eye": _colour((14, 12, 14)),
    }[part.paint]


def _colour(rgb: tuple[int, int, int]) -> np.ndarray:
    return np.array(rgb, np.float32)[:, None, None]


def _head_pattern(part: _Part, label: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    hue = _hue_of(label)
    first = _colour(hue)
    second = _colour((28, 24, 30) if sum(hue) > 380 else (250, 246, 232))
    cu, cv, a, b = part.shape if part.beyond is None else (0.66, 0.0, 0.22, 0.28)
    du, dv = (u - np.float32(cu)) / np.float32(a), (v - np.float32(cv)) / np.float32(b)
    pattern = _PATTERNS[_pattern_of(label)]
    if pattern == "plain":
        return first
    if pattern == "barred":
        phase = du * np.float32(1.1) + np.float32(8.25)
        share = (np.abs(phase - np.floor(phase) - np.float32(0.5)) - np.float32(0.25)) * 8
    elif pattern == "spotted":
        pu, pv = du * np.float32(1.25) + 8, dv * np.float32(1.25) + 8
        pu, pv = pu - np.floor(pu) - np.float32(0.5), pv - np.floor(pv) - np.float32(0.5)
        share = (np.float32(0.32) - np.sqrt(pu * pu + pv * pv)) * 8
    else:
        phase = np.sqrt(du * du + dv * dv) * np.float32(1.25) + np.float32(0.1)
        share = (np.abs(phase - np.floor(phase) - np.float32(0.5)) - np.float32(0.25)) * 8
    return first + (second - first) * np.clip(share + np.float32(0.5), 0, 1)


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Half-open xyxy box of the set pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
