"""torchvision before the packages that import it, also where its wheel is a CUDA build and torch is not."""

from contextlib import suppress

from wsolfast._compat import import_torchvision

with suppress(ImportError):
    import_torchvision()
