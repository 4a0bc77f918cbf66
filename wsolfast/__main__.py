"""``python -m wsolfast`` is the ``wsolfast`` command."""

from wsolfast.cli import main

main()
