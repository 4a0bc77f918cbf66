"""Whole resized images on disk, decoded once and shared by every process that wants the same ones.

A file of ``CacheSpec.folder`` holds the images of one split at one size: a header, one record per image, then the
pixels in the order in which they came. Nothing is ever moved or evicted; what finds no room is decoded as always.

- *Writers* take turns (``flock``; a lock ends with its process). Pixels are written before the record that names them,
  so an image that was interrupted half-way has no record and its place is used again.
- *Readers* take no lock: the record's checksum covers the record and the pixels, so what is torn, damaged or cut off is
  found out, and the image is decoded again.
- A record also holds the state of what it was decoded from (of a file its size and time), so an image that is
  overwritten is noticed. All else that pixels depend on is in the file's name.

Files are read and written by position, not mapped: the pages are the kernel's and no process grows, a full disk is an
error and not a signal, and so is a file that somebody cuts. The folder must be on a disk of this machine.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import struct
import threading
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from wsolfast._system import lock_file, unlock_file
from wsolfast.data.atomic import write_bytes

VERSION = 1
SUFFIX = ".pixels"

_MAGIC = f"wsolfast pixels {VERSION}\n".encode()
_HEADER_BYTES = 4096
# Where the next image goes, how many there are, and the last reason that was given for not taking more.
_COUNTERS = struct.Struct("<QQQ")
_COUNTERS_AT, _IDENTITY_AT = 32, 64
_NO_REASON, _CANNOT_GROW = 0, 1  # any other number: full at so many bytes
# Place, state of the origin, rows, columns, width and height of the image; a record is these and their CRC-32 with that
# of the pixels.
_FIELDS = struct.Struct("<QQIIII")
_RECORD = struct.Struct("<QQIIIII4x")
_GROWTH = 32 << 20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheSpec:
    """Folder of decoded images, and how many bytes it may hold in all."""

    folder: Path  # made where it is missing
    max_bytes: int  # of all caches in the folder


def open_cache(spec: CacheSpec, name: str, identity: dict[str, object], count: int) -> "ImageCache":
    """Open the cache of ``count`` images whose pixels depend on ``identity`` and on their own state, or make it."""
    identity = identity | {"count": count, "software": _software()}
    text = json.dumps(identity, sort_keys=True, default=str)
    path = spec.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}{SUFFIX}"
    spec.folder.mkdir(parents=True, exist_ok=True)
    return ImageCache(path, text, count, spec.max_bytes)


def _software() -> list[str]:
    """Name what decodes and resizes: another version may round otherwise."""
    jpeg = features.version_feature("libjpeg_turbo") or features.version("jpg")
    return [Image.__version__, str(jpeg), torch.__version__, torch.backends.cpu.get_cpu_capability()]


class ImageCache:
    """One file of the cache; see the module. Threads may share it, and forked and spawned processes.

    Args:
        path: the file; it is made when an image is first put.
        identity: what its images depend on, for whoever looks into the file.
        count: images that may come.
        max_bytes: of all the caches in its folder.
    """

    def __init__(self, path: Path, identity: str, count: int, max_bytes: int):
        self.path, self.count, self.max_bytes = path, count, max_bytes
        self._identity = identity
        self._pixels_at = _round_up(_HEADER_BYTES + count * _RECORD.size, _HEADER_BYTES)
        self._forget()

    def _forget(self) -> None:
        """Start as in a new process."""
        self._file: FileIO | None = None
        self._turn = threading.RLock()
        self._closed = False  # nothing more is put: no room
        self._damaged: set[int] = set()
        self._told_damage = False
        _INSTANCES.add(self)

    def __getstate__(self) -> dict:
        return {key: self.__dict__[key] for key in ("path", "count", "max_bytes", "_identity", "_pixels_at")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def get(self, index: int, state: int, name: str) -> tuple[Tensor, tuple[int, int]] | None:
        """Return an image as it was put, if it is there and was decoded from ``state``.

        Args:
            index: of the image.
            state: of what it would be decoded from.
            name: what a warning calls it.

        Returns:
            uint8 tensor [3, h, w] and (width, height) of the original; None if it must be decoded.
        """
        descriptor = self._open()
        if descriptor is None:
            return None
        try:
            return self._read(descriptor, index, state)
        except _DamagedError:
            pass
        try:
            # Another process may just have replaced it.
            with self._alone(descriptor):
                return self._read(descriptor, index, state)
        except _DamagedError:
            if not self._told_damage:
                _log.warning("%s: the copy of %s is damaged; such images are decoded again", self.path, name)
            self._told_damage = True
            self._damaged.add(index)
            return None

    def put(self, index: int, state: int, whole: Tensor, image_size: tuple[int, int]) -> None:
        """Keep an image, unless it is there or there is no room; the first that finds none says so.

        Args:
            index: of the image.
            state: of what it was decoded from.
            whole (Tensor[3, h, w]): uint8.
            image_size: (width, height) of the original.
        """
        if self._closed:
            return
        try:
            descriptor = self._open() or self._make()
            if descriptor is not None:
                with self._alone(descriptor):
                    self._append(descriptor, index, state, whole, image_size)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._close(_CANNOT_GROW, f"cannot grow ({error.strerror})")

    def describe(self) -> str:
        """Say how many images are there, and how many fit where their size tells."""
        descriptor = self._open()
        end, held, size = self._pixels_at, 0, 0
        if descriptor is not None:
            (end, held, _), size = self._counters(descriptor), os.fstat(descriptor).st_size
        said = f"{held} of {self.count} images are in {self.path}"
        if not held or held == self.count:
            return said
        room = max(0, self.max_bytes - _bytes_in(self.path.parent)) + max(0, size - end)
        fit = min(self.count, held + held * room // (end - self._pixels_at))
        return f"{said}, {'all' if fit == self.count else f'about {fit}'} fit"

    def _append(self, descriptor: int, index: int, state: int, whole: Tensor, image_size: tuple[int, int]) -> None:
        known = os.pread(descriptor, _RECORD.size, self._record_at(index)).ljust(_RECORD.size, b"\0")
        place, origin, *_ = _RECORD.unpack(known)
        if place and origin == state and index not in self._damaged:
            return
        pixels = whole.contiguous().numpy().reshape(-1)
        end, held, reason = self._counters(descriptor)
        if not self._make_room(descriptor, end + pixels.nbytes, wanted=(self.count - held) * pixels.nbytes):
            self._close(self.max_bytes, f"is full: {held} of {self.count} images fit")
            return
        fields = (end, state, *whole.shape[1:], *image_size)
        _write(descriptor, pixels.data, end)
        # Before the record: whoever is killed between the two leaves a gap, never two images in one place.
        _write(descriptor, _COUNTERS.pack(end + pixels.nbytes, held + (not place), reason), _COUNTERS_AT)
        _write(descriptor, _RECORD.pack(*fields, _checksum(pixels, fields)), self._record_at(index))
        self._damaged.discard(index)

    def _read(self, descriptor: int, index: int, state: int) -> tuple[Tensor, tuple[int, int]] | None:
        record = os.pread(descriptor, _RECORD.size, self._record_at(index))
        if len(record) < _RECORD.size:
            raise _DamagedError
        *fields, checksum = _RECORD.unpack(record)
        place, origin, rows, columns, width, height = fields
        if not place or origin != state:
            return None
        count = 3 * rows * columns
        if not count or place + count > os.fstat(descriptor).st_size:
            raise _DamagedError
        pixels = np.empty((3, rows, columns), np.uint8)
        if os.preadv(descriptor, [pixels.data], place) < count or _checksum(pixels, fields) != checksum:
            raise _DamagedError
        return torch.from_numpy(pixels), (width, height)

    def _record_at(self, index: int) -> int:
        return _HEADER_BYTES + index * _RECORD.size

    def _counters(self, descriptor: int) -> tuple[int, int, int]:
        stored = os.pread(descriptor, _COUNTERS.size, _COUNTERS_AT).ljust(_COUNTERS.size, b"\0")
        end, held, reason = _COUNTERS.unpack(stored)
        return max(end, self._pixels_at), min(held, self.count), reason

    def _open(self) -> int | None:
        """Return the descriptor of the file in this process; None while there is none of ours."""
        if self._file is not None:
            # Without the lock, which a thread holds while it writes.
            return self._file.fileno()
        with self._turn:
            if self._file is None and not self._closed and self.path.exists():
                file = self.path.open("r+b", buffering=0)
                if os.pread(file.fileno(), _HEADER_BYTES, 0) != self._header(file.fileno()):
                    self._close(_NO_REASON, "is damaged, delete it")
                    return None
                self._file = file
            return None if self._file is None else self._file.fileno()

    def _make(self) -> int | None:
        """Make the file unless it is there by now, and open it; None if there is no room for its table."""
        if self._closed:
            return None
        with _locked(self.path.parent):
            if not self.path.exists():
                if _bytes_in(self.path.parent) + self._pixels_at > self.max_bytes:
                    self._close(_NO_REASON, "has no room for its table of images")
                    return None

                def write(stream: BinaryIO) -> None:
                    stream.write(self._header(None))
                    stream.truncate(self._pixels_at)

                write_bytes(self.path, write, durable=False)
        return self._open()

    def _header(self, descriptor: int | None) -> bytes:
        """Return the start of the file, its counters as they are."""
        counters = _COUNTERS.pack(self._pixels_at, 0, _NO_REASON)
        if descriptor is not None:
            counters = os.pread(descriptor, _COUNTERS.size, _COUNTERS_AT)
        start = _MAGIC.ljust(_COUNTERS_AT, b"\0") + counters
        return (start.ljust(_IDENTITY_AT, b"\0") + self._identity.encode())[:_HEADER_BYTES].ljust(_HEADER_BYTES, b"\0")

    def _make_room(self, descriptor: int, end: int, wanted: int) -> bool:
        """Let the file reach ``end`` if the folder may grow that much; in steps, as ``wanted`` bytes may come."""
        size = os.fstat(descriptor).st_size
        if end <= size:
            return True
        with _locked(self.path.parent):
            free = self.max_bytes - _bytes_in(self.path.parent)
            if end - size > free:
                return False
            os.ftruncate(descriptor, max(end, size + min(free, wanted, _GROWTH)))
        return True

    @contextmanager
    def _alone(self, descriptor: int) -> Iterator[None]:
        """Keep other threads and processes from writing."""
        with self._turn:
            lock_file(descriptor)
            try:
                yield
            finally:
                unlock_file(descriptor)

    def _close(self, reason: int, told: str) -> None:
        """Take nothing more in this process, and say why unless another one has."""
        self._closed = True
        if self._file is not None and reason != _NO_REASON:
            with self._alone(self._file.fileno()):
                end, held, given = self._counters(self._file.fileno())
                if given == reason:
                    return
                with contextlib.suppress(OSError):
                    _write(self._file.fileno(), _COUNTERS.pack(end, held, reason), _COUNTERS_AT)
        _log.warning("%s %s; the others are decoded as always", self.path, told)


# Threads of a process share a descriptor and take turns by a lock; a forked one must inherit neither.
_INSTANCES: "weakref.WeakSet[ImageCache]" = weakref.WeakSet()


def _forget_all() -> None:
    for cache in list(_INSTANCES):
        cache._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class _DamagedError(Exception):
    """A record or its pixels are not what was written."""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from making or growing a cache in ``folder``."""
    with (folder / ".lock").open("w") as stream:
        lock_file(stream)
        yield


def _bytes_in(folder: Path) -> int:
    """Count the bytes of all caches in a folder, reserved room included."""
    return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(SUFFIX))


def _write(descriptor: int, content: bytes | memoryview, place: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, place)
        content, place = content[written:], place + written


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step


def _checksum(pixels: np.ndarray, fields: Sequence[int]) -> int:
    return zlib.crc32(pixels.data, zlib.crc32(_FIELDS.pack(*fields)))
