"""Archives of others, unpacked so that nothing can be written anywhere else."""

import tarfile
import zlib
from pathlib import Path

from wsolfast.data._files import relative_path
from wsolfast.data.errors import DataError


def unpack(archive: Path, folder: Path, *, max_files: int, max_bytes: int) -> None:
    """Unpack a gzipped tar file into the new folder ``folder``: files and folders only, under tarfile's data filter.

    Raises:
        DataError: at the first member that is a link, a device or a pipe, has an absolute path or ``..``, or lies below
            a file; if the members are more or larger than allowed; if the archive is damaged. What was unpacked until
            then is left in ``folder``.
    """
    folder.mkdir()
    files, room = 0, max_bytes
    try:
        with tarfile.open(archive, "r:gz") as tar:
            # Python 3.11.0 to 3.11.3 has none; what is refused below is enough there, too.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            for member in tar:
                where = f"{archive}, member {member.name!r}"
                files += 1
                room -= member.size
                if files > max_files or room < 0 or member.size < 0:
                    limits = f"{max_files} files or {max_bytes} bytes"
                    raise DataError(f"{archive}: unpacks to more than {limits}; not trusted")
                # The filter would take a leading slash away, and links that stay inside.
                relative_path(member.name, str(archive))
                if not (member.isreg() or member.isdir()):
                    raise DataError(f"{where}: is a link, a device or a pipe; only files and folders are taken")
                try:
                    tar.extract(member, folder)
                except (FileExistsError, NotADirectoryError, IsADirectoryError):
                    raise DataError(f"{where}: lies below a file, or where a folder is") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{archive}: damaged, or not a gzipped tar file ({error})") from error
