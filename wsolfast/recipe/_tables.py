"""Dataclasses from TOML tables, read strictly, and back, written whole."""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from wsolfast.recipe._errors import RecipeError, nearest


def read(cls: type, table: object, where: str = "") -> Any:
    """A dataclass from a TOML table: unknown keys, wrong types and missing values are errors that name the key."""
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: expected a table, got {table!r}")
    hints = _hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in table:
        if key not in fields:
            raise RecipeError(f"unknown key {_join(where, key)!r}; {nearest(key, fields)}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise RecipeError(f"missing key {_join(where, name)!r}")
    return cls(**{key: _convert(value, hints[key], _join(where, key)) for key, value in table.items()})


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
        if option is object:
            return value
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if option in (str, int, float, bool) and type(value) is option:
            return value
    wanted = " or ".join(_type_name(option) for option in options)
    raise RecipeError(f"{where}: expected {wanted}, got {value!r}")


def _is_union(hint: object) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _type_name(option: Any) -> str:
    origin, args = typing.get_origin(option), typing.get_args(option)
    if origin is tuple:
        if dataclasses.is_dataclass(args[0]):
            return "an array of tables"
        return f"an array of {'' if args[-1] is Ellipsis else f'{len(args)} '}{args[0].__name__}"
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
    return "a table" if origin is dict else names[option]


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def write(spec: object) -> str:
    """A dataclass as TOML, defaults included; None is left out, which absence means."""
    lines: list[str] = []
    _write_table(lines, _plain(spec), "")
    return "\n".join(lines).strip() + "\n"


def _plain(value: object) -> Any:
    """Dataclasses to dicts without None, which TOML cannot say and which absence means."""
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _plain(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_table_array(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _write_table(lines: list[str], table: dict, path: str) -> None:
    """Values first, then sub-tables, as TOML wants them; empty tables are left out."""
    for key, value in table.items():
        if not isinstance(value, dict) and not _is_table_array(value):
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in table.items():
        name = _join(path, _key(key))
        if isinstance(value, dict) and value:
            lines += ["", f"[{name}]"]
            _write_table(lines, value, name)
        elif _is_table_array(value):
            for item in value:
                lines += ["", f"[[{name}]]"]
                _write_table(lines, item, name)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _string(key)


def _string(text: str) -> str:
    # JSON escapes what TOML's basic strings must escape, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())}}}"
    raise RecipeError(f"cannot write {value!r} as TOML")
