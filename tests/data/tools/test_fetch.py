"""Downloading, against a server on this machine that breaks off, ignores ranges, lies, or sends malicious archives."""

import hashlib
import http.server
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace

import pytest

from wsolfast.data import ARCHIVES, DataError, FetchError, fetch
from wsolfast.data.tools import _download, _unpack

IMAGES = "1 a/1.jpg\n"


def packed(*members, **content):
    """A gzipped tar of files and of ready-made ``TarInfo``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in content.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("_txt", ".txt"))
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


NOISE = random.Random(0).randbytes(300_000)
GOOD = packed(attributes_txt=b"outside", CUB_200_2011__images_txt=IMAGES.encode(), CUB_200_2011__images__a__1=NOISE)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        if server.refuse:
            self.send_error(server.refuse.pop(0))
            return
        start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and server.knows_ranges else 0
        body = server.body[start:]
        if start and not body:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            begin = start + server.shift
            self.send_header("Content-Range", f"bytes {begin}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[:cut])
        self.wfile.flush()
        if server.stall and cut < len(body):
            server.stall.wait(20)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(_download, "_PAUSE", 0.001)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.body, running.ranges, running.cuts, running.refuse = GOOD, [], [], []
        running.knows_ranges, running.shift, running.stall = True, 0, None
        running.url = f"http://127.0.0.1:{running.server_port}/birds.tgz"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def get(server, tmp_path, monkeypatch):
    """Fetches what the server has, as if it were registered."""

    def call(body=None, **options):
        server.body = body or server.body
        registered = replace(
            ARCHIVES["cub"], size=len(server.body), sha256=hashlib.sha256(server.body).hexdigest(), url=server.url
        )
        monkeypatch.setitem(ARCHIVES, "cub", replace(registered, **options))
        return fetch("cub", tmp_path / "data", accept_licence=True)

    return call


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_terms_come_first_and_nothing_is_asked_of_anybody(server, tmp_path):
    with pytest.raises(ValueError, match=r"10.22002/D1.20098.*non-commercial research.*https://.*--accept-licence"):
        fetch("cub", tmp_path, accept_licence=False, url=server.url)
    with pytest.raises(ValueError, match="no data set named 'cubs' can be fetched; did you mean 'cub'"):
        fetch("cubs", tmp_path, accept_licence=True)
    with pytest.raises(ValueError, match="64 hexadecimal digits, got 'abc'"):
        fetch("cub", tmp_path, accept_licence=True, url=server.url, sha256="abc")
    assert not server.ranges
    assert not left_in(tmp_path)


def test_a_good_archive_is_unpacked_once(get, server, tmp_path):
    folder = get()
    assert folder == tmp_path / "data/CUB_200_2011"
    assert (folder / "images.txt").read_text() == IMAGES
    assert (folder / "images/a/1").read_bytes() == NOISE
    assert left_in(tmp_path / "data") == ["CUB_200_2011"]
    assert get() == folder
    assert server.ranges == [None]


def test_a_connection_that_breaks_off_is_continued(get, server):
    server.cuts = [100_000, 0, 50_000]
    assert (get() / "images/a/1").read_bytes() == NOISE
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_a_server_without_ranges_starts_over(get, server):
    server.cuts, server.knows_ranges = [100_000], False
    assert (get() / "images/a/1").read_bytes() == NOISE
    assert server.ranges == [None, "bytes=100000-"]


def test_a_server_that_never_gets_further_ends_it_and_the_next_call_continues(get, server, tmp_path):
    server.cuts = [1000] + [0] * 5
    with pytest.raises(FetchError, match="broke off; 1000 bytes are kept: give the same command again"):
        get()
    assert left_in(tmp_path / "data") == [".CUB_200_2011.download"]
    assert get().is_dir()
    assert server.ranges[-1] == "bytes=1000-"
    server.knows_ranges, server.cuts = False, [1000] * 6
    (tmp_path / "data/CUB_200_2011").rename(tmp_path / "away")
    with pytest.raises(FetchError, match="broke off"):
        get()


def test_answers_of_a_server(get, server, tmp_path):
    server.refuse = [404]
    with pytest.raises(FetchError, match="the server answers 404 Not Found"):
        get()
    server.refuse = [503, 429]
    assert get().is_dir()
    (tmp_path / "data/CUB_200_2011").rename(tmp_path / "away")
    server.cuts, server.shift = [1000], 7
    with pytest.raises(FetchError, match="asked for the bytes from 1000, the server sends 'bytes 1007-"):
        get()
    server.shutdown()
    with pytest.raises(DataError, match="only http and https"):
        fetch("cub", tmp_path / "data", accept_licence=True, url="file:///etc/passwd")


def test_a_server_that_is_not_there_is_named(get, server, tmp_path):
    server.server_close()
    with pytest.raises(FetchError, match=r"127.0.0.1:\d+/birds.tgz: the connection broke off \(.*refused"):
        get()


def test_other_bytes_are_removed_and_not_unpacked(get, server, tmp_path):
    with pytest.raises(DataError, match=rf"SHA-256 {hashlib.sha256(GOOD).hexdigest()}, expected {'0' * 64}"):
        get(sha256="0" * 64)
    assert not left_in(tmp_path / "data")
    # A file that was begun with other bytes is found out as well.
    (tmp_path / "data/.CUB_200_2011.download").write_bytes(b"something else")
    with pytest.raises(DataError, match="the file was removed"):
        get()
    assert get().is_dir()


def test_more_bytes_than_announced_are_not_written(get, server, tmp_path):
    with pytest.raises(DataError, match="is larger than 1000 bytes"):
        get(size=1000)
    assert not left_in(tmp_path / "data")


def test_a_mirror_must_have_the_same_bytes_or_say_which(get, server, tmp_path):
    get()
    (tmp_path / "data/CUB_200_2011").rename(tmp_path / "away")
    server.body = packed(CUB_200_2011__images_txt=b"other")
    options = {"accept_licence": True, "url": server.url}
    with pytest.raises(DataError, match="SHA-256"):
        fetch("cub", tmp_path / "data", **options)
    folder = fetch("cub", tmp_path / "data", **options, sha256=hashlib.sha256(server.body).hexdigest().upper())
    assert (folder / "images.txt").read_text() == "other"


def test_a_download_that_is_whole_needs_no_server(get, server, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsolfast.data.tools.fetch.unpack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get()
    assert left_in(tmp_path / "data") == [".CUB_200_2011.download"]
    monkeypatch.undo()
    monkeypatch.setitem(
        ARCHIVES, "cub", replace(ARCHIVES["cub"], sha256=hashlib.sha256(GOOD).hexdigest(), url=server.url)
    )
    server.refuse = [500] * 99
    assert fetch("cub", tmp_path / "data", accept_licence=True).is_dir()
    assert server.ranges == [None]


def test_killed_in_the_middle_it_continues(get, server, tmp_path):
    server.cuts, server.stall = [200_000], threading.Event()
    code = (
        "import sys, hashlib\n"
        "from wsolfast.data import fetch\n"
        "fetch('cub', sys.argv[1], accept_licence=True, url=sys.argv[2], sha256=sys.argv[3])\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "data"), server.url, hashlib.sha256(GOOD).hexdigest()]
    process = subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"})
    part = tmp_path / "data/.CUB_200_2011.download"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(FetchError, match="another process is downloading it"):
        get()
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.stall.set()
    kept = part.stat().st_size
    assert 0 < kept <= 200_000
    assert (get() / "images/a/1").read_bytes() == NOISE
    assert server.ranges[-1] == f"bytes={kept}-"


def member(name, type_=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = type_, link, size
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../escaped", size=1)], "'../escaped' is not a path below"),
        ([member("CUB_200_2011/../../escaped", size=1)], "is not a path below"),
        ([member("/wsolfast-escaped", size=1)], "'/wsolfast-escaped' is not a path below"),
        ([member("a\\..\\escaped", size=1)], "is not a path below"),
        ([member("../escaped", tarfile.DIRTYPE)], "is not a path below"),
        ([member("link", tarfile.SYMTYPE, "/etc"), member("link/escaped", size=1)], "'link': is a link"),
        ([member("link", tarfile.SYMTYPE, "CUB_200_2011")], "is a link"),
        ([member("hard", tarfile.LNKTYPE, "/etc/passwd")], "is a link, a device or a pipe"),
        ([member("device", tarfile.CHRTYPE)], "is a link, a device or a pipe"),
        ([member("pipe", tarfile.FIFOTYPE)], "is a link, a device or a pipe"),
        ([member("file", size=1), member("file/below", size=1)], "'file/below': lies below a file"),
        ([member("folder", tarfile.DIRTYPE), member("folder", size=1)], "'folder': lies .* where a folder is"),
        ([member("large", size=60_000)], "unpacks to more than 8 files or 50000 bytes"),
        ([member(str(k)) for k in range(9)], "unpacks to more than 8 files"),
    ],
)
def test_a_malicious_archive_writes_nothing_outside_and_leaves_nothing(get, tmp_path, members, message):
    before = left_in(tmp_path)
    with pytest.raises(DataError, match=message):
        get(packed(*members, CUB_200_2011__images_txt=b"1"), max_files=8, max_bytes=50_000)
    assert left_in(tmp_path / "data") == [".CUB_200_2011.download"]
    assert left_in(tmp_path) == sorted([*before, "data"])
    assert not os.path.exists("/wsolfast-escaped")


@pytest.mark.parametrize("body", [b"no archive", GOOD[: len(GOOD) // 2], GOOD[:10] + b"\xff" * 50 + GOOD[60:]])
def test_a_damaged_archive_is_named(get, tmp_path, body):
    with pytest.raises(DataError, match=r"CUB_200_2011.download: damaged, or not a gzipped tar file"):
        get(body)
    assert not (tmp_path / "data/CUB_200_2011").exists()


def test_an_archive_of_something_else_is_refused(get, tmp_path):
    with pytest.raises(DataError, match=r"holds no CUB_200_2011/images.txt; it is not CUB-200-2011"):
        get(packed(CUB_200_2011__classes_txt=b"1"))
    assert left_in(tmp_path / "data") == [".CUB_200_2011.download"]


def test_an_error_of_the_system_stays_what_it_is(tmp_path):
    (tmp_path / "a.tgz").write_bytes(packed(**{"a" * 300: b"x"}))
    with pytest.raises(OSError, match="name too long"):
        _unpack.unpack(tmp_path / "a.tgz", tmp_path / "out", max_files=5, max_bytes=1000)
