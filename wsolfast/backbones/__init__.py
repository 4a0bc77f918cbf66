"""Feature extractors: pretrained networks with the strides and pools of the WSOL papers, read at named stages.

Every backbone names its stages ``conv2`` to ``conv5``, shallow to deep, so that a method runs on any of them. The
folder is the registry: ``backbones/<name>.py`` assembles the backbone ``<name>``; ``timm:<name>`` is any timm network.
"""

import importlib
import pkgutil
from types import ModuleType

from wsolfast._nearest import nearest
from wsolfast.backbones._alexnet import AlexNetEmbedding
from wsolfast.backbones._base import (
    CLASS_ATTENTION,
    CLASS_TOKEN,
    LOGITS,
    Backbone,
    BackboneError,
    ClassifierHead,
    StageInfo,
)
from wsolfast.backbones._constant import call_as_constant
from wsolfast.backbones._drop_path import set_drop_path
from wsolfast.backbones._load_report import LoadReport
from wsolfast.backbones._realize import realize
from wsolfast.backbones._weights import WeightsError, class_names_of, load_weights, read_state

__all__ = [
    "CLASS_ATTENTION",
    "CLASS_TOKEN",
    "LOGITS",
    "AlexNetEmbedding",
    "Backbone",
    "BackboneError",
    "ClassifierHead",
    "LoadReport",
    "StageInfo",
    "WeightsError",
    "build",
    "call_as_constant",
    "class_names_of",
    "list_backbones",
    "list_layouts",
    "read_state",
]

_TIMM = "timm:"
# All stages without the head, or the last features and what the network's own head makes of them.
_TIMM_LAYOUTS = ("features", "whole")


def list_backbones() -> list[str]:
    """Return the names that :func:`build` takes besides ``timm:<name>``, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def list_layouts(name: str) -> tuple[str, ...]:
    """Return the layouts of the backbone ``name``, the default first."""
    return _TIMM_LAYOUTS if name.startswith(_TIMM) else _module(name).LAYOUTS


def build(
    name: str,
    *,
    layout: str | None = None,
    weights: str = "none",
    input_size: int = 224,
    freeze_bn: bool = False,
    freeze: str | None = None,
    drop_path: float | None = None,
) -> Backbone:
    """Build a backbone with its weights on torch's default device.

    Args:
        name: one of :func:`list_backbones`, or ``timm:<name>``.
        layout: which strides and pools, or for timm networks ``"whole"``: with their own head, whose ``"logits"``
            stand beside one stage; see :func:`list_layouts`. The first one if None.
        weights: ``"none"`` (Kaiming-normal convolutions); a ``.pth``, ``.pt`` or ``.safetensors`` file; a torchvision
            weight enum, ``"VGG16_Weights.IMAGENET1K_V1"``; ``"pretrained"`` for the weights of timm's networks.
        input_size: side of the square input in pixels, for timm networks that are built for one size.
        freeze_bn: batch norms stay in eval mode under ``.train()``. Weights whose batch norms are folded into the
            convolutions need this: their running statistics are not those of the activations.
        freeze: name of the stage up to which nothing trains; it then costs no backward pass.
        drop_path: stochastic depth: probability at which the branch of the last residual block is left out of an image
            in training; it rises linearly from 0 at the first block. None leaves it as its package builds it.

    Raises:
        BackboneError: if there is no such backbone, layout or form of weights, or nothing in it that ``drop_path``
            could drop.
        WeightsError: if the weights are absent, unreadable, or do not cover the backbone.
        ImportError: if the package that the backbone comes from is not installed.
    """
    layouts = list_layouts(name)
    layout = layout or layouts[0]
    if layout not in layouts:
        raise BackboneError(f"backbone {name!r} has no layout {layout!r}; there are {', '.join(layouts)}")
    if name.startswith(_TIMM):
        from wsolfast.backbones._timm import build_timm, build_whole

        build_net = build_whole if layout == "whole" else build_timm
        net = build_net(name.removeprefix(_TIMM), input_size=input_size, freeze_bn=freeze_bn, drop_path=drop_path)
        return _ready(net, weights, freeze)
    module = _module(name)
    if hasattr(module, "transformer"):
        return _ready(module.transformer(layout, input_size, drop_path), weights, freeze)
    backbone = realize(lambda: module.assemble(layout), freeze_bn=freeze_bn)
    if drop_path is not None:
        set_drop_path(backbone, drop_path)
    return _ready(backbone, weights, freeze)


def _ready(backbone: Backbone, weights: str, freeze: str | None) -> Backbone:
    backbone = load_weights(backbone, weights)
    if freeze is not None:
        backbone.freeze(freeze)
    return backbone


def _module(name: str) -> ModuleType:
    known = list_backbones()
    if name not in known:
        hint = nearest(name, known, f"there are {', '.join(known)} and timm:<name>")
        raise BackboneError(f"no backbone named {name!r}; {hint}")
    return importlib.import_module(f"{__name__}.{name}")
