"""The observer of monitoring.md hears what the page says."""

import re

import pytest
from pages import DOCS, blocks, needs_kernels

from wsolfast.recipe import parse_recipe

RECIPE = """
[data]
name = "synthetic"
[[stage]]
name = "localizer"
method = "cam"
epochs = 1
backbone = {name = "small"}
"""


@needs_kernels
def test_observer_of_the_page_hears_steps_epochs_and_results(type_in, tmp_path):
    (program,) = blocks("monitoring.md", "python")
    said = type_in("python -", stdin=program).splitlines()
    assert re.fullmatch(r"step \d+ loss \d\.\d+", said[0])
    (epoch,) = [line for line in said if line.startswith("epoch 1 accuracy ")]
    assert 0 <= float(epoch.split()[-1]) <= 1
    assert said[-1].startswith("test ")
    assert len(list(tmp_path.glob("1-*.png"))) == 4


@pytest.mark.parametrize("table", blocks("monitoring.md", "toml"))
def test_tables_of_the_page_are_taken(table):
    recipe = parse_recipe(RECIPE + table, "page")
    assert recipe.stage[0].validate is not None
    assert bool(recipe.chosen_by_boxes) == ("boxes" in table)


def test_every_logger_is_named():
    from wsolfast.engine.loggers.opening import _LOGGERS

    text = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    assert set(_LOGGERS) == set(re.findall(r"^\| `(csv|tensorboard|wandb|mlflow)` \|", text, flags=re.MULTILINE))
