"""Services that not every operating system has: the cores that a process may use, and locks of files."""

import os
from typing import IO

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows


class UnsupportedSystemError(RuntimeError):
    """Work that this operating system cannot do; the command line exits with ``exit_code``."""

    exit_code = 4


def count_cores() -> int:
    """Return the number of cores that this process may use; of all cores where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_file_locks() -> bool:
    """Return whether files can be locked here, by locks that end with the process that holds them."""
    return fcntl is not None


def lock_file(file: IO | int, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file until it is closed.

    Args:
        file: the file or its descriptor.
        shared: together with others that ask for the same.
        wait: until others let go of it.

    Raises:
        OSError: if another process holds it, and ``wait`` is False.
        UnsupportedSystemError: if there are no such locks here.
    """
    if fcntl is None:
        raise UnsupportedSystemError(
            "this system has no file locks (Python's fcntl): runs, the image cache and downloads need Linux or macOS; "
            "ops, metrics and eval-maps do without"
        )
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def unlock_file(file: IO | int) -> None:
    """Let go of what :func:`lock_file` has locked."""
    fcntl.flock(file, fcntl.LOCK_UN)
