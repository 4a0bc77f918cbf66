"""Methods by name; the folder is the registry: ``methods/<name>.py`` is the method ``<name>``.

``STAGES`` there maps its stages to Modules, ``NAME`` is how its paper spells it. A method that lives elsewhere is named
by its class, ``package.module:Class``.
"""

import importlib
import inspect
import pkgutil

from wsolfast._nearest import nearest
from wsolfast.methods._base import Method, MethodError
from wsolfast.methods._refined import Refined
from wsolfast.methods._whole_network import WholeNetwork

__all__ = [
    "Method",
    "MethodError",
    "Refined",
    "WholeNetwork",
    "display_name",
    "get_stage",
    "list_methods",
    "list_stages",
    "method_of",
]


def list_methods() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def list_stages() -> list[str]:
    """Return ``method.stage`` for every stage of every method; one-stage methods appear as ``method``."""
    names = []
    for method in list_methods():
        stages = importlib.import_module(f"{__name__}.{method}").STAGES
        names += [method] if len(stages) == 1 else [f"{method}.{stage}" for stage in stages]
    return names


def display_name(name: str) -> str:
    """Return the paper's spelling of the method ``name``: ``"CI-CAM"`` for ``"ci_cam"``, ``"SPOL"`` for ``"spol.seg"``.

    Raises:
        KeyError: if there is no such method; the message names the nearest one.
    """
    method = name.partition(".")[0]
    if method not in list_methods():
        raise KeyError(f"no method named {method!r}; {nearest(method, list_methods())}")
    return importlib.import_module(f"{__name__}.{method}").NAME


def get_stage(name: str) -> type[Method]:
    """Return the Module class behind ``name``.

    Args:
        name: one of :func:`list_stages`, for instance ``"spol.seg"``, or a class of one's own,
            ``"package.module:Class"``.

    Raises:
        KeyError: if there is no such method, stage or class; the message says what there is instead.
    """
    if ":" in name:
        return _class_elsewhere(name)
    method, _, stage = name.partition(".")
    if method not in list_methods():
        raise KeyError(f"no method named {name!r}; {nearest(name, list_stages())}")
    stages = importlib.import_module(f"{__name__}.{method}").STAGES
    if not stage and len(stages) == 1:
        return next(iter(stages.values()))
    if stage not in stages:
        raise KeyError(f"no method named {name!r}; {nearest(name, list_stages())}")
    return stages[stage]


def method_of(name: str) -> str:
    """Return the name of a stage's method in results: ``spol`` for ``"spol.seg"``, the class of one's own."""
    module, colon, cls = name.partition(":")
    return cls if colon else module.partition(".")[0]


def _class_elsewhere(name: str) -> type[Method]:
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that is there and misses another one is not ours to explain.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise KeyError(
            f"{name!r}: no module named {error.name!r}; install it, or call python -m wsolfast in the folder it is in"
        ) from None
    except ValueError:  # an empty name
        raise KeyError(f"{name!r}: expected package.module:Class") from None
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        there = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Method)]
        listed = ", ".join(sorted(set(there) - {"Method"})) or "none"
        raise KeyError(f"{name!r}: expected a subclass of wsolfast.methods.Method; {module_name} has {listed}")
    for function in (cls.localize, cls.localize_features):
        if "ranking" not in inspect.signature(function).parameters:
            raise KeyError(f"{name!r}: {function.__name__} takes no ranking; end its parameters with *, ranking=None")
    return cls
