"""Recipes for people to read: merged, with the source of every value, or by what they change."""

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tomli_w

from wsolfast.recipe._bases import NAMED, OWN, Layer, merge

_Key = tuple[str, ...]  # with the name of a stage behind "stage"


class _Line(NamedTuple):
    """A key's value, None of a table's heading, and the lines that say it, comments included."""

    value: object
    text: str


def show(layers: Sequence[Layer]) -> str:
    """Return what a recipe means as TOML, every line as it stands in the recipe that says it."""
    if len(layers) == 1:
        return layers[0].text.strip()
    lines = [f"# {' starts from '.join(layer.name for layer in layers)}"]
    for line in _resolve(layers).values():
        lines += ["", line.text] if line.value is None else [line.text]
    return "\n".join(lines)


def diff(layers: Sequence[Layer]) -> str:
    """Return the lines that differ from those of the base, which stand behind a ``-``, by table."""
    old, new = _resolve(layers[1:]), _resolve(layers)
    sections: dict[_Key, list[str]] = {}
    for key in {**new, **old}:
        before, after = old.get(key), new.get(key)
        if (before and before.value) != (after and after.value):
            lines = sections.setdefault(key[:-1], [])
            for sign, line in (("-", before), ("+", after)):
                lines += [f"{sign} {text}" for text in line.text.splitlines()] if line else []
    return "\n\n".join(
        "\n".join([*([f"[{'.'.join(section)}]"] if section else []), *lines]) for section, lines in sections.items()
    )


def _resolve(layers: Sequence[Layer]) -> dict[_Key, _Line]:
    table, sources, found = merge(layers), [_written(layer) for layer in layers], {}

    def add(table: Mapping[str, Any], key: _Key, heading: str) -> None:
        inner = {}
        for name, value in table.items():
            at = (*key, name)
            # The name of a stage that is changed only chooses it: its source is where the stage is from.
            chooses = len(at) == 3 and at[0] in NAMED and name == "name"
            written = [source[at] for source in (reversed(sources) if chooses else sources) if at in source]
            line = next((line for line in written if line.value == value), None)
            if line is None and (isinstance(value, dict) or at in [(named,) for named in NAMED]):
                inner[name] = value
            else:
                found[at] = line or _Line(value, tomli_w.dumps({name: value}).rstrip())
        for name, value in inner.items():
            path = f"{heading}.{name}" if heading else name
            items = [((*key, name), f"[{path}]", value)]
            if isinstance(value, list):
                items = [((name, item["name"]), f"[[{path}]]", item) for item in value]
            for at, title, item in items:
                written = [source[at] for source in sources if at in source and source[at].value is None]
                found[at] = written[0] if written else _Line(None, title)
                add(item, at, path)

    add({key: table[key] for key in OWN if key in table} | table, (), "")
    return found


def _written(layer: Layer) -> dict[_Key, _Line]:
    """Split a recipe's text: the fewest lines that are TOML are one heading or one key, comments above it included."""
    found: dict[_Key, _Line] = {}
    section: _Key = ()
    met: Counter[str] = Counter()
    text = ""
    for line in layer.text.splitlines():
        text = f"{text}\n{line}" if text else line
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
        if not table:
            text = text.strip()
            continue
        (name, value), *_ = table.items()
        if not line.startswith("["):
            found[*section, name] = _Line(value, text)
        else:
            met[name] += isinstance(value, list)
            section = (name, layer.table[name][met[name] - 1]["name"]) if name in NAMED else (name,)
            while value and isinstance(value, dict):
                ((name, value),) = value.items()
                section = (*section, name)
            found[section] = _Line(None, text)
        text = ""
    return found
