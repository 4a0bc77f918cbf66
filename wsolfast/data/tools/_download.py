"""One large file over HTTP: continued where it broke off, and looked at before it is believed."""

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

from wsolfast._system import lock_file
from wsolfast.data.errors import DataError, FetchError

_CHUNK = 1 << 20
_PAUSE = 0.5  # seconds before a new attempt, doubled for each one that brought nothing
_ATTEMPTS = 5  # that may bring nothing new in a row
_TIMEOUT = 60.0  # seconds without a byte after which a connection counts as broken
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def download(url: str, file: Path, *, sha256: str, max_bytes: int, advance: Callable[[int], None]) -> None:
    """Bring ``file`` to the content with this SHA-256; what it holds of an earlier call is continued.

    Args:
        url: http or https.
        file: grows as bytes arrive; removed if it turns out to be something else.
        sha256: of the whole, in lower-case hexadecimal.
        max_bytes: more than that is never written.
        advance: called with the number of bytes that are new, or negative if the server starts over.

    Raises:
        FetchError: if the server refuses, or the connection breaks off and brings nothing new; ``file`` is kept.
        DataError: if the content has another checksum or is too large; ``file`` is removed.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: only http and https are downloaded")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        try:
            lock_file(stream, wait=False)
        except OSError:
            raise FetchError(f"{file}: another process is downloading it") from None
        reached = stream.seek(0, 2)
        advance(reached)
        # What a call left that was interrupted between download and unpacking needs no server.
        if reached and _digest(stream) == sha256:
            return
        try:
            _complete(url, stream, max_bytes, advance)
            found = _digest(stream)
            if found != sha256:
                raise DataError(f"{url}: has SHA-256 {found}, expected {sha256}")
        except DataError as error:
            file.unlink()
            raise DataError(f"{error}; the file was removed") from None


def _complete(url: str, stream: BinaryIO, max_bytes: int, advance: Callable[[int], None]) -> None:
    """Fetch until the server has no more."""
    reached, fruitless = stream.seek(0, 2), 0
    while (reason := _continue(url, stream, max_bytes, advance)) is not None:
        there = stream.seek(0, 2)
        fruitless = 0 if there > reached else fruitless + 1
        reached = max(reached, there)
        if fruitless == _ATTEMPTS:
            raise FetchError(f"{url}: {reason}; {there} bytes are kept: give the same command again to continue")
        time.sleep(_PAUSE * 2**fruitless)


def _continue(url: str, stream: BinaryIO, max_bytes: int, advance: Callable[[int], None]) -> str | None:
    """Fetch what is missing. Return why it broke off, or None when all is there."""
    start = stream.seek(0, 2)
    request = urllib.request.Request(url, headers={"User-Agent": "wsolfast", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            if response.status == 206:
                total = _total(response, start)
            else:
                # The whole file: the server knows no ranges, or we asked for none.
                advance(-start)
                stream.seek(0)
                stream.truncate()
                length = response.headers.get("Content-Length")
                total = int(length) if length else None
            while part := response.read1(_CHUNK):
                if stream.tell() + len(part) > max_bytes:
                    raise DataError(f"{url}: is larger than {max_bytes} bytes, which is not what was asked for")
                stream.write(part)
                advance(len(part))
            stream.flush()
            return None if total is None or stream.tell() >= total else "the connection broke off"
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            # Nothing lies behind what we have: it is whole, or something else, as its checksum will tell.
            return None
        if error.code >= 500 or error.code == 429:
            return f"the server answers {error.code} {error.reason}"
        raise FetchError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        stream.flush()
        return f"the connection broke off ({getattr(error, 'reason', error)})"


def _total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Return the size of the whole file, if the server continues at ``start`` as asked."""
    answer = response.headers.get("Content-Range", "")
    match = _RANGE.fullmatch(answer)
    if match is None or int(match[1]) != start:
        raise FetchError(f"{response.url}: asked for the bytes from {start}, the server sends {answer!r}")
    return None if match[2] == "*" else int(match[2])


def _digest(stream: BufferedRandom) -> str:
    stream.flush()
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()
