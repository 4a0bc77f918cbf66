"""Data sets that may be downloaded, by those who accept their terms."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wsolfast._nearest import nearest
from wsolfast.data._spec import Task, silent
from wsolfast.data.errors import DataError
from wsolfast.data.tools._download import download
from wsolfast.data.tools._unpack import unpack

_MIB = 1 << 20


@dataclass(frozen=True)
class Archive:
    """Address, checksum and terms of a data set."""

    title: str  # of the data set
    terms: str
    page: str  # where it is described
    url: str  # of the archive
    sha256: str  # of the archive, in hexadecimal digits
    size: int  # bytes
    folder: str  # what is taken out of it
    holds: str  # a file that is in it if it is what it says
    max_files: int  # unpacked
    max_bytes: int  # the same


ARCHIVES = {
    "cub": Archive(
        title="CUB-200-2011 (Wah, Branson, Welinder, Perona, Belongie; doi:10.22002/D1.20098)",
        terms="its photographs are for non-commercial research and education only, and belong to their authors",
        page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
        # The publisher gives an MD5 only. This is the SHA-256 that torchvision's prototype data sets and others found.
        sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
        size=1_150_585_339,
        folder="CUB_200_2011",
        holds="images.txt",
        max_files=100_000,
        max_bytes=8 << 30,
    )
}


def fetch(
    name: str,
    output: str | Path,
    *,
    accept_licence: bool,
    url: str | None = None,
    sha256: str | None = None,
    task: Task | None = None,
) -> Path:
    """Download a data set; nothing else in this package connects to anywhere.

    The download goes on where an earlier call stopped. The archive is unpacked when its SHA-256 is right, files and
    folders only, and gets its name when all of it is there.

    Args:
        name: one of ``ARCHIVES``, which hold addresses, checksums and terms.
        output: where the data set's folder is made.
        accept_licence: that you have read the terms and keep to them.
        url: a mirror; its bytes must be the same, unless ``sha256`` says otherwise.
        sha256: of what is at ``url``.
        task: makes a progress display from a title and a number of MiB.

    Returns:
        The folder, to be given as ``root``.

    Raises:
        ValueError: if the terms are not accepted, or for an unknown name or a malformed checksum.
        FetchError: if the server cannot be reached, refuses or breaks off.
        DataError: if the checksum is wrong or the archive is not what it should be.
    """
    if name not in ARCHIVES:
        raise ValueError(f"no data set named {name!r} can be fetched; {nearest(name, ARCHIVES)}")
    archive = ARCHIVES[name]
    if not accept_licence:
        raise ValueError(f"{archive.title}: {archive.terms}; read {archive.page} and add --accept-licence")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256: expected 64 hexadecimal digits, got {sha256!r}")
    return _fetch_archive(archive, Path(output), url=url, sha256=sha256, task=task or silent)


def _fetch_archive(archive: Archive, output: Path, *, url: str | None, sha256: str | None, task: Task) -> Path:
    final = output / archive.folder
    if final.exists():
        return final
    packed = output / f".{archive.folder}.download"
    unpacked = output / f".{archive.folder}.unpacking"
    # Bytes of another origin or checksum than the registered ones may be larger; unpacking bounds them.
    limit = archive.size if sha256 is None else archive.max_bytes
    with task(f"download {archive.folder} (MiB)", archive.size // _MIB) as advance:
        download(
            url or archive.url,
            packed,
            sha256=(sha256 or archive.sha256).lower(),
            max_bytes=limit,
            advance=_in_mib(advance),
        )
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        unpack(packed, unpacked, max_files=archive.max_files, max_bytes=archive.max_bytes)
        if not (unpacked / archive.folder / archive.holds).is_file():
            raise DataError(f"{packed}: holds no {archive.folder}/{archive.holds}; it is not {archive.title}")
        (unpacked / archive.folder).rename(final)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    packed.unlink()
    return final


def _in_mib(advance: Callable[..., None]) -> Callable[[int], None]:
    """Return a function that takes numbers of bytes and advances by whole MiB."""
    done = 0

    def count(new: int) -> None:
        nonlocal done
        before, done = done // _MIB, done + new
        advance(done // _MIB - before)

    return count
