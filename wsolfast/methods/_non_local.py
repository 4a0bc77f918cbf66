"""Changes that NL-CCAM and CI-CAM make to a backbone: non-local blocks, leaky activations, a wider end."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import bias_of

Activation = Literal["relu", "lrelu02"]
AttentionKind = Literal["embedded_gaussian", "dot_product"]
_ACTIVATIONS: dict[Activation, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "lrelu02": lambda inplace: nn.LeakyReLU(0.2, inplace=inplace),
}


class NonLocalBlock(nn.Module):
    r"""A block of attention over positions: :math:`x + \mathrm{BN}(W_m \sum_j a_{ij} (W_v x_j + b_v) + b_m)`.

    Source: Non-local Neural Networks (Wang et al., CVPR 2018) as NL-CCAM released it: queries and keys of C/8 channels,
    values of C, unscaled scores, no sub-sampling. The batch norm starts at zero, so a new block is the identity and
    only its batch norm learns from the first step.

    Args:
        channels: C.
        kind: of the attention, see :func:`wsolfast.ops.non_local_attention`.
    """

    def __init__(self, channels: int, kind: AttentionKind = "embedded_gaussian"):
        super().__init__()
        self.kind = kind
        self.query = nn.Conv2d(channels, max(1, channels // 8), 1)
        self.key = nn.Conv2d(channels, max(1, channels // 8), 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        # Attention is linear in the values: mixing their weights instead of its output saves a C x C convolution.
        mix = self.mix.weight.flatten(1)
        values = (mix @ self.value.weight.flatten(1))[:, :, None, None]
        weight = torch.cat((self.query.weight, self.key.weight, values))
        of_query, of_key, of_value, of_mix = map(bias_of, (self.query, self.key, self.value, self.mix))
        bias = torch.cat((of_query, of_key, mix @ of_value))
        projected = functional.conv2d(x, weight, bias).split((len(of_query), len(of_key), x.shape[1]), 1)
        gathered = ops.non_local_attention(*projected, kind=self.kind) + of_mix[:, None, None]
        return x + self.norm(gathered)


def insert_non_local_blocks(backbone: Backbone, positions: Sequence[str] | None, kind: AttentionKind) -> None:
    """Insert a block after each stage named in ``positions``; after every stage if None.

    Raises:
        BackboneError: if the backbone has no such stage.
    """
    channels = {stage.name: stage.channels for stage in backbone.stages}
    for stage in channels if positions is None else positions:
        backbone.insert(stage, f"non_local_{stage}", NonLocalBlock(channels.get(stage, 1), kind))


def replace_activation(backbone: Backbone, activation: Activation) -> None:
    """Exchange the backbone's ReLU modules; ``"relu"`` leaves the network as it is.

    Raises:
        BackboneError: if the backbone has no ReLU modules.
    """
    if activation != "relu":
        backbone.replace_relu(lambda: _ACTIVATIONS[activation](inplace=True))


def widen(channels: int, hidden_channels: int, activation: Activation) -> nn.Module:
    """Return two 3×3 convolutions to ``hidden_channels``, as KG-CI-CAM's ILSVRC network ends; nothing for 0."""
    if not hidden_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(channels, hidden_channels, 3, padding=1),
        _ACTIVATIONS[activation](inplace=True),
        nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1),
        _ACTIVATIONS[activation](inplace=True),
    )
