"""Packages that need help: to import at all, or to leave unimported what is not used."""

import importlib.util
import inspect
import os
import sys
from types import ModuleType
from typing import TypeVar

import torch

AnyOptimizer = TypeVar("AnyOptimizer", bound=torch.optim.Optimizer)

# Schemas declared in place of torchvision's compiled operators; a Library that is collected takes its schemas along.
_stand_ins: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """``torchvision``, also where its wheel is a CUDA build and torch is not.

    There its operators cannot load, and ``import torchvision`` stops at the first one it registers a meta kernel for.
    Declaring the schemas of these two lets everything import but ``ops.nms`` and ``io``: models, weights, transforms,
    and the packages that import torchvision themselves (timm, torchmetrics).

    Raises:
        ImportError: if torchvision is not installed.
    """
    if "torchvision" not in sys.modules:
        spec = importlib.util.find_spec("torchvision")
        if spec is None or spec.origin is None:
            raise ImportError("torchvision is not installed; pip install 'wsolfast[train]'")
        if torch.version.cuda is None and torch.version.hip is None:
            _declare_missing_operators(os.path.dirname(spec.origin))
    import torchvision

    return torchvision


def import_timm() -> ModuleType:
    """``timm``, which imports torchvision.

    Raises:
        ImportError: if timm or torchvision is not installed.
    """
    import_torchvision()
    if importlib.util.find_spec("timm") is None:
        raise ImportError("timm is not installed; pip install 'wsolfast[train]'")
    import timm

    return timm


def import_torchmetrics() -> ModuleType:
    """``torchmetrics``, which imports torchvision where it is installed.

    Raises:
        ImportError: if torchmetrics is not installed.
    """
    if importlib.util.find_spec("torchmetrics") is None:
        raise ImportError("torchmetrics is not installed; pip install 'wsolfast[eval]'")
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
    import torchmetrics

    return torchmetrics


def without_compiler(kind: type[AnyOptimizer]) -> type[AnyOptimizer]:
    """Return ``kind`` without the wrappers of its methods that tell torch's compiler to stop there.

    They import it when they are first called, which takes seconds, also where nothing is compiled. What the methods
    compute and what ``state_dict`` holds is the same; they cannot be called from inside of what is compiled.
    """
    methods = {
        name: inspect.unwrap(getattr(kind, name))
        for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    }
    # Its wrapper also turns gradients off.
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


def _declare_missing_operators(folder: str) -> None:
    try:
        torch.ops.load_library(os.path.join(folder, "_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _stand_ins.append(library)
