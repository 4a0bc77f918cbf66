"""Knowledge of timm about the parameters of its networks: their layers, and those that weight decay leaves alone."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wsolfast._compat import import_timm
from wsolfast.backbones._base import Backbone, BackboneError


def origin_of(config: Mapping[str, Any]) -> str | None:
    """Return where timm's weights of a network are, by its ``pretrained_cfg``: on the hub, or at an address."""
    return config.get("hf_hub_id") or config.get("url") or None


class TimmNetwork(Backbone):
    """Backbone around ``net``, a network of timm or what extracts features from one."""

    net: nn.Module

    def extract_from(self, stage: str, features: Tensor, *, constant: bool = False) -> dict[str, Tensor]:
        raise BackboneError(f"backbone: timm networks run as a whole, not from {stage!r} on; choose another backbone")

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

    def _normed_convolutions(self) -> Iterator[tuple[str, nn.Conv2d, str, nn.BatchNorm2d]]:
        """Yield nothing: the layer after a convolution is not known for every timm network."""
        return iter(())

    def parameter_layers(self) -> dict[str, int]:
        """Return the layer of every parameter, counted from the image, as timm groups this network.

        Transformers and most convolutional networks count their blocks; the stem is layer 0.

        Raises:
            BackboneError: if timm does not group it.
        """
        from timm.models import group_parameters

        whole = self._whole()
        if not hasattr(whole, "group_matcher"):
            raise BackboneError(
                f"backbone: timm does not group the layers of a {type(whole).__name__}; leave layer_decay out"
            )
        groups = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
        return {own: groups[published] for own, published in self._published_parameters().items()}

    def no_weight_decay(self) -> frozenset[str]:
        whole = self._whole()
        named: Collection[str] = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
        return frozenset(own for own, published in self._published_parameters().items() if published in named)

    def _published_parameters(self) -> dict[str, str]:
        """Return the name of every parameter here and in the whole network; inserted modules are not of it."""
        names = {}
        for name, _ in self.named_parameters():
            path, _, leaf = name.rpartition(".")
            if name.startswith("net."):
                names[name] = f"{self.published_names.get(path, path[len('net.') :])}.{leaf}".lstrip(".")
        return names

    def _whole(self) -> Any:
        """Return the whole network, without memory where ``net`` extracts features: it has lost what timm knows."""
        if hasattr(self.net, "group_matcher"):
            return self.net
        config: Any = self.net.pretrained_cfg
        with torch.device("meta"):
            return import_timm().create_model(config["architecture"], pretrained=False)
