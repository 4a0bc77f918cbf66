"""Recipes for people to read: merged, with the source of every value, or by what they change."""

from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from wsolfast.recipe._bases import OWN, Layer, merge
from wsolfast.recipe._lines import NAMED, Key, Line


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
    old, new = _values(layers[1:]), _values(layers)
    sections: dict[Key, list[str]] = {}
    for key in {**new, **old}:
        before, after = old.get(key), new.get(key)
        if before and after and (before.value, before.source) == (after.value, after.source):
            continue
        lines = sections.setdefault(key[:-1], [])
        for sign, line in (("-", before), ("+", after)):
            lines += [f"{sign} {text}" for text in line.text.splitlines()] if line else []
    titles = {section: f"[{'.'.join(section)}]\n" if section else "" for section in sections}
    return "\n\n".join(titles[section] + "\n".join(lines) for section, lines in sections.items())


def _values(layers: Sequence[Layer]) -> dict[Key, Line]:
    return {key: line for key, line in _resolve(layers).items() if line.value is not None}


def _resolve(layers: Sequence[Layer]) -> dict[Key, Line]:
    table, sources, found = merge(layers), [layer.lines for layer in layers], {}

    def add(table: Mapping[str, Any], key: Key, heading: str) -> None:
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
                found[at] = line or Line(value, tomli_w.dumps({name: value}).rstrip())
        for name, value in inner.items():
            path = f"{heading}.{name}" if heading else name
            items = [((*key, name), f"[{path}]", value)]
            if isinstance(value, list):
                items = [((name, item["name"]), f"[[{path}]]", item) for item in value]
            for at, title, item in items:
                written = [source[at] for source in sources if at in source and source[at].value is None]
                found[at] = written[0] if written else Line(None, title)
                add(item, at, path)

    add({key: table[key] for key in OWN if key in table} | table, (), "")
    return found
