"""Geometry of small line charts: data in, SVG coordinates out; the report's template draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

WIDTH, HEIGHT = 360, 244
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 44


@dataclass(frozen=True)
class Series:
    """One curve in data coordinates."""

    name: str
    color: int  # which of the page's line colours
    x: Sequence[float]
    y: Sequence[float]
    dots: Sequence[tuple[float, float, str, str]] = ()  # x, y, kind ("oracle", "transferred"), what it says


@dataclass(frozen=True)
class Curve:
    """One curve in SVG coordinates."""

    name: str
    color: int
    points: str
    dots: list[tuple[float, float, str, str]]


@dataclass(frozen=True)
class Chart:
    """Everything a template needs to draw one chart."""

    title: str
    x_label: str
    y_label: str
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    levels: list[tuple[float, str]]  # horizontal reference lines
    description: str
    width: int = WIDTH
    height: int = HEIGHT
    frame: dict[str, int] = field(
        default_factory=lambda: {"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
    )


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers that enclose [low, high]; their ends are the axis."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def thin_out(x: Sequence[float], y: Sequence[float], limit: int = 160) -> tuple[list[float], list[float]]:
    """Return at most ``limit`` points, each the mean of a run of neighbours."""
    parts = np.array_split(np.arange(len(x)), min(limit, len(x))) if len(x) else []
    return [float(np.mean([x[i] for i in part])) for part in parts], [
        float(np.mean([y[i] for i in part])) for part in parts
    ]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] | None = None,
    y_ticks: Sequence[float] | None = None,
    levels: Sequence[tuple[float, str]] = (),
    description: str = "",
) -> Chart:
    """Lay out curves on common axes; values that are not finite break no curve, they are left out."""
    kept = []
    for one in series:
        pairs = [(a, b) for a, b in zip(one.x, one.y, strict=True) if math.isfinite(a) and math.isfinite(b)]
        kept.append((one, pairs))
    xs = [a for _, pairs in kept for a, _ in pairs] or [0.0, 1.0]
    ys = [b for _, pairs in kept for _, b in pairs] + [level for level, _ in levels] or [0.0, 1.0]
    start, end = (x_ticks[0], x_ticks[-1]) if x_ticks else (min(xs), max(xs))
    end = end if end > start else start + 1
    x_ticks = x_ticks or [tick for tick in round_ticks(start, end) if start <= tick <= end]
    y_ticks = list(y_ticks or round_ticks(min(ys), max(ys)))

    def place_x(value: float) -> float:
        return round(LEFT + (value - start) / (end - start) * (WIDTH - LEFT - RIGHT), 1)

    def place_y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM), 1)

    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        curves=[
            Curve(
                one.name,
                one.color,
                " ".join(f"{place_x(a)},{place_y(b)}" for a, b in pairs),
                [(place_x(a), place_y(b), kind, says) for a, b, kind, says in one.dots],
            )
            for one, pairs in kept
        ],
        x_ticks=[(place_x(tick), f"{tick:g}") for tick in x_ticks],
        y_ticks=[(place_y(tick), f"{tick:g}") for tick in y_ticks],
        levels=[(place_y(level), name) for level, name in levels],
        description=description,
    )
