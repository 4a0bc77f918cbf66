"""Files that are either the old one or the whole new one, whatever ends the writing process."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_bytes(path: Path, write: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Call ``write(stream)`` and put the file at ``path`` in one step.

    Args:
        path: the file; its folder is made.
        write: writes the content.
        durable: wait until it is on disk, so that it also outlives the machine's power.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as stream:
            write(stream)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    # Windows opens no folders.
    if durable and os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
