"""What can go wrong in a run, with the exit code that the command line gives it."""


class RunError(Exception):
    """The run failed; one line that says where and what to do."""

    exit_code = 1


class UsageError(RunError):
    """What was asked for cannot be meant."""

    exit_code = 2


class InUseError(UsageError):
    """Another process works in the folder."""


class MissingError(RunError):
    """A run, image or weights file that is not there or cannot be read."""

    exit_code = 3


class BackendError(RunError):
    """A device or backend that this machine does not have."""

    exit_code = 4


class CheckError(RunError):
    """A comparison or check found a difference."""

    exit_code = 5


class Interrupted(RunError):
    """Stopped by a signal after the checkpoint was written."""

    exit_code = 130
