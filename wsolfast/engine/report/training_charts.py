"""Training curves by step, for the page and as a picture: losses, accuracy on the training images, learning rate."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from wsolfast.engine.report.charts import Chart, Series, line_chart, thin_out
from wsolfast.engine.run.run_records import RunRecord

_SCALE = 2
_GAP, _MARGIN, _TITLE, _LEGEND = 28, 20, 40, 20
_PAPER, _INK, _SOFT, _RULE = (255, 255, 255), (28, 28, 33), (92, 93, 102), (228, 228, 225)
# The page's line colours, in its order.
_COLORS = ((138, 143, 156), (161, 38, 138), (29, 143, 138), (217, 100, 43), (63, 116, 209), (122, 139, 28))


def training_charts(run: RunRecord) -> list[list[Chart]]:
    """Return the charts of each stage that left a log: losses, then accuracy and learning rate if there are any."""
    stages = list(dict.fromkeys(row.get("stage", "") for row in run.history))
    return [_of_stage(run, stage, f"{run.label}, {stage}" if len(stages) > 1 else run.label) for stage in stages]


def draw_training(run: RunRecord) -> Image.Image | None:
    """Draw :func:`training_charts` as one picture, a row per stage; None if nothing was logged."""
    rows = training_charts(run)
    return draw_charts(rows) if rows else None


def draw_charts(rows: Sequence[Sequence[Chart]]) -> Image.Image:
    """Draw rows of charts as one picture."""
    sample = rows[0][0]
    step_x, step_y = sample.width + _GAP, sample.height + _TITLE + _LEGEND + _GAP
    size = (2 * _MARGIN + max(map(len, rows)) * step_x - _GAP, 2 * _MARGIN + len(rows) * step_y - _GAP)
    picture = Image.new("RGB", (size[0] * _SCALE, size[1] * _SCALE), _PAPER)
    draw = ImageDraw.Draw(picture)
    for i, charts in enumerate(rows):
        for j, chart in enumerate(charts):
            _draw(draw, chart, _MARGIN + j * step_x, _MARGIN + i * step_y)
    return picture


def _of_stage(run: RunRecord, stage: str, title: str) -> list[Chart]:
    rows = [row for row in run.history if row.get("stage", "") == stage]
    checks = [
        {"step": row.get("step", i)} | row["validation"]
        for i, row in enumerate(row for row in run.validations if row.get("stage", "") == stage)
    ]
    parts = ["loss", *sorted({key for row in rows for key in row if key.startswith("loss_")})]
    losses = [_series(rows, part, part.removeprefix("loss_"), color) for color, part in enumerate(parts)]
    if checks:
        losses.append(_series(checks, "loss", "validation", len(parts)))
    steps = rows[-1].get("step", len(rows))
    says = f"loss from {losses[0].y[0]:.3g} to {losses[0].y[-1]:.3g} over {steps} steps"
    found = [line_chart(title, losses, x_label="step", y_label="loss", description=says)]
    accuracy = [
        _series(rows, "accuracy", "training accuracy", 0, 100),
        _series(checks, "accuracy", "validation accuracy", 1, 100),
        _series(checks, "gt_known_loc", "validation GT-known Loc, which looks at boxes", 2),
    ]
    for name, ticks, lines in (
        ("accuracy, %" if checks else "training accuracy, %", (0, 25, 50, 75, 100), accuracy),
        ("learning rate", None, [_series(rows, "lr", "learning rate", 0)]),
    ):
        lines = [line for line in lines if line.x]
        if lines:
            names = [f"{line.name} " if len(lines) > 1 else "" for line in lines]
            ends = [f"from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines]
            says = "; ".join(name + end for name, end in zip(names, ends, strict=True))
            found.append(line_chart(title, lines, x_label="step", y_label=name, y_ticks=ticks, description=says))
    return found


def _series(rows: Sequence[dict], key: str, name: str, color: int, factor: float = 1) -> Series:
    kept = [(row.get("step", i), factor * row[key]) for i, row in enumerate(rows) if row.get(key) is not None]
    return Series(name, color, *thin_out([step for step, _ in kept], [value for _, value in kept]))


def _draw(draw: ImageDraw.ImageDraw, chart: Chart, left: float, top: float) -> None:
    """Draw the chart with its title above and its legend below, as the page draws it."""
    bold, plain = ImageFont.load_default(size=14 * _SCALE), ImageFont.load_default(size=11 * _SCALE)

    def at(x: float, y: float) -> tuple[float, float]:
        return (left + x) * _SCALE, (top + _TITLE + y) * _SCALE

    draw.text(at(0, -_TITLE), chart.title, _INK, bold)
    # At the ends of their axes: Pillow does not turn text.
    draw.text(at(0, 18 - _TITLE), chart.y_label, _SOFT, plain)
    draw.text(at(chart.frame["right"], chart.height - 2), chart.x_label, _SOFT, plain, anchor="rb")
    for y, text in chart.y_ticks:
        draw.line([at(chart.frame["left"], y), at(chart.frame["right"], y)], _RULE, _SCALE)
        draw.text(at(chart.frame["left"] - 7, y), text, _SOFT, plain, anchor="rm")
    for x, text in chart.x_ticks:
        draw.text(at(x, chart.frame["bottom"] + 6), text, _SOFT, plain, anchor="mt")
    legend: float = chart.frame["left"]
    for curve in chart.curves:
        color = _COLORS[curve.color % len(_COLORS)]
        points = [at(*map(float, point.split(","))) for point in curve.points.split()]
        draw.line(points, color, 2 * _SCALE, joint="curve")
        if len(chart.curves) > 1:
            y = chart.height + 8
            draw.line([at(legend, y), at(legend + 16, y)], color, 3 * _SCALE)
            draw.text(at(legend + 22, y), curve.name, _SOFT, plain, anchor="lm")
            legend += 40 + plain.getlength(curve.name) / _SCALE
