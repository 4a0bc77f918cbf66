"""Refinements by name: what makes better maps of a trained method without training.

The folder is the registry: ``refinements/<name>.py`` is the refinement ``<name>`` of ``evaluate.post``, its options are
``[evaluate.<name>]``. ``REFINEMENT`` there is its class, ``NAME`` is how its paper spells it.
"""

import importlib
import inspect
import pkgutil

from wsolfast._nearest import nearest
from wsolfast.refinements._base import (
    IMAGE,
    FeatureError,
    LinearHead,
    Needs,
    Refinement,
    Seen,
    project,
    thresholded_mean,
)
from wsolfast.refinements._gradients import GradientMap, gradients_of, scores_of

__all__ = [
    "IMAGE",
    "FeatureError",
    "GradientMap",
    "LinearHead",
    "Needs",
    "Refinement",
    "Seen",
    "display_name",
    "get_refinement",
    "gradients_of",
    "list_refinements",
    "options_of",
    "project",
    "scores_of",
    "thresholded_mean",
]


def list_refinements() -> list[str]:
    """Return the names of all refinements, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get_refinement(name: str) -> type[Refinement]:
    """Return the class of the refinement ``name``, one of :func:`list_refinements`.

    Raises:
        KeyError: if there is no such refinement; the message names the nearest one.
    """
    return importlib.import_module(_module(name)).REFINEMENT


def display_name(name: str) -> str:
    """Return the paper's spelling of the refinement ``name``: ``"Grad-CAM"`` for ``"grad_cam"``.

    Raises:
        KeyError: if there is no such refinement; the message names the nearest one.
    """
    return importlib.import_module(_module(name)).NAME


def options_of(name: str) -> list[str]:
    """Return the names of the options of a refinement, which are the keys of ``[evaluate.<name>]``.

    Raises:
        KeyError: if there is no such refinement; the message names the nearest one.
    """
    parameters = inspect.signature(get_refinement(name).__init__).parameters.values()
    own = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    return [*own, *get_refinement(name).more_options()]


def _module(name: str) -> str:
    if name not in list_refinements():
        raise KeyError(f"no refinement named {name!r}; {nearest(name, list_refinements())}")
    return f"{__name__}.{name}"
