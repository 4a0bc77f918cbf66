"""The leaderboard tells rows apart only where their seeds do."""

import pytest
from pages import generate

measured = generate.neighbour("measured")


def row(*values, trained=True):
    return measured.Row("cub50/cam", {seed: {"gt_known_loc": value} for seed, value in enumerate(values)}, trained)


def test_a_place_is_as_wide_as_the_seeds_leave_it():
    rows = [row(80, 84), row(82), row(70, 71, 72), row(79), row(60, trained=False)]
    assert measured.widest_spread(rows) == 4
    # 82 ± 2 touches the first row, 79 ± 2 its end; the baseline varies with no seed.
    assert measured.places(rows, spread=4) == ["1–3", "1–3", "4", "1–3", "5"]


def test_rows_of_one_seed_have_no_spread():
    assert measured.widest_spread([row(50), row(40)]) == 0


@pytest.mark.parametrize(("values", "cell"), [((50,), "50.0"), ((50, 52, 54), "52.0 (50.0–54.0)"), ((50, None), "")])
def test_a_cell_is_the_mean_with_its_interval(values, cell):
    assert row(*values).cell("gt_known_loc") == cell
