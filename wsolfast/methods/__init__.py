"""The folder is the registry: ``methods/<name>.py`` is the method ``<name>``; ``STAGES`` maps its stages to Modules."""

import difflib
import importlib
import pkgutil

from wsolfast.methods._base import Method
from wsolfast.methods._scg import Refined, SelfCorrelation

__all__ = ["Method", "Refined", "SelfCorrelation", "get_stage", "list_methods", "list_stages"]


def list_methods() -> list[str]:
    """Names of all methods, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def list_stages() -> list[str]:
    """``method.stage`` for every stage of every method; one-stage methods appear as ``method``."""
    names = []
    for method in list_methods():
        stages = importlib.import_module(f"{__name__}.{method}").STAGES
        names += [method] if len(stages) == 1 else [f"{method}.{stage}" for stage in stages]
    return names


def get_stage(name: str) -> type[Method]:
    """The Module class behind ``"spa"`` or ``"spol.seg"``.

    Raises:
        KeyError: if there is no such method or stage; the message names the nearest one.
    """
    method, _, stage = name.partition(".")
    if method not in list_methods():
        raise KeyError(_unknown(name, list_stages()))
    stages = importlib.import_module(f"{__name__}.{method}").STAGES
    if not stage and len(stages) == 1:
        return next(iter(stages.values()))
    if stage not in stages:
        raise KeyError(_unknown(name, list_stages()))
    return stages[stage]


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"no method named {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}")
