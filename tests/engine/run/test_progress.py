"""How far the work is, on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from wsolfast.engine.run import progress as module
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.words import count, duration, left_out


def shown(terminal, **options):
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=terminal, width=100), **options)
    with progress.task("training", total=4, done=1) as advance:
        advance()
        advance(2, "loss 0.5")
    progress.log("done [all of it]")
    return out.getvalue()


def test_a_terminal_has_a_bar():
    text = shown(terminal=True)
    assert "training" in text
    assert "4/4" in text
    assert "loss 0.5" in text
    assert "done [all of it]" in text


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_log_has_a_line_now_and_then_with_the_time_that_is_left(monkeypatch, seconds):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", seconds)
    # One step in 1,900 s, of which two are left; then the last two in 10 s.
    times = iter([0.0, 1900.0, 1910.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    lines = ["training 2/4  1:03:20 left", "training 4/4  loss 0.5  0:00:00 left"] if seconds == 0 else []
    assert shown(terminal=False).splitlines() == [*lines, "done [all of it]"]


def test_a_log_s_lines_are_not_wrapped():
    out = io.StringIO()
    Progress(Console(file=out, force_terminal=False, width=40)).log("word " * 60)
    assert out.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (count(1, "epoch"), "1 epoch"),
        (count(0, "epoch"), "0 epochs"),
        (count(1200, "image"), "1,200 images"),
        (count(2, "class", "classes"), "2 classes"),
        (left_out(1), "1 unreadable image is left out"),
        (left_out(3), "3 unreadable images are left out"),
        (duration(59.6), "0:01:00"),
        (duration(360001), "100:00:01"),
    ],
)
def test_numbers_in_sentences(told, words):
    assert told == words


def test_who_wants_quiet_has_it():
    assert shown(terminal=True, quiet=True) == ""
