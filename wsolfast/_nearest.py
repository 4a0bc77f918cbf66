"""A hint for a name that nobody knows."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Return the end of an error message about an unknown name.

    Args:
        name: the unknown one.
        known: all names that there are.
        otherwise: the hint where none of them is near; a list of them all if not given.

    Returns:
        str: ``did you mean 'cam'?`` or the other hint.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are: {', '.join(known) or 'none'}" if otherwise is None else otherwise
