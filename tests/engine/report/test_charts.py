import math

import numpy as np
import pytest

from wsolfast.engine.report import charts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 25, 50, 75, 100]),
        (0.02, 1.93, [0, 0.5, 1, 1.5, 2]),
        (-3, 7, [-5, -2.5, 0, 2.5, 5, 7.5]),
        (1e-4, 9e-4, [0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    np.testing.assert_allclose(charts.round_ticks(low, high), expected, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 3.0, -7.25])
def test_ticks_of_one_value_still_span_an_axis(value):
    ticks = charts.round_ticks(value, value)
    assert ticks[0] < value < ticks[-1]


def test_thinned_curves_keep_their_mean_and_ends():
    x = np.arange(1000.0)
    thin_x, thin_y = charts.thin_out(x, 2 * x, 100)
    assert len(thin_x) == 100
    np.testing.assert_allclose(thin_y, 2 * np.asarray(thin_x))
    assert np.mean(thin_x) == pytest.approx(x.mean())
    assert charts.thin_out([1, 2], [3, 4]) == ([1, 2], [3, 4])
    assert charts.thin_out([], []) == ([], [])


def _points(curve):
    return [tuple(map(float, point.split(","))) for point in curve.points.split()]


def test_curves_fill_the_frame_upwards():
    one = charts.line_chart("t", [charts.Series("a", 0, [0, 5, 10], [0, 100, 50])], x_label="x", y_label="y")
    frame = one.frame
    first, top, last = _points(one.curves[0])
    assert first == (frame["left"], frame["bottom"])
    assert top[1] == frame["top"]
    assert last == (frame["right"], (frame["top"] + frame["bottom"]) / 2)


def test_values_that_are_not_finite_are_left_out():
    series = charts.Series("a", 0, [0, 1, 2, 3], [1.0, math.nan, math.inf, 2.0])
    assert len(_points(charts.line_chart("t", [series], x_label="x", y_label="y").curves[0])) == 2


def test_a_chart_of_nothing_or_of_one_point_can_be_drawn():
    empty = charts.line_chart("t", [], x_label="x", y_label="y")
    assert len(empty.x_ticks) > 1
    single = charts.line_chart("t", [charts.Series("a", 0, [7], [3.0])], x_label="x", y_label="y")
    assert all(math.isfinite(value) for value in _points(single.curves[0])[0])


def test_reference_lines_widen_the_axis():
    series = charts.Series("a", 0, [0, 1], [10, 20])
    chart = charts.line_chart("t", [series], x_label="x", y_label="y", levels=[(80.0, "centre")])
    assert chart.frame["top"] <= chart.levels[0][0] <= chart.frame["bottom"]
