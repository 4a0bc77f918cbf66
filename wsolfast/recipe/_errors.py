"""The error that every part of this room raises."""


class RecipeError(ValueError):
    """A recipe or an override that cannot be meant; one line that names the key and what was expected."""

    exit_code = 2
