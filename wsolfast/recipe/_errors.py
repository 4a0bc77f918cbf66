"""What is wrong with a recipe, in one line."""

import difflib
from collections.abc import Iterable


class RecipeError(ValueError):
    """A recipe or an override that cannot be meant; one line that names the key and what was expected."""

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
