"""How far the work is, on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from wsolfast.engine.run import progress as module
from wsolfast.engine.run.progress import Progress


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


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_a_log_has_a_line_now_and_then(monkeypatch, seconds):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", seconds)
    lines = ["training 2/4", "training 4/4 loss 0.5"] if seconds == 0 else []
    assert shown(terminal=False).splitlines() == [*lines, "done [all of it]"]


def test_who_wants_quiet_has_it():
    assert shown(terminal=True, quiet=True) == ""
