"""Recipes: TOML files that say what is trained on what, and where each value is from; read strictly, written whole."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from wsolfast._nearest import nearest
from wsolfast.recipe._bases import Layer, merge, parse_layers, read_layers
from wsolfast.recipe._checks import check
from wsolfast.recipe._errors import RecipeError
from wsolfast.recipe._files import list_recipes
from wsolfast.recipe._sources import diff, show
from wsolfast.recipe._specs import (
    BackboneSpec,
    DataSpec,
    EvaluateSpec,
    OptimSpec,
    Paper,
    Recipe,
    RuntimeSpec,
    ScheduleSpec,
    StageSpec,
    ValidateSpec,
    VariantSpec,
)
from wsolfast.recipe._tables import read, write

__all__ = [
    "BackboneSpec",
    "DataSpec",
    "EvaluateSpec",
    "OptimSpec",
    "Paper",
    "Recipe",
    "RecipeError",
    "RuntimeSpec",
    "ScheduleSpec",
    "StageSpec",
    "ValidateSpec",
    "VariantSpec",
    "as_measured",
    "diff_recipe",
    "dump_recipe",
    "list_recipes",
    "load_recipe",
    "override_value",
    "parse_recipe",
    "show_recipe",
]


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name or from a file, merge it into what it starts from, and apply overrides.

    Override values are TOML; what does not parse as TOML is taken as a string, so ``data.root=/data/cub`` needs no
    quotes. ``stage.<name>.key`` reaches one stage; ``stage.key`` does where there is only one.

    Args:
        name_or_path: one of :func:`list_recipes`, or a ``.toml`` file.
        overrides: ``key.sub=value`` each, applied in order.

    Returns:
        Recipe: with the defaults of everything that it does not say.

    Raises:
        RecipeError: unknown key or base (with the nearest one), wrong type, a value that repeats the base's, or a file
            that is not TOML.
    """
    return _resolve(read_layers(name_or_path), overrides)


def parse_recipe(text: str, name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe from TOML text, as :func:`load_recipe` does from a file.

    Args:
        text: of the recipe; its base, if any, is a recipe of the package.
        name: of the recipe, where the text gives none.
        overrides: as for :func:`load_recipe`.

    Returns:
        Recipe: as :func:`load_recipe`.

    Raises:
        RecipeError: as :func:`load_recipe`.
    """
    return _resolve(parse_layers(text, name), overrides)


def _resolve(layers: list[Layer], overrides: Iterable[str]) -> Recipe:
    table = {"name": layers[0].name} | merge(layers)
    for override in overrides:
        _apply_override(table, override)
    recipe: Recipe = read(Recipe, table)
    check(recipe)
    _check_variants(recipe)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return the whole recipe as TOML, defaults included; :func:`parse_recipe` gives the same recipe back."""
    return write(recipe)


def show_recipe(name_or_path: str | Path) -> str:
    """Return a recipe as TOML text with the source of every value; what it starts from is merged in.

    Raises:
        RecipeError: as :func:`load_recipe`.
    """
    load_recipe(name_or_path)
    return show(read_layers(name_or_path))


def diff_recipe(name_or_path: str | Path) -> str:
    """Return the lines in which a recipe differs from its base, or one line that says that it has none.

    Raises:
        RecipeError: as :func:`load_recipe`.
    """
    load_recipe(name_or_path)
    layers = read_layers(name_or_path)
    return diff(layers) if len(layers) > 1 else f"{layers[0].name} has no base"


def as_measured(recipe: Recipe) -> Recipe:
    """Return the recipe with the settings and the paper of ``evaluate.variant``; itself if that is empty."""
    name = recipe.evaluate.variant
    if not name:
        return recipe
    (chosen,) = (variant for variant in recipe.variant if variant.name == name)
    plain = replace(recipe, variant=(), paper=chosen.paper, evaluate=replace(recipe.evaluate, variant=""))
    measured = parse_recipe(dump_recipe(plain), recipe.name, chosen.set)
    return replace(measured, evaluate=replace(measured.evaluate, variant=name))


def _check_variants(recipe: Recipe) -> None:
    names = [variant.name for variant in recipe.variant]
    if recipe.evaluate.variant not in ("", *names):
        raise RecipeError(f"evaluate.variant: no variant {recipe.evaluate.variant!r}; {nearest('', names)}")
    if len(set(names)) < len(names):
        raise RecipeError(f"variant.name: two variants are called {max(names, key=names.count)!r}")
    for variant in recipe.variant:
        if not re.fullmatch(r"\w[\w-]*", variant.name):
            raise RecipeError(f"variant name {variant.name!r}: use letters, digits and dashes")
        if not variant.set:
            raise RecipeError(f"variant.{variant.name}.set: nothing differs; give key=value settings")
        for setting in variant.set:
            if not setting.startswith(("evaluate.", "stage.")) or setting.startswith("evaluate.variant"):
                raise RecipeError(f"variant.{variant.name}.set: {setting!r}: only evaluate.* and stage.* can differ")
        try:
            as_measured(replace(recipe, evaluate=replace(recipe.evaluate, variant=variant.name)))
        except RecipeError as error:
            raise RecipeError(f"variant.{variant.name}.set: {error}") from None


def _apply_override(table: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    head, *rest = parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"override {override!r}: expected key=value, for instance data.root=/data/CUB_200_2011")
    target = table
    if head == "stage":
        target, parts = _choose_stage(table, rest, override)
    for part in parts[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise RecipeError(f"override {override!r}: {part!r} is a value, not a table")
    target[parts[-1]] = override_value(text)


def _choose_stage(table: dict, rest: list[str], override: str) -> tuple[dict, list[str]]:
    stages = {stage.get("name"): stage for stage in table.get("stage", [])}
    if len(rest) > 1 and rest[0] in stages:
        return stages[rest[0]], rest[1:]
    if rest and len(stages) == 1:
        return next(iter(stages.values())), rest
    raise RecipeError(f"override {override!r}: name the stage, stage.NAME.key=value; {nearest('', stages)}")


def override_value(text: str) -> object:
    """Return the value of an override: TOML, or the text as it is where it is none."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, (bool, int, float, str, list, dict)) else text
