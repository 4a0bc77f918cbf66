"""Errors of a run, with the exit codes that the command line gives them."""


class RunError(Exception):
    """Failure of a run; one line that says where, and what to do."""

    exit_code = 1


class UsageError(RunError):
    """Request that cannot be carried out as it was given."""

    exit_code = 2


class InUseError(UsageError):
    """Folder that another process works in."""


class MissingError(RunError):
    """Run, image or weights file that is not there or cannot be read."""

    exit_code = 3


class BackendError(RunError):
    """Device or backend that this machine does not have."""

    exit_code = 4


class CheckError(RunError):
    """Difference that a comparison or a check found."""

    exit_code = 5


class Interrupted(RunError):
    """Stop by a signal, after the checkpoint was written."""

    exit_code = 130
