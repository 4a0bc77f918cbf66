"""Commands that show the recipes and this installation."""

import json
from typing import Annotated

import typer

from wsolfast.cli._options import AsJson, echo
from wsolfast.recipe import RecipeError, diff_recipe, list_recipes, load_recipe, show_recipe

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n  wsolfast recipes\n\n  wsolfast recipes 'spa_*'\n\n  wsolfast recipes spa_cub_vgg16\n\n"
    "  wsolfast recipes cam_cub_vgg16 --diff"
)
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE|GLOB]", help="Show the recipe of this name or file, or list those of this pattern."
        ),
    ] = None,
    changes: Annotated[bool, typer.Option("--diff", help="Show the lines that differ from the recipe's base.")] = False,
) -> None:
    """List the recipes with the numbers of their papers, or show one with the source of every value.

    A recipe may start from another one, its base, and hold only its changes. It is shown with the lines of its base
    merged in. --diff shows the changes: a line with - is from the base, a line with + is from the recipe.
    """
    from fnmatch import filter as matching

    names = list_recipes()
    if name is not None and not (set("*?[") & set(name)):
        echo(diff_recipe(name) if changes else show_recipe(name))
        return
    if changes:
        raise RecipeError("--diff: name the one recipe whose changes you want to see")
    names = matching(names, name or "*")
    if not names:
        raise RecipeError(f"no recipe matches {name!r}")
    width = max(map(len, names))
    echo(f"{'recipe':<{width}}  Top-1 Loc  Top-5 Loc  GT-known  (published accuracies in percent)")
    for recipe in map(load_recipe, names):
        numbers = recipe.paper.numbers() if recipe.paper else {}
        cells = [f"{numbers[key]:.2f}" if key in numbers else "-" for key in ("top1_loc", "top5_loc", "gt_known_loc")]
        echo(f"{recipe.name:<{width}}  {cells[0]:>9}  {cells[1]:>9}  {cells[2]:>8}  {recipe.summary}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show what this installation can do: versions, devices, the backend of each op, optional packages."""
    from wsolfast.engine.doctor import examine

    state = examine()
    if as_json:
        echo(json.dumps(state, indent=2))
        return
    for key, value in state.items():
        if key == "ops":
            width = max(map(len, value))
            echo(f"{'ops':<17}{'':<{width}}  cpu        cuda")
            for op, serves in value.items():
                echo(f"{'':<17}{op:<{width}}  {serves['cpu']:<9}  {serves['cuda']}")
        elif isinstance(value, dict):
            for i, (name, text) in enumerate(value.items()):
                echo(f"{key if i == 0 else '':<17}{name}: {text}")
        elif isinstance(value, list):
            echo(f"{key:<17}{', '.join(value)}")
        else:
            echo(f"{key.replace('_', ' '):<17}{value}")
