"""The figure of a species, posed and painted; its mask is exact."""

import math
from dataclasses import dataclass

import numpy as np

from wsolfast.data.sources.synthetic._draws import Draws, Noise
from wsolfast.data.sources.synthetic._species import (
    BODY_COLOURS,
    FAMILIES,
    PATTERNS,
    SHADOW,
    Part,
    family_of,
    hue_of,
    pattern_of,
)


@dataclass(frozen=True)
class _Pose:
    """Place of a figure: pixel = center + unit · R (u, aspect · v)."""

    unit: float  # pixels per unit of the figure
    cosine: float
    sine: float
    aspect: float
    center: tuple[float, float]

    def coordinates(self, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (u, v) of the pixel centres of a window, each [y1 - y0, x1 - x0]."""
        x = (np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - self.center[0])) / np.float32(self.unit)
        y = (np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - self.center[1])) / np.float32(self.unit)
        cosine, sine = np.float32(self.cosine), np.float32(self.sine)
        u = x[None, :] * cosine + y[:, None] * sine
        v = (y[:, None] * cosine - x[None, :] * sine) / np.float32(self.aspect)
        return u, v


def _place(parts: tuple[Part, ...], size: int, extent: tuple[float, float], any_direction: bool, draws: Draws) -> _Pose:
    """Draw a random pose whose box lies inside the image; its longer side is a share in ``extent`` of the image's."""
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


def _outline(part: Part) -> list[tuple[float, float]]:
    """Return points whose hull is about the part's."""
    if part.kind == "polygon":
        return list(part.shape)
    if part.kind == "limb":
        u0, v0, u1, v1, _ = part.shape
        return [(u0, v0), (u1, v1)]
    u, v, a, b = part.shape
    d, e = 0.7071 * a, 0.7071 * b
    steps = ((a, 0), (d, e), (0, b), (-d, e), (-a, 0), (-d, -e), (0, -b), (d, -e))
    return [(u + du, v + dv) for du, dv in steps]


def _depth(part: Part, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return about how far each point lies inside the part, in units of the figure; negative outside."""
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


def draw_figure(
    image: np.ndarray,
    mask: np.ndarray,
    label: int,
    extent: tuple[float, float],
    body_cue: float,
    draws: Draws,
    noise: Noise,
) -> None:
    """Draw the class's figure into ``image`` and its exact mask into ``mask``."""
    size = mask.shape[0]
    family = family_of(label)
    parts = FAMILIES[family]
    pose = _place(parts, size, extent, family == "beetle", draws)
    reach = pose.unit * 1.5
    x0, x1 = max(0, int(pose.center[0] - reach)), min(size, int(pose.center[0] + reach) + 1)
    y0, y1 = max(0, int(pose.center[1] - reach)), min(size, int(pose.center[1] + reach) + 1)
    u, v = pose.coordinates(x0, y0, x1, y1)
    body = _colour(draws.one_of(BODY_COLOURS)) * np.float32(draws.between(0.8, 1.2))
    body += (_colour(hue_of(label)) - body) * np.float32(body_cue)
    texture = noise.field(size, (14, 14))[y0:y1, x0:x1] * np.float32(1 / 255)
    shade = np.float32(1.12) - v * np.float32(0.28) + (texture - np.float32(0.5)) * np.float32(0.3)
    window = image[:, y0:y1, x0:x1]
    # Contact shadow, so that the figure stands on its ground.
    shadow = (_depth(SHADOW, u, v) + np.float32(0.1)) * np.float32(1.6)
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


def _paint(part: Part, label: int, body: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the colour of a part, [3, 1, 1] or [3, h, w]."""
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


def _head_pattern(part: Part, label: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    hue = hue_of(label)
    first = _colour(hue)
    second = _colour((28, 24, 30) if sum(hue) > 380 else (250, 246, 232))
    cu, cv, a, b = part.shape if part.beyond is None else (0.66, 0.0, 0.22, 0.28)
    du, dv = (u - np.float32(cu)) / np.float32(a), (v - np.float32(cv)) / np.float32(b)
    pattern = PATTERNS[pattern_of(label)]
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
