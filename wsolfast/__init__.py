"""Fast, exact, complete weakly supervised object localization (WSOL) in PyTorch."""

import importlib
from typing import Any

__all__ = ["__version__", "backends", "ops"]


def __getattr__(name: str) -> Any:
    # On first use, so that the command line shows its help before torch is imported.
    if name == "ops":
        return importlib.import_module("wsolfast.ops")
    if name == "backends":
        return importlib.import_module("wsolfast.ops").backends
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("wsolfast")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
