"""The ``wsolfast`` command, also as ``python -m wsolfast``; from here on Ctrl-C is silent.

Before this file Python starts, with what is installed beside us (``site``, ``.pth`` files): a Ctrl-C in that time is
Python's own to answer.
"""

import sys

# As in wsolfast/__init__.py. signal is Python's wrapper of _signal, which is there from the start; it imports enum, and
# that takes milliseconds in which Ctrl-C is not yet silent.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
else:
    import _signal as signal

_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        from wsolfast.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    finally:
        # Nothing that is left to do at the end can be stopped cleanly.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(number: int, frame: "FrameType | None") -> None:
    while frame is not None:
        # An exception in the middle of an import may become any other one.
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            import os

            os._exit(_INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
