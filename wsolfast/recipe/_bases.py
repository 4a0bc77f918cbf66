"""Recipes that start from another one and hold only what they change."""

import copy
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wsolfast._nearest import nearest
from wsolfast.recipe._errors import RecipeError
from wsolfast.recipe._files import is_packaged, recipe_name, recipe_path
from wsolfast.recipe._lines import NAMED, Key, Line, split_lines
from wsolfast.recipe._specs import Recipe
from wsolfast.recipe._tables import read, required_keys

_MOST_BASES = 2
# What a recipe says of itself is never said of another one.
OWN = ("name", "summary", "paper")


@dataclass(frozen=True)
class Layer:
    """A recipe as it is written, before what it starts from is merged in."""

    name: str
    text: str
    table: dict[str, Any]
    path: Path | None = None  # absolute; None of a text that comes from no file

    @cached_property
    def lines(self) -> dict[Key, Line]:
        """The text, key by key."""
        return split_lines(self.text, self.table)

    @property
    def base(self) -> str | None:
        """The recipe that this one starts from, as it is written."""
        base = self.table.get("base")
        if base is not None and not isinstance(base, str):
            raise RecipeError(f"recipe {self.name}: base: expected a string, got {base!r}")
        return base


def read_layers(name_or_path: str | Path) -> list[Layer]:
    """Read a recipe and what it starts from, itself first.

    Raises:
        RecipeError: for a file that is not TOML, an unknown base, a circle, or more than two bases one after another.
    """
    path = recipe_path(name_or_path)
    return parse_layers(path.read_text(encoding="utf-8"), recipe_name(path), path.resolve())


def parse_layers(text: str, name: str, path: Path | None = None) -> list[Layer]:
    """Read a recipe from TOML text, and what it starts from, as :func:`read_layers` does.

    Without a ``path`` its base can only be a recipe of the package.
    """
    layers = [_parse(text, name, path)]
    while layers[-1].base is not None:
        found = _base_path(layers[-1])
        names = [layer.name for layer in layers]
        if found in [layer.path for layer in layers]:
            raise RecipeError(f"recipe {name}: base: {' starts from '.join([*names, recipe_name(found)])}, a circle")
        if len(layers) > _MOST_BASES:
            raise RecipeError(
                f"recipe {name}: base: {' starts from '.join(names)}, which starts from {recipe_name(found)!r}; "
                f"expected at most {_MOST_BASES} bases one after another"
            )
        layers.append(_parse(found.read_text(encoding="utf-8"), recipe_name(found), found))
    for i in reversed(range(len(layers) - 1)):
        layers[i] = _with_name_of_only_stage(layers[i], layers[i + 1 :])
    return layers


def _parse(text: str, name: str, path: Path | None) -> Layer:
    try:
        return Layer(name, text, tomllib.loads(text), path)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name}: not valid TOML: {error}") from None


def _with_name_of_only_stage(layer: Layer, below: Sequence[Layer]) -> Layer:
    """Return the recipe with the name that it may leave out: of its one stage, which changes the base's one stage."""
    own = layer.table.get("stage")
    if isinstance(own, list) and len(own) == 1 and isinstance(own[0], dict) and "name" not in own[0]:
        stages = merge(below).get("stage")
        names = list(_named(stages)) if isinstance(stages, list) else []
        if len(names) == 1:
            return replace(layer, table=layer.table | {"stage": [own[0] | {"name": names[0]}]})
    return layer


def _base_path(layer: Layer) -> Path:
    base = str(layer.base)
    outside = layer.path is not None and not is_packaged(layer.path)
    if base.endswith(".toml") and not outside:
        raise RecipeError(f"recipe {layer.name}: base: expected the name of a recipe of the package, got {base!r}")
    try:
        return recipe_path(layer.path.parent / base if base.endswith(".toml") and layer.path else base).resolve()
    except RecipeError as error:
        raise RecipeError(f"recipe {layer.name}: base: {error}") from None


def merge(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the table that a recipe means once everything that it starts from is merged in.

    Args:
        layers: the recipe, its base, and the base's base.

    Raises:
        RecipeError: for a value that repeats the base's, or a stage or key that the base does not have.
    """
    layer, *below = layers
    own = copy.deepcopy(layer.table)
    if not below:
        if "remove" in own:
            raise RecipeError(f"recipe {layer.name}: remove: there is no base to remove anything from")
        return own
    base = merge(below)
    try:
        read(Recipe, {"name": below[0].name} | base)
    except RecipeError as error:
        raise RecipeError(f"recipe {below[0].name}: {error}") from None
    changed = {key: value for key, value in base.items() if key not in OWN}
    for variant in changed.get("variant", []):
        variant.pop("paper", None)
    own.pop("base")
    try:
        for key in _keys_to_remove(own.pop("remove", None)):
            _remove(changed, key.split("."), below[0].name, key)
        _Change(layer, below).apply(changed, own, ())
    except RecipeError as error:
        raise RecipeError(f"recipe {layer.name}: {error}") from None
    return changed


def _keys_to_remove(value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not value or not all(isinstance(key, str) for key in value):
        raise RecipeError(f"remove: expected an array of keys, got {value!r}")
    return value


def _remove(place: Any, parts: Sequence[str], base: str, key: str) -> None:
    """Take away what stands at ``parts`` inside of a table or of an array whose items have names."""
    first, *rest = parts
    inside = _named(place) if isinstance(place, list) else place
    only = place[0] if isinstance(place, list) and len(place) == 1 and isinstance(place[0], dict) else {}
    if first in only and first not in inside:
        _remove(only, parts, base, key)
    elif not isinstance(inside, dict):
        raise RecipeError(f"remove: {key!r}: {base!r} has a value in front of {first!r}, not a table")
    elif first not in inside:
        missing = ".".join(key.split(".")[: -len(rest) or None])
        raise RecipeError(f"remove: {base!r} has no {missing!r}; {nearest(first, inside)}")
    elif rest:
        _remove(inside[first], rest, base, key)
    elif isinstance(place, list):
        place.remove(inside[first])
    else:
        del place[first]


def _named(tables: list) -> dict[str, dict]:
    return {table["name"]: table for table in tables if isinstance(table, dict) and isinstance(table.get("name"), str)}


class _Change:
    """The changes that a recipe makes to the table of its base."""

    def __init__(self, layer: Layer, below: Sequence[Layer]) -> None:
        self.layer, self.below, self.base = layer, below, below[0].name

    def apply(self, table: dict, own: dict, at: Key) -> None:
        """Change ``table``, which stands at ``at``, by what the recipe says there."""
        for name, value in own.items():
            old, key = table.get(name), (*at, name)
            if key in [(named,) for named in NAMED] and isinstance(value, list) and isinstance(old, list):
                self._apply_by_name(old, value, name)
            elif isinstance(value, dict) and isinstance(old, dict):
                self._require(value, key)
                self.apply(old, value, key)
            elif old == value and type(old) is type(value) and not self._has_another_source(key):
                raise RecipeError(f"{'.'.join(key)}: {self.base!r} says {value!r}, too; leave it out")
            else:
                table[name] = value

    def _apply_by_name(self, tables: list, own: list, kind: str) -> None:
        known, changed = _named(tables), _named(own)
        for item in own:
            name = item.get("name") if isinstance(item, dict) else None
            if not isinstance(name, str):
                tables.append(item)  # the reader says what it lacks
            elif changed[name] is not item:
                raise RecipeError(f"{kind}.name: two {kind}s are called {name!r}")
            elif name in known:
                changes = {key: value for key, value in item.items() if key != "name"}
                self._require(changes, (kind, name))
                self.apply(known[name], changes, (kind, name))
            else:
                missing = required_keys(NAMED[kind]) - set(item)
                if missing:
                    hint, needed = nearest(name, known), " and ".join(sorted(missing))
                    problem = f"{self.base!r} has no such {kind}; {hint} (a new one needs {needed})"
                    raise RecipeError(f"{kind}.{name}: {problem}")
                tables.append(item)

    def _require(self, changes: dict, key: Key) -> None:
        if not changes:
            raise RecipeError(f"{'.'.join(key)}: nothing in it differs from {self.base!r}; leave it out")

    def _has_another_source(self, key: Key) -> bool:
        """Say whether a value that the base has, too, is from elsewhere here: from the paper, not the released code."""
        own = self.layer.lines.get(key)
        base = next((layer.lines[key] for layer in self.below if key in layer.lines), None)
        return own is not None and base is not None and own.source not in (None, base.source)
