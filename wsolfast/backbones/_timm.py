"""Backbones from timm: any network with ``features_only``, with its own mean and deviation of the input."""

import itertools
import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from wsolfast._compat import import_timm
from wsolfast._nearest import nearest
from wsolfast.backbones._base import Architecture, Backbone, BackboneError, StageInfo
from wsolfast.backbones._timm_network import TimmNetwork


class TimmBackbone(TimmNetwork):
    """Backbone around a timm feature extractor: stages ``conv<log2 stride>``, or ``block<i>`` if strides repeat."""

    def __init__(self, name: str, *, input_size: int, freeze_bn: bool, drop_path: float | None = None):
        super(Backbone, self).__init__()
        net = _create(name, input_size, drop_path)
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
        architecture = Architecture(net, {}, mean=config["mean"], std=config["std"], hub_id=config.get("hf_hub_id"))
        self._describe(architecture, stages, freeze_bn)
        self.published_names = {path: _published_name(path) for path, _ in self.named_modules()}

    def extract(self, normalized: Tensor) -> dict[str, Tensor]:
        maps = self.net(normalized)
        if self._channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return {stage.name: x for stage, x in zip(self.stages, maps, strict=True)}

    def extract_from(self, stage: str, features: Tensor, *, constant: bool = False) -> dict[str, Tensor]:
        raise BackboneError(f"backbone: timm networks run as a whole, not from {stage!r} on; choose another backbone")

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

    def insert(self, stage: str, name: str, module: nn.Module) -> None:
        raise BackboneError(
            f"backbone: timm networks run as a whole, {name!r} cannot be inserted after {stage!r}; insert nothing or "
            f"choose another backbone"
        )

    def freeze(self, stage: str) -> None:
        raise BackboneError(
            f"backbone: timm networks run as a whole, they cannot be frozen up to {stage!r}; leave freeze out or "
            f"choose another backbone"
        )

    def fold_batch_norms(self) -> None:
        """Do nothing: the layer after a convolution is not known for every timm network."""


def _create(name: str, input_size: int, drop_path: float | None) -> nn.Module:
    timm = import_timm()
    if not timm.is_model(name.partition(".")[0]):
        hint = nearest(name, timm.list_models(), "timm.list_models() names them all")
        raise BackboneError(f"timm has no model {name!r}; {hint}")
    # timm leaves out what is None.
    options: dict[str, Any] = {"features_only": True, "drop_path_rate": drop_path}
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
