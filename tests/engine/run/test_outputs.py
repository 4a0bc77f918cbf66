"""A user's files are not replaced: not by a name, not by another path to them, not after a change."""

import pytest

from wsolfast.engine.run.errors import UsageError
from wsolfast.engine.run.outputs import LIST, Outputs


def put(folder, name, content):
    Outputs(folder).write(folder / name, lambda stream: stream.write(content))


def test_what_was_written_before_is_replaced_and_nothing_else(tmp_path):
    put(tmp_path, "deep/one.txt", b"first")
    put(tmp_path, "deep/one.txt", b"second")
    assert (tmp_path / "deep/one.txt").read_bytes() == b"second"
    # Changed by someone else, though its name is ours.
    (tmp_path / "deep/one.txt").write_bytes(b"second, and a note")
    with pytest.raises(UsageError, match=r"deep/one\.txt exists and is not of this command"):
        put(tmp_path, "deep/one.txt", b"third")
    assert (tmp_path / "deep/one.txt").read_bytes() == b"second, and a note"
    (tmp_path / "two.txt").write_bytes(b"")
    assert not Outputs(tmp_path).may_write(tmp_path / "two.txt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "link"):
        with pytest.raises(UsageError, match="not of this command"):
            put(tmp_path, name, b"")


def test_what_is_read_is_not_replaced_by_whatever_path_it_is_named(tmp_path):
    put(tmp_path, "own.png", b"own")
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    outputs = Outputs(tmp_path, reads=[tmp_path / "elsewhere" / "own.png", tmp_path / "absent.png"])
    with pytest.raises(UsageError, match="is read by this command"):
        outputs.write(tmp_path / "own.png", lambda stream: stream.write(b"new"))
    assert outputs.free(tmp_path / "own.png") == tmp_path / "own-2.png"
    assert outputs.free(tmp_path / "own.png", [tmp_path / "own-2.png"]) == tmp_path / "own-3.png"
    assert (tmp_path / "own.png").read_bytes() == b"own"


def test_a_folder_may_move_and_the_list_is_that_of_sha256sum(tmp_path):
    put(tmp_path / "a", "one.txt", b"x")
    (tmp_path / "a").rename(tmp_path / "b")
    put(tmp_path / "b", "one.txt", b"y")
    lines = (tmp_path / "b" / LIST).read_text().splitlines()
    assert lines[0] == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881  one.txt"
    put(tmp_path / "b", "one.txt", b"x")
    assert (tmp_path / "b" / LIST).read_text().splitlines() == lines


def test_a_write_that_fails_leaves_the_old_file_and_it_is_still_known(tmp_path):
    put(tmp_path, "one.txt", b"x")

    def fails(stream):
        stream.write(b"half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        Outputs(tmp_path).write(tmp_path / "one.txt", fails)
    put(tmp_path, "one.txt", b"y")
    assert sorted(file.name for file in tmp_path.iterdir()) == [LIST, "one.txt"]
