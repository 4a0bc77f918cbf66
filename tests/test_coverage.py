"""docs/coverage.md says nothing that is not so."""

import ast
import re
from pathlib import Path

import pytest

from wsolfast.recipe import list_recipes, load_recipe

ROOT = Path(__file__).parents[1]
LINES = [line for line in (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8").splitlines() if "|" in line]
# What stands in the results of an evaluation, whatever its recipe.
RESULTS = ("error_split", "pixel")
METRICS = ("top1_cls", "top5_cls", "top1_loc", "top5_loc", "gt_known_loc")


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


ROWS = [cells(line) for line in LINES if not line.startswith(("|---", "| row "))]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row_names_a_recipe_or_option_and_a_test_that_exist(row):
    assert len(row) == 2 + len(METRICS) + 1
    named = re.findall(r"`([^`]+)`", row[-2])
    assert named
    assert {name for name in named if "=" not in name} <= {*list_recipes(), *RESULTS}
    ((file, test),) = (target.split("::") for target in re.findall(r"`([^`]+)`", row[-1]))
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_options_are_taken_by_the_recipe(row):
    named = re.findall(r"`([^`]+)`", row[-2])
    overrides = [name for name in named if "=" in name]
    for name in named:
        if name in list_recipes():
            load_recipe(name, overrides)


@pytest.mark.parametrize("row", [row for row in ROWS if row[-2].strip("`") in list_recipes()], ids=lambda row: row[0])
def test_numbers_of_a_row_that_is_a_recipe_are_the_recipes(row):
    published = load_recipe(row[-2].strip("`")).paper.numbers()
    assert row[1:-2] == [f"{published[key]:.2f}" if key in published else "–" for key in METRICS]


def test_every_recipe_with_a_published_number_is_a_row():
    alone = {row[-2].strip("`") for row in ROWS}
    assert {name for name in list_recipes() if load_recipe(name).paper} <= alone
