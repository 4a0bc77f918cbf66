"""Fast, exact, complete weakly supervised object localization (WSOL) in PyTorch."""

# Nothing is imported here: until __main__ has its handler, Ctrl-C is a traceback. A type checker knows the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wsolfast.api import evaluate, load, localize, train

__all__ = ["__version__", "backends", "evaluate", "load", "localize", "ops", "train"]


def __getattr__(name: str) -> "Any":
    import importlib

    # On first use, so that the command line shows its help before torch is imported.
    if name == "ops":
        return importlib.import_module("wsolfast.ops")
    if name in ("evaluate", "load", "localize", "train"):
        return getattr(importlib.import_module("wsolfast.api"), name)
    if name == "backends":
        return importlib.import_module("wsolfast.ops").backends
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("wsolfast")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
