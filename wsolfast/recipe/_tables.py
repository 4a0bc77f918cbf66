"""Dataclasses from TOML tables, read strictly, and back, written whole."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import tomli_w

from wsolfast._nearest import nearest
from wsolfast.recipe._errors import RecipeError

# Metadata of the field of a dataclass that takes every table which no other field is named after.
OTHER_TABLES = {"other tables": True}


def read(cls: type, table: object, where: str = "") -> Any:
    """Return a dataclass from a TOML table.

    Raises:
        RecipeError: for unknown keys, wrong types, missing values and values that are no choice; it names the key.
    """
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: expected a table, got {table!r}")
    hints, others = _hints(cls), _other_tables(cls)
    if others is not None:
        tables = {key: value for key, value in table.items() if key not in hints and isinstance(value, dict)}
        table = {key: value for key, value in table.items() if key not in tables}
        if others in table:
            raise RecipeError(f"unknown key {join(where, others)!r}; {nearest(others, [*hints.keys() - {others}])}")
        table[others] = tables
    for key in table:
        if key not in hints:
            raise RecipeError(f"unknown key {join(where, key)!r}; {nearest(key, hints)}")
    for key in hints:
        if key in required_keys(cls) and key not in table:
            raise RecipeError(f"missing key {join(where, key)!r}")
    return cls(**{key: _convert(value, hints[key], join(where, key)) for key, value in table.items()})


@cache
def required_keys(cls: type) -> set[str]:
    """Return the keys that a table must have, because the dataclass has no default for them."""
    fields = dataclasses.fields(cls)
    return {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}


@cache
def _other_tables(cls: type) -> str | None:
    """Return the field that holds the tables of all names that no field has, or None."""
    return next((f.name for f in dataclasses.fields(cls) if f.metadata == OTHER_TABLES), None)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(value: object, hint: Any, where: str) -> object:
    options = [o for o in typing.get_args(hint) if o is not type(None)] if _is_union(hint) else [hint]
    for option in options:
        origin, args = typing.get_origin(option), typing.get_args(option)
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return read(option, value, where)
        if origin is tuple and isinstance(value, list) and (args[-1] is Ellipsis or len(value) == len(args)):
            if isinstance(args[0], type) and dataclasses.is_dataclass(args[0]):
                return tuple(read(args[0], item, where) for item in value)
            return tuple(_convert(item, args[0], where) for item in value)
        if origin is dict and isinstance(value, dict):
            return {key: _convert(item, args[1], f"{where}.{key}") for key, item in value.items()}
        if option is object or (origin is Literal and value in args):
            return value
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if option in (str, int, float, bool) and type(value) is option:
            return value
    wanted = " or ".join(_type_name(option) for option in options)
    words = [word for option in options if typing.get_origin(option) is Literal for word in typing.get_args(option)]
    near = nearest(value, words, "") if isinstance(value, str) else ""
    raise RecipeError(f"{where}: expected {wanted}, got {value!r}{near and f'; {near}'}")


def _is_union(hint: object) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _type_name(option: Any) -> str:
    origin, args = typing.get_origin(option), typing.get_args(option)
    if origin is Literal:
        return f"one of {', '.join(args)}"
    if origin is tuple:
        if dataclasses.is_dataclass(args[0]):
            return "an array of tables"
        if typing.get_origin(args[0]) is Literal:
            return f"an array of {', '.join(typing.get_args(args[0]))}"
        return f"an array of {'' if args[-1] is Ellipsis else f'{len(args)} '}{args[0].__name__}"
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
    return "a table" if origin is dict else names[option]


def join(where: str, key: str) -> str:
    """Return the dotted key of what stands at ``key`` of the table ``where``."""
    return f"{where}.{key}" if where else key


def write(spec: object) -> str:
    """Return a dataclass as TOML, defaults included; None is left out, which absence means."""
    return tomli_w.dumps(_plain(spec))


def _plain(value: object) -> Any:
    """Return a value without dataclasses, None and empty tables; the keys of free tables are sorted.

    A recipe is then written the same way whatever it starts from: its hash names what a checkpoint continues.
    """
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        others = _other_tables(kind)
        pairs = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != others]
        pairs += sorted(getattr(value, others).items()) if others else []
    elif isinstance(value, Mapping):
        pairs = sorted(value.items())
    elif isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    else:
        return value
    return {name: _plain(item) for name, item in pairs if item is not None and item != {}}
