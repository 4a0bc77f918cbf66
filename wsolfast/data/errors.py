"""Errors of data on disk, and of downloads."""


class DataError(Exception):
    """A file, annotation or split that cannot be used; the message names it and says what to do.

    Args:
        message: one line.
        faults: a message for each fault where there are several.
    """

    exit_code = 3

    def __init__(self, message: str, faults: tuple[str, ...] = ()):
        # A loader's worker passes its whole traceback on as the message; what follows this class's name is ours.
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(message.rpartition(name)[2].rstrip())
        self.faults = faults or (str(self),)


class SplitMissingError(DataError):
    """A split that a data set does not have, as opposed to one that cannot be read."""


class Faults:
    """Faults of a file, gathered so that one look through it tells them all."""

    LIMIT = 20  # at so many nobody reads on

    def __init__(self) -> None:
        self._messages: list[str] = []

    def add(self, error: DataError) -> None:
        """Take a fault.

        Raises:
            DataError: if there are ``LIMIT``.
        """
        self._messages.append(str(error))
        if len(self._messages) == self.LIMIT:
            self.raise_any()

    def raise_any(self) -> None:
        """Go on if there is no fault.

        Raises:
            DataError: with the first one as its message and all of them as its ``faults``.
        """
        if self._messages:
            more = len(self._messages) - 1
            hint = f" ({more} more: wsolfast data check names them)" if more else ""
            raise DataError(self._messages[0] + hint, tuple(self._messages))


class FetchError(Exception):
    """A server that cannot be reached, refuses, or breaks off; what has arrived is kept."""

    exit_code = 1
