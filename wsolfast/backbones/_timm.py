"""Backbones from timm: any network with ``features_only``, with its own mean and deviation of the input."""

import itertools
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsolfast._compat import import_timm
from wsolfast._nearest import nearest
from wsolfast.backbones._base import Architecture, Backbone, BackboneError, StageInfo
from wsolfast.backbones._weights import WeightsError, require_online


class TimmBackbone(Backbone):
    """Backbone around a timm feature extractor: stages ``conv<log2 stride>``, or ``block<i>`` if strides repeat."""

    def __init__(self, name: str, *, input_size: int, freeze_bn: bool):
        super(Backbone, self).__init__()
        net = _create(name, input_size)
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
        self._timm_name = name
        self._channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
        self._hub_id = config.get("hf_hub_id")
        self._describe(Architecture(net, {}, mean=config["mean"], std=config["std"]), stages, freeze_bn)
        self.published_names = {path: _published_name(path) for path, _ in self.named_modules()}

    def extract(self, normalized: Tensor) -> dict[str, Tensor]:
        maps = self.net(normalized)
        if self._channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return {stage.name: x for stage, x in zip(self.stages, maps, strict=True)}

    def extract_from(self, stage: str, features: Tensor) -> dict[str, Tensor]:
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

    def parameter_layers(self) -> dict[str, int]:
        """Return the layer of every parameter, counted from the image, as timm groups this network.

        Transformers and most convolutional networks count their blocks; the stem is layer 0.

        Raises:
            BackboneError: if timm does not group it.
        """
        from timm.models import group_parameters

        whole = self._whole()
        if not hasattr(whole, "group_matcher"):
            raise BackboneError(f"backbone: timm does not group the layers of {self._timm_name}; leave layer_decay out")
        groups = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
        return {own: groups[published] for own, published in self._published_parameters().items()}

    def no_weight_decay(self) -> frozenset[str]:
        whole = self._whole()
        named: Collection[str] = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
        return frozenset(own for own, published in self._published_parameters().items() if published in named)

    def _published_parameters(self) -> dict[str, str]:
        """Return the name of every parameter here and in the whole network."""
        split = {name: name.rpartition(".") for name, _ in self.named_parameters()}
        return {name: f"{self.published_names[path]}.{leaf}".lstrip(".") for name, (path, _, leaf) in split.items()}

    def _whole(self) -> Any:
        """Build the whole network without memory: what extracts features has lost what timm knows of its parameters."""
        with torch.device("meta"):
            return import_timm().create_model(self._timm_name, pretrained=False)

    def pretrained_file(self) -> Path:
        """Return the file of timm's own weights, from the Hugging Face cache or, the first time, from its server."""
        if self._hub_id is None:
            raise WeightsError("this timm network has no pretrained weights; give a file")
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        cached = try_to_load_from_cache(self._hub_id, "model.safetensors")
        if isinstance(cached, str):
            return Path(cached)
        require_online(
            f"https://huggingface.co/{self._hub_id}/resolve/main/model.safetensors", f"{self._hub_id} is not cached"
        )
        try:
            return Path(hf_hub_download(self._hub_id, "model.safetensors"))
        except (OSError, RuntimeError, ValueError) as error:
            raise WeightsError(f"{self._hub_id} could not be downloaded: {error}") from error


def _create(name: str, input_size: int) -> nn.Module:
    timm = import_timm()
    if not timm.is_model(name.partition(".")[0]):
        hint = nearest(name, timm.list_models(), "timm.list_models() names them all")
        raise BackboneError(f"timm has no model {name!r}; {hint}")
    try:
        return timm.create_model(name, pretrained=False, features_only=True, img_size=input_size)
    except TypeError:
        # Convolutional networks are not built for one size and take no such argument.
        return timm.create_model(name, pretrained=False, features_only=True)


def _published_name(path: str) -> str:
    # timm flattens sequences in front of a feature extractor: "stages_0" here is "stages.0" in its checkpoints.
    path = re.sub(r"^net\.?", "", path)
    path = re.sub(r"^model\.?", "", path)
    return re.sub(r"^([A-Za-z]\w*)_(\d+)(?=\.|$)", r"\1.\2", path)
