"""Files that commands write where a user says: each keeps a list of its own, and nothing else is ever replaced."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from wsolfast.engine.run.distributed import is_first
from wsolfast.engine.run.errors import UsageError

LIST = ".wsolfast.sha256"


class Outputs:
    """Files of a folder that a command writes, or wrote before and may replace.

    What was written is told by its content: the folder's list names each file with its digest, as sha256sum writes
    them. A file that has another content by now, or is not listed, is someone else's.

    Args:
        folder: holds the files, at any depth.
        reads: files that the command reads, none of which is replaced, whoever wrote it.
    """

    def __init__(self, folder: str | Path, reads: Iterable[str | Path] = ()):
        self.folder = Path(folder)
        self._reads = {key for file in reads if (key := _identity(Path(file))) is not None}
        self._digests: dict[str, set[str]] = {}
        if (self.folder / LIST).is_file():
            for line in (self.folder / LIST).read_text(encoding="utf-8", errors="replace").splitlines():
                digest, _, name = line.partition("  ")
                self._digests.setdefault(name, set()).add(digest)

    def may_write(self, file: Path) -> bool:
        """Return whether a file of the folder is absent, or this library wrote what it holds and nobody reads it."""
        if not os.path.lexists(file):
            return True
        digests = self._digests.get(self._name(file), set())
        if file.is_symlink() or not file.is_file() or _identity(file) in self._reads:
            return False
        return bool(digests) and _digest(file) in digests

    def check(self, *files: Path) -> None:
        """Refuse to replace a file of someone else's; call it before the work is done.

        Raises:
            UsageError: that names the first one.
        """
        for file in files:
            if not self.may_write(file):
                why = "is read by this command" if _identity(file) in self._reads else "is not of this command"
                raise UsageError(f"{file} exists and {why}; choose another place, or move it away")

    def free(self, file: Path, taken: Iterable[Path] = ()) -> Path:
        """Return the file, or ``<stem>-2.png``, ``<stem>-3.png``, ... where it is another's or one of ``taken``."""
        taken, number, found = set(taken), 1, file
        while found in taken or not self.may_write(found):
            number += 1
            found = file.with_name(f"{file.stem}-{number}{file.suffix}")
        return found

    def write(self, file: Path, write: Callable[..., object]) -> None:
        """Call ``write(stream)`` and put the file at its place in one step; the first process does so.

        Raises:
            UsageError: if the file is someone else's.
        """
        if not is_first():
            return
        self.check(file)
        # Needs Pillow, by way of the data sets, which a machine that only times ops may lack.
        from wsolfast.data import atomic

        def listed(stream: BinaryIO) -> None:
            write(stream)
            stream.flush()
            # Listed before it is there: whatever ends the process, the next one knows the file.
            self._add(self._name(file), _digest(Path(stream.name)))

        atomic.write_bytes(file, listed)

    def write_text(self, file: Path, text: str) -> None:
        """Write text in UTF-8, as :meth:`write` does."""
        self.write(file, lambda stream: stream.write(text.encode("utf-8")))

    def _add(self, name: str, digest: str) -> None:
        known = self._digests.setdefault(name, set())
        if digest not in known:
            known.add(digest)
            with (self.folder / LIST).open("a", encoding="utf-8") as stream:
                stream.write(f"{digest}  {name}\n")

    def _name(self, file: Path) -> str:
        return os.path.relpath(file, self.folder).replace(os.sep, "/")


def _identity(file: Path) -> tuple[int, int] | None:
    """Return the key of a file, the same by whatever path it is named; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
