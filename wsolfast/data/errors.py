"""Errors of data on disk, and of downloads."""

from collections.abc import Iterator
from contextlib import contextmanager


class DataError(Exception):
    """A file, annotation or split that cannot be used; the message names it and says what to do.

    Args:
        message: one line.
        faults: a message for each fault where there are several.
        advice: what to do, which goes behind the message; others than data sets may have another one.
    """

    exit_code = 3

    def __init__(self, message: str, faults: tuple[str, ...] = (), *, advice: str = ""):
        # A loader's worker passes its whole traceback on as the message; what follows this class's name is ours.
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        self.fault, self.advice = message.rpartition(name)[2].rstrip(), advice
        super().__init__(f"{self.fault}; {advice}" if advice else self.fault)
        self.faults = faults or (str(self),)


class SplitMissingError(DataError):
    """A split that a data set does not have, as opposed to one that cannot be read."""


class Faults:
    """Faults of files, gathered so that one look through them tells them all, each once."""

    LIMIT = 20  # at so many nobody reads on

    def __init__(self) -> None:
        self._messages: list[str] = []

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, error: DataError | str) -> None:
        """Take a fault, or all those of an error that has several.

        Raises:
            DataError: if there are ``LIMIT``.
        """
        for message in (error,) if isinstance(error, str) else error.faults:
            if message not in self._messages:
                self._messages.append(message)
            if len(self._messages) == self.LIMIT:
                self.raise_any()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take what ends the block, if a fault does; what stands behind the block is looked at, too.

        Raises:
            SplitMissingError: as the block does: nothing is there to be looked at.
            DataError: if there are ``LIMIT``.
        """
        try:
            yield
        except SplitMissingError:
            raise
        except DataError as error:
            self.add(error)

    def raise_any(self) -> None:
        """Go on if there is no fault.

        Raises:
            DataError: with the first one as its message and all of them as its ``faults``.
        """
        if self._messages:
            more = len(self._messages) - 1
            hint = f" ({more} more: wsolfast data check names them)" if more else ""
            raise DataError(self._messages[0] + hint, tuple(self._messages))


class DecoderError(Exception):
    """A decoder of images that this machine does not have; one line that says what it lacks."""

    exit_code = 4


class FetchError(Exception):
    """A server that cannot be reached, refuses, or breaks off; what has arrived is kept."""

    exit_code = 1
