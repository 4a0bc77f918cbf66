"""Backbones from timm, with their own mean and deviation of the input.

Vision transformers are :class:`TransformerBackbone`, any other network with ``features_only`` is :class:`TimmBackbone`.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wsolfast._compat import import_timm
from wsolfast._nearest import nearest
from wsolfast.backbones._base import Architecture, Backbone, BackboneError, StageInfo
from wsolfast.backbones._timm_network import TimmNetwork, origin_of
from wsolfast.backbones._timm_whole import WholeTimm
from wsolfast.backbones._transformer import TransformerBackbone, attends_once

# Modules of timm whose networks keep one grid of patches through all blocks.
_TRANSFORMERS = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva", "beit")
# Those whose last features, by mean and one linear layer, are the logits. Elsewhere a norm or a layer stands between.
_LINEAR_HEADS = ("resnet", "regnet")


class TimmBackbone(TimmNetwork):
    """Backbone around a timm feature extractor: stages ``conv<log2 stride>``, or ``block<i>`` if strides repeat."""

    def __init__(self, name: str, net: nn.Module, *, freeze_bn: bool):
        super(Backbone, self).__init__()
        # nn.Module would type them as modules.
        info: Any = net.feature_info
        config: Any = net.pretrained_cfg
        strides = info.reduction()
        pyramid = all(shallow < deep for shallow, deep in itertools.pairwise(strides))
        stages = tuple(
            StageInfo(f"conv{round(math.log2(stride))}" if pyramid else f"block{index}", channels, stride)
            for index, (channels, stride) in enumerate(zip(info.channels(), strides, strict=True))
        )
        self.net = net
        self._channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
        # Its head classifies the mean of the last stage, and nothing stands between.
        head = import_timm().get_pretrained_cfg(name).classifier if is_model_in(name, _LINEAR_HEADS) else None
        given = {"mean": config["mean"], "std": config["std"], "origin": origin_of(config), "head": head}
        self._describe(Architecture(net, {}, **given), stages, freeze_bn)
        self.published_names = {path: _published_name(path) for path, _ in self.named_modules()}

    def extract(self, normalized: Tensor) -> dict[str, Tensor]:
        maps = self.net(normalized)
        if self._channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return {stage.name: x for stage, x in zip(self.stages, maps, strict=True)}

    def features_with_graph(self, image: Tensor, stage: str) -> dict[str, Tensor]:
        """Return the features of every stage with a graph; it begins at the image unless ``stage`` is the last.

        A timm network runs as a whole.

        Raises:
            BackboneError: if later layers read the stage in another layout, so that it has no gradient.
        """
        if stage == self.stages[-1].name:
            with torch.no_grad():
                found = self.extract(self.normalize(image))
            found[stage].requires_grad_()
            return found
        if self._channels_last:
            raise BackboneError(
                f"backbone: this timm network has no gradients at {stage!r}; choose {self.stages[-1].name!r}"
            )
        return self.extract(self.normalize(image).requires_grad_())


def build_timm(name: str, *, input_size: int, freeze_bn: bool = False, drop_path: float | None = None) -> Backbone:
    """Build the backbone of a timm network by its name, with random weights.

    Args:
        name: as timm knows it, ``<architecture>`` or ``<architecture>.<weights>``.
        input_size: side of the square input in pixels, for networks that are built for one.
        freeze_bn: batch norms stay in eval mode under ``.train()``.
        drop_path: as for :func:`wsolfast.backbones.build`.

    Raises:
        BackboneError: if timm has no such network, or nothing in it that ``drop_path`` could drop.
    """
    _known(name)
    if is_model_in(name, _TRANSFORMERS):
        return _transformer(name, input_size, drop_path)
    return TimmBackbone(name, _create(name, input_size, drop_path, features_only=True), freeze_bn=freeze_bn)


def build_whole(name: str, *, input_size: int, freeze_bn: bool = False, drop_path: float | None = None) -> WholeTimm:
    """Build the backbone of a whole timm network, with its own head and random weights.

    It runs once or twice, to see which features its head reads.

    Args:
        name, input_size, freeze_bn, drop_path: as for :func:`build_timm`.

    Raises:
        BackboneError: if timm has no such network, it has no classifier or nothing that ``drop_path`` could drop, or
            none of its features lie on a grid.
    """
    _known(name)
    device = torch.get_default_device()
    with torch.device("cpu"):
        net = _create(name, input_size, drop_path=drop_path)
        return WholeTimm(net, side=input_size, freeze_bn=freeze_bn).to(device)


def is_model_in(name: str, modules: Sequence[str]) -> bool:
    """Return True if one of these modules of timm defines the network."""
    return import_timm().models.is_model_in_modules(name, modules)


def pretrained_head(name: str) -> tuple[Any, str]:
    """Return timm's configuration of the weights of ``name``, and what gives a map of a class.

    That is the ``"class token"`` or the ``"mean"`` of the last features where a linear classifier reads it and nothing
    else, and the network's ``"own head"`` anywhere else.

    Raises:
        BackboneError: if timm has no such network.
    """
    timm = _known(name)
    with torch.device("meta"):
        net = timm.create_model(name, pretrained=False)
        if not is_model_in(name, _TRANSFORMERS):
            reads = "mean" if is_model_in(name, _LINEAR_HEADS) else "own head"
        elif not _head_of(net):
            reads = "own head"
        elif net.global_pool == "avg":
            reads = "mean"
        else:
            reads = "class token" if attends_once(net) else "own head"
    return net.pretrained_cfg, reads


def _known(name: str) -> Any:
    timm = import_timm()
    if not timm.is_model(name.partition(".")[0]):
        hint = nearest(name, timm.list_models(), "timm.list_models() names them all")
        raise BackboneError(f"timm has no model {name!r}; {hint}")
    return timm


def _transformer(name: str, input_size: int, drop_path: float | None) -> TransformerBackbone:
    timm = import_timm()
    options = {"num_classes": 0, "img_size": input_size, "drop_path_rate": drop_path}
    try:
        net = timm.create_model(name, pretrained=False, dynamic_img_size=True, **options)
    except TypeError:
        # Position biases of some are made for one size.
        net = timm.create_model(name, pretrained=False, **options)
    return TransformerBackbone(net, head=_head_of(net))


def _head_of(net: Any) -> str | None:
    """Return the name of the layer that classifies the class token or the mean of the patches after the norm."""
    name = net.pretrained_cfg.get("classifier")
    of_patches = net.global_pool == "avg" and not getattr(net, "pool_include_prefix", False)
    linear = isinstance(net.fc_norm, nn.Identity) and (net.global_pool == "token" or of_patches)
    return name if isinstance(name, str) and linear else None


def _create(name: str, input_size: int, drop_path: float | None, **options: Any) -> Any:
    timm = import_timm()
    # timm leaves out what is None.
    options |= {"drop_path_rate": drop_path}
    try:
        return timm.create_model(name, pretrained=False, img_size=input_size, **options)
    except TypeError:
        # Convolutional networks are not built for one size and take no such argument.
        pass
    try:
        return timm.create_model(name, pretrained=False, **options)
    except TypeError:
        if drop_path is None:
            raise
        raise BackboneError(f"backbone: timm's {name} has no drop path; leave drop_path out") from None


def _published_name(path: str) -> str:
    # timm flattens sequences in front of a feature extractor: "stages_0" here is "stages.0" in its checkpoints.
    path = re.sub(r"^net\.?", "", path)
    path = re.sub(r"^model\.?", "", path)
    return re.sub(r"^([A-Za-z]\w*)_(\d+)(?=\.|$)", r"\1.\2", path)
