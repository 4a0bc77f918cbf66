"""A hint for a name that nobody knows."""

import difflib
from collections.abc import Iterable

_FEW = 24


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Return the end of an error message about an unknown name.

    Args:
        name: the unknown one.
        known: all names that there are.
        otherwise: the hint where none of them is near; if not given, a list of them all, or of the three nearest ones
            where they are many.

    Returns:
        str: ``did you mean 'cam'?`` or the other hint.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    if otherwise is not None:
        return otherwise
    return nearest_three(name, known) if len(known) > _FEW else f"there are: {', '.join(known) or 'none'}"


def nearest_three(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message that lists the three known names that are nearest, as near as they are."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.0)
    return f"the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}"
