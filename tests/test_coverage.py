"""docs/coverage.md says nothing that is not so."""

import ast
import re
from pathlib import Path

import pytest

from wsolfast.recipe import as_measured, list_recipes, load_recipe

ROOT = Path(__file__).parents[1]
LINES = [line for line in (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8").splitlines() if "|" in line]
# What stands in the results of an evaluation, whatever its recipe.
RESULTS = ("error_split", "pixel")
METRICS = ("top1_cls", "top5_cls", "top1_loc", "top5_loc", "gt_known_loc")
VARIANT = re.compile(r"`([^`]+)`, `evaluate\.variant=([^`]+)`")


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


ROWS = [cells(line) for line in LINES if not line.startswith(("|---", "| row "))]


def stands_for(row):
    """The recipe, and the variant or nothing, whose published numbers the row has; None of one that says more."""
    named = row[-2].strip("`")
    variant = VARIANT.fullmatch(row[-2])
    return variant.groups() if variant else (named, "") if named in list_recipes() else None


def published(name, variant):
    paper = as_measured(load_recipe(name, [f"evaluate.variant={variant}"] if variant else [])).paper
    return paper.numbers() if paper else {}


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


@pytest.mark.parametrize("row", [row for row in ROWS if stands_for(row)], ids=lambda row: row[0])
def test_numbers_of_a_row_that_is_a_recipe_or_a_variant_are_its_own(row):
    numbers = published(*stands_for(row))
    assert row[1:-2] == [f"{numbers[key]:.2f}" if key in numbers else "–" for key in METRICS]
    # Of other metrics the row's name says them.
    peaks = re.search(r"Peak-IoU ([\d.]+), Peak-T (\d+)$", row[0])
    told = [f"{numbers['peak_iou']:.2f}", f"{numbers['peak_threshold']:.0f}"] if "peak_iou" in numbers else None
    assert (list(peaks.groups()) if peaks else None) == told


def test_every_recipe_and_variant_with_a_published_number_is_a_row():
    found = {stands_for(row) for row in ROWS}
    for name in list_recipes():
        for variant in ("", *(variant.name for variant in load_recipe(name).variant)):
            assert not published(name, variant) or (name, variant) in found, (name, variant)
