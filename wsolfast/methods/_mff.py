"""MFF-Net, the trunk of SPOL's two networks: channel attention across stages, then their product."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import bias_of
from wsolfast.refinements import LinearHead
from wsolfast.types import Features

FuseOp = Literal["multiply", "add", "concat"]


class Fused(NamedTuple):
    """The output of MFF-Net for one batch."""

    fused: Tensor  # [N, channels, h, w], at the resolution of the shallowest stage that is used
    deep: Tensor  # [N, width, h', w'], the reduced deepest stage at its own resolution


class MFFNet(nn.Module):
    """Multi-stage feature fusion on the last stages of a backbone (Wei et al., CVPR 2021, Eqs 1-2, Fig 5).

    In evaluation the batch norms, ReLUs and gates cost no pass of their own: they are folded into the convolutions and
    the fusion, which changes results by rounding only.

    Args:
        backbone: its last stages are fused.
        width: channels of every reduced stage and of the attention's latent vector.
        fuse_stages: how many stages, 1 to 4; the shallowest gives the resolution.
        fuse_op: ``"multiply"``, or ``"add"`` or ``"concat"`` as in the paper's ablation.
        mca: multiplication-based channel attention.

    Attributes:
        stages: names of the stages that are fused, shallow to deep.
        channels: of the fused map.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        width: int = 128,
        fuse_stages: int = 3,
        fuse_op: FuseOp = "multiply",
        mca: bool = True,
    ):
        super().__init__()
        if not 1 <= fuse_stages <= min(4, len(backbone.stages)):
            raise ValueError(
                f"fuse_stages: expected 1 to {min(4, len(backbone.stages))}, as many as the backbone has, "
                f"got {fuse_stages}"
            )
        used = backbone.stages[-fuse_stages:]
        self.stages = tuple(stage.name for stage in used)
        self.fuse_op = fuse_op
        self.channels = width * fuse_stages if fuse_op == "concat" else width
        widths = [stage.channels for stage in used]
        self.attention = ChannelAttention(widths, width) if mca else None
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            for channels in widths
        )
        init_convolutions(self)

    def forward(self, features: Features) -> Fused:
        """Fuse the backbone's features.

        Args:
            features: of every stage, by name.
        """
        used = [features[name] for name in self.stages]
        gates = [None] * len(used) if self.attention is None else self.attention(used)
        folds = (
            self.fuse_op != "concat"
            and len(used) > 1
            and not any(cast(nn.Sequential, branch)[1].training for branch in self.reduce)
        )
        return self._folded(used, gates) if folds else self._stepwise(used, gates)

    def _stepwise(self, used: list[Tensor], gates: list[Tensor | None]) -> Fused:
        gated = [stage if gate is None else gate * stage for stage, gate in zip(used, gates, strict=True)]
        reduced = [reduce(stage) for reduce, stage in zip(self.reduce, gated, strict=True)]
        if len(reduced) == 1:
            fused = reduced[0]
        elif self.fuse_op == "concat":
            fused = torch.cat([resize_aligned(stage, reduced[0].shape[2:]) for stage in reduced], dim=1)
        else:
            fused = ops.multiplicative_fusion(reduced, mode=self.fuse_op)
        return Fused(fused, reduced[-1])

    def _folded(self, used: list[Tensor], gates: list[Tensor | None]) -> Fused:
        """Fuse in evaluation, where a batch norm is a factor and a summand of each channel."""
        convs, norms, _ = zip(*self.reduce, strict=True)
        reduced = [project(stage, conv.weight, gate) for stage, conv, gate in zip(used, convs, gates, strict=True)]
        scale = torch.stack([norm.weight * (norm.running_var + norm.eps).rsqrt() for norm in norms])
        bias = torch.stack([conv.bias - norm.running_mean for conv, norm in zip(convs, norms, strict=True)])
        shift = torch.stack([norm.bias for norm in norms]) + scale * bias
        fused = ops.multiplicative_fusion(reduced, scale=scale, shift=shift, relu=True, mode=self.fuse_op)
        deep = reduced[-1] * scale[-1, :, None, None] + shift[-1, :, None, None]
        return Fused(fused, deep.relu().to(fused.dtype))


class ChannelAttention(nn.Module):
    """Channel attention (MCA): each stage's channels are weighed by the product of all stages' descriptors (Fig 5).

    Args:
        channels: of each stage.
        width: of the latent vector that the stages share.
    """

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        self.squeeze = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.norm = nn.ModuleList(DescriptorNorm(width) for _ in channels)
        self.excite = nn.ModuleList(nn.Conv2d(width, count, 1) for count in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return weights [N, C_k, 1, 1] in (0, 1) of the channels of each stage [N, C_k, h_k, w_k]."""
        latent = None
        for stage, squeeze, norm in zip(features, self.squeeze, self.norm, strict=True):
            descriptor = norm(squeeze(stage.mean((2, 3), keepdim=True))).relu()
            latent = descriptor if latent is None else latent * descriptor
        return [excite(latent).sigmoid() for excite in self.excite]


class DescriptorNorm(nn.BatchNorm2d):
    """Batch norm of descriptors [N, C, 1, 1]; a batch of one, which has no variance, is normalised as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class RectifiedHead(nn.Module):
    """One 1×1 convolution to class maps, a ReLU where ``relu`` is set, and their mean as logits.

    Args:
        channels: of the features.
        num_classes: K.
        relu: rectify the class maps, so that logits are not negative.
        dropout: share of the features that training sets to zero.
    """

    def __init__(self, channels: int, num_classes: int, *, relu: bool = True, dropout: float = 0.5):
        super().__init__()
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.relu, self.dropout = relu, dropout
        init_convolutions(self)

    def logits(self, features: Tensor) -> Tensor:
        """Return logits [N, K] of features [N, C, h, w]; the class maps are not kept."""
        features = functional.dropout(features, self.dropout, self.training)
        weight, bias = self.classifier.weight.flatten(1), self.classifier.bias
        return ops.class_head_pool(features.to(weight.dtype), weight, bias, relu=self.relu)

    def maps_of(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return class maps [N, M, h, w] of ``classes`` [N, M] alone, rectified."""
        weight = self.classifier.weight.flatten(1)[classes]  # [N, M, C]
        maps = torch.baddbmm(bias_of(self.classifier)[classes][:, :, None], weight, features.flatten(2))
        return maps.relu().unflatten(2, features.shape[2:])

    def linear(self, features: Tensor) -> LinearHead:
        """Return the classifier with the ``features`` that it reads."""
        return LinearHead(features, self.classifier.weight.flatten(1), bias_of(self.classifier), self.relu)


def project(features: Tensor, weight: Tensor, gate: Tensor | None) -> Tensor:
    """Apply a 1×1 convolution without bias to gated features [N, C, h, w], in their layout.

    Args:
        weight (Tensor[K, C, 1, 1]): of the convolution.
        gate (Tensor[N, C, 1, 1]): factor of each channel of each image; multiplies whichever has fewer numbers, the
            features or the weight.
    """
    if gate is None or features.shape[2] * features.shape[3] <= weight.shape[0]:
        return functional.conv2d(features if gate is None else gate * features, weight)
    weights = weight.flatten(1) * gate.flatten(2).mT  # [N, K, C]
    flat = features.flatten(2)
    # Rows of channels where they are contiguous, so that the product is too.
    product = (flat.mT @ weights.mT).mT if flat.stride(1) == 1 else weights @ flat
    return product.unflatten(2, features.shape[2:])


def resize_aligned(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize bilinearly with aligned corners, as the fusion does."""
    return functional.interpolate(features, tuple(size), mode="bilinear", align_corners=True)


def init_convolutions(module: nn.Module) -> None:
    """Initialise convolutions as the released code does: Kaiming-normal by fan-in for a ReLU, biases zero."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(bias_of(child))


def freeze_stem(backbone: Backbone) -> None:
    """Keep the first convolution and the first batch norm's affine as they are; its statistics still follow."""
    for kind in (nn.Conv2d, nn.BatchNorm2d):
        first = next((module for module in backbone.modules() if isinstance(module, kind)), None)
        if first is not None:
            first.requires_grad_(False)
