"""Targets of a command: a run, its folder, a recipe or a timm network; and the folder that a new run goes to."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wsolfast._nearest import nearest
from wsolfast.engine.assembly.weights import settle_weights
from wsolfast.engine.pretrained import adopt, recipe_of
from wsolfast.engine.run.run_folder import RunFolder, require_run
from wsolfast.recipe import Recipe, RecipeError, list_recipes, load_recipe

# The recipes that a method's name stands for: of a pretrained network and a few thousand images.
_GENERAL = "cub50"


def is_run(target: str | Path) -> bool:
    """Return whether a target is the folder of a run, and not the name or file of a recipe, or ``timm:NAME``.

    Args:
        target: what a user gave.

    Returns:
        bool: False if it is a recipe or a network of timm.

    Raises:
        RecipeError: if it is none of these.
        MissingError: if it is none of these and can only be meant as the path of a run.
    """
    if Path(target).is_dir():
        return True
    name, recipes = str(target), list_recipes()
    if name in recipes or name.endswith(".toml") or name.startswith("timm:"):
        return False
    # Recipes have folders, too.
    if "/" in name and name.partition("/")[0] not in {one.partition("/")[0] for one in recipes if "/" in one}:
        require_run(Path(name))
    raise RecipeError(f"no recipe named {name!r}, and no run folder either; {nearest(name, recipes)}")


def run_path(runs: str | Path, name: str | None, recipe_name: str) -> Path:
    """Return the folder of a run.

    Args:
        runs: holds all of them.
        name: of the folder; the recipe's name, with dashes for slashes, if None.
        recipe_name: name of its recipe.

    Returns:
        Path: a folder below ``runs``.

    Raises:
        RecipeError: if ``name`` is no name of a folder below ``runs``.
    """
    name = name or recipe_name.replace("/", "-")
    if "/" in name or name in (".", ".."):
        raise RecipeError(f"--name: expected the name of a folder below --runs, got {name!r}")
    return Path(runs) / name


def open_target(
    target: str | Path | RunFolder,
    overrides: Sequence[str] = (),
    *,
    weights: str | Path | None = None,
    runs: str | Path = "runs",
    name: str | None = None,
    exist_ok: bool = False,
) -> RunFolder:
    """Open a run, or make one of a recipe's or timm's network as it is.

    Args:
        target: a run, its folder, the name or file of a recipe, or ``timm:NAME``.
        overrides: ``key=value`` for a recipe.
        weights: gives a recipe these weights, see :func:`wsolfast.engine.pretrained.adopt`.
        runs: holds the folder of a run that is made.
        name: of that folder; the recipe's if None.
        exist_ok: start a run that exists over.

    Returns:
        RunFolder: finished, or without anything to train.

    Raises:
        RecipeError: if the target is neither a run nor a recipe, or weights or changes are given for a run.
        UsageError: as :func:`wsolfast.engine.pretrained.adopt`.
        MissingError: if there is no such run, or no such file of weights.
    """
    if isinstance(target, RunFolder) or is_run(target):
        if weights is not None:
            raise RecipeError("--weights goes with a recipe; a run has its own")
        if overrides:
            raise RecipeError(f"{overrides[0]}: changes go with a recipe; a run has its own")
        return target if isinstance(target, RunFolder) else RunFolder(target)
    recipe = recipe_of(str(target), overrides)
    return adopt(
        run_path(runs, name, recipe.name), recipe, None if weights is None else Path(weights), exist_ok=exist_ok
    )


def training_recipe(
    target: str, overrides: Sequence[str] = (), *, data: str | None = None, root: str | Path | None = None
) -> Recipe:
    """Return the recipe of a training.

    A method's name takes the recipe ``cub50/<method>``. Where weights are not beside the data, public ones take their
    place, see :func:`wsolfast.engine.assembly.weights.settle_weights`.

    Args:
        target: the name or file of a recipe, or a method's name.
        overrides: ``key=value`` for the recipe.
        data: name of the data set; None takes the recipe's.
        root: folder of the data.

    Returns:
        Recipe: with the weights that there are.

    Raises:
        RecipeError: if there is no such recipe or method, or a change does not fit it.
    """
    words = [] if data is None else [f"data.name={json.dumps(data)}"]
    words += [] if root is None else [f"data.root={json.dumps(str(root))}"]
    general = f"{_GENERAL}/{target}"
    if target in list_recipes() or general not in list_recipes():
        if data is not None and load_recipe(target).data.name != data:
            # Those of another data set mean nothing here.
            words.append("data.options={}")
        return settle_weights(load_recipe(target, [*words, *overrides]))
    return replace(settle_weights(load_recipe(general, [*words, *overrides])), name=target)


def temporary_runs() -> tempfile.TemporaryDirectory:
    """Return a folder for runs that nobody keeps, which is removed when the object is closed."""
    return tempfile.TemporaryDirectory(prefix="wsolfast-")
