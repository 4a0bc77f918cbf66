"""Choices of options, which stand in the annotations of constructors alone."""

from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_choices(where: str, constructor: Callable, options: Mapping[str, object]) -> None:
    """Refuse a value that the ``Literal`` annotation of its parameter does not list.

    Args:
        where: what the message starts with.
        constructor: takes the options.
        options: by name; those without such an annotation are not looked at.

    Raises:
        ValueError: names the option, its choices and the value.
    """
    for name, choices in choices_of(constructor).items():
        if name in options and options[name] not in choices:
            listed = ", ".join(str(choice) for choice in choices if choice is not None)
            raise ValueError(f"{where}: {name}: expected one of {listed}, got {options[name]!r}")


def choices_of(constructor: Callable) -> dict[str, tuple]:
    """Return the choices of every parameter that is annotated as ``Literal``, or as ``Literal | None``."""
    try:
        hints = get_type_hints(constructor)
    except NameError:  # names that only a type checker imports
        return {}
    found = {}
    for name, hint in hints.items():
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if any(get_origin(member) is Literal for member in members):
            found[name] = tuple(choice for member in members for choice in _values(member))
    return found


def _values(member: Any) -> tuple:
    return (None,) if member is NoneType else get_args(member)
