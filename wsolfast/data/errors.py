"""Errors of data on disk, and of downloads."""


class DataError(Exception):
    """A file, annotation or split that cannot be used; the message names it and says what to do."""

    exit_code = 3

    def __init__(self, message: str, further: tuple[str, ...] = ()):
        """Take a message, and those of further faults of the same file."""
        # A loader's worker passes its whole traceback on as the message; what follows this class's name is ours.
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(message.rpartition(name)[2].rstrip())
        self.further = further


class SplitMissingError(DataError):
    """A split that a data set does not have, as opposed to one that cannot be read."""


class FetchError(Exception):
    """A server that cannot be reached, refuses, or breaks off; what has arrived is kept."""

    exit_code = 1
