"""The text of a recipe, key by key."""

import re
import tomllib
from collections import Counter
from typing import Any, NamedTuple

from wsolfast.recipe._specs import StageSpec, VariantSpec

# Arrays of tables whose items are known by their names.
NAMED = {"stage": StageSpec, "variant": VariantSpec}
Key = tuple[str, ...]  # the parts of a dotted key, with the name of a stage behind "stage"


class Line(NamedTuple):
    """A key's value, None of a table's heading, and the lines that say it, comments included."""

    value: object
    text: str

    @property
    def source(self) -> str | None:
        """The source of the value, as the comment behind it names it."""
        found = re.search(r"# *((?:paper|released|ours)\b.*)$", self.text)
        return found and found[1]


def split_lines(text: str, table: dict[str, Any]) -> dict[Key, Line]:
    """Return the lines of every key and heading.

    The fewest lines that are TOML are one key or one heading, with the comments above it.

    Args:
        text: of the recipe.
        table: what it says as a whole, which knows the names of the stages.
    """
    found: dict[Key, Line] = {}
    section: Key = ()
    met: Counter[str] = Counter()
    lines = ""
    for line in text.splitlines():
        lines = f"{lines}\n{line}".lstrip("\n")
        try:
            part = tomllib.loads(lines)
        except tomllib.TOMLDecodeError:
            continue
        if not part:
            continue
        ((name, value),) = part.items()
        if not line.startswith("["):
            found[*section, name] = Line(value, lines)
        else:
            section = (name,)
            if name in NAMED and isinstance(table[name], list):
                met[name] += isinstance(value, list)
                section = (name, str(table[name][met[name] - 1].get("name")))
            while value and isinstance(value, dict):
                ((name, value),) = value.items()
                section = (*section, name)
            found[section] = Line(None, lines)
        lines = ""
    return found
