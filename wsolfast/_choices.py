"""Values of options, which stand in the annotations of what takes them alone."""

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
_KINDS: dict[Any, type] = {int: Integral, float: Real}


def check_choices(where: str, taker: Callable, options: Mapping[str, object]) -> None:
    """Refuse a value that the ``Literal`` annotation of its parameter does not list.

    Args:
        where: what the message starts with; nothing if empty.
        taker: takes the options.
        options: by name; those without such an annotation are not looked at.

    Raises:
        ValueError: names the option, its choices and the value.
    """
    for name, choices in choices_of(taker).items():
        # 12.0 is equal to 12, and another thing.
        if name in options and not any(_is_a(options[name], type(one)) and options[name] == one for one in choices):
            listed = ", ".join(str(choice) for choice in choices if choice is not None)
            start = f"{where}: " if where else ""
            raise ValueError(f"{start}{name}: expected one of {listed}, got {options[name]!r}")


def check_types(taker: Callable, options: Mapping[str, object], *, where: str = "") -> None:
    """Refuse a value that is no number, text, path or truth value where the annotation of its parameter asks for one.

    Args:
        taker: takes the options.
        options: by name; those with other annotations are not looked at.
        where: what the message starts with; nothing if empty.

    Raises:
        ValueError: names the option, what was expected and the value.
    """
    for name, hint in _hints(taker).items():
        wanted = [member for member in _members(hint) if member is not NoneType]
        if name not in options or not set(wanted) <= _WORDS.keys():
            continue
        value = options[name]
        if value is None and NoneType in _members(hint):
            continue
        if not any(_is_a(value, member) for member in wanted):
            # A path may be given as text.
            words = [_WORDS[member] for member in ([Path] if Path in wanted else wanted)]
            start = f"{where}: " if where else ""
            raise ValueError(f"{start}{name}: expected {' or '.join(words)}, got {value!r}")


def choices_of(taker: Callable) -> dict[str, tuple]:
    """Return the choices of every parameter that is annotated as ``Literal``, or as ``Literal | None``."""
    found = {}
    for name, hint in _hints(taker).items():
        members = _members(hint)
        if any(get_origin(member) is Literal for member in members):
            found[name] = tuple(choice for member in members for choice in _values(member))
    return found


def _hints(taker: Callable) -> dict[str, Any]:
    try:
        return get_type_hints(taker)
    except NameError:  # names that only a type checker imports
        return {}


def _members(hint: Any) -> tuple:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _values(member: Any) -> tuple:
    return (None,) if member is NoneType else get_args(member)


def _is_a(value: object, kind: type) -> bool:
    return isinstance(value, _KINDS.get(kind, kind)) and (kind is bool or not isinstance(value, bool))
