"""What goes wrong with data on disk."""


class DataError(Exception):
    """A file, annotation or split that cannot be used; the message names it and says what to do."""

    exit_code = 3
