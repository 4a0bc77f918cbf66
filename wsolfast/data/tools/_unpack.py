"""Archives of others, unpacked so that nothing can be written anywhere else."""

import tarfile
import zlib
from pathlib import Path, PurePosixPath

from wsolfast.data.errors import DataError

_CHUNK = 1 << 20


def unpack(archive: Path, folder: Path, *, max_files: int, max_bytes: int) -> None:
    """Unpack a gzipped tar file into the new folder ``folder``.

    Files and folders only. As no link is ever made, a path without ``..`` cannot lead out of a folder that was empty.
    Owners, permissions and times are not taken over.

    Raises:
        DataError: at the first member that is a link, a device or a pipe, has an absolute path or ``..``, comes twice
            or lies below a file; if the members are more or larger than allowed; if the archive is damaged. What was
            unpacked until then is left in ``folder``.
    """
    folder.mkdir()
    files, room = 0, max_bytes
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                files += 1
                room -= member.size
                if files > max_files or room < 0 or member.size < 0:
                    raise DataError(
                        f"{archive}: unpacks to more than {max_files} files or {max_bytes} bytes; not trusted"
                    )
                _unpack_member(tar, member, folder, f"{archive}, member {member.name!r}")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{archive}: damaged, or not a gzipped tar file ({error})") from error


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, where: str) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise DataError(f"{where}: leads out of the folder; not trusted")
    target = folder / path
    try:
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
        elif member.isreg() and not member.issparse():
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None  # it is a file
            with content, target.open("xb") as stream:
                while part := content.read(_CHUNK):
                    stream.write(part)
        else:
            raise DataError(f"{where}: is a link, a device or a pipe; only files and folders are taken")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{where}: comes twice, or lies below a file") from None
