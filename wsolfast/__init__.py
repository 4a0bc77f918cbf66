"""Fast, exact, complete weakly supervised object localization (WSOL) in PyTorch."""

# Nothing is imported here: until __main__ has its handler, Ctrl-C is a traceback. A type checker knows the name, and
# reads what an editor should offer.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from wsolfast import (
        backbones,
        compat,
        convert,
        data,
        engine,
        export,
        interop,
        methods,
        metrics,
        ops,
        recipe,
        refinements,
        testing,
        types,
    )
    from wsolfast.api import evaluate, load, localize, train
    from wsolfast.ops import backends

    __version__: str

__all__ = [
    "__version__",
    "backbones",
    "backends",
    "compat",
    "convert",
    "data",
    "engine",
    "evaluate",
    "export",
    "interop",
    "load",
    "localize",
    "methods",
    "metrics",
    "ops",
    "recipe",
    "refinements",
    "testing",
    "train",
    "types",
]

# Functions of the package -> the module that has them.
_FUNCTIONS = {"backends": "ops", "evaluate": "api", "load": "api", "localize": "api", "train": "api"}

# Hidden from type checkers, which would take every misspelt name for one that it serves.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        import importlib

        # On first use, so that the command line shows its help before torch is imported.
        if name in _FUNCTIONS:
            return getattr(importlib.import_module(f"wsolfast.{_FUNCTIONS[name]}"), name)
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("wsolfast")
        if name in __all__:
            return importlib.import_module(f"wsolfast.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
