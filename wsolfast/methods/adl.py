"""ADL: Choe and Shim, "Attention-based Dropout Layer for Weakly Supervised Object Localization", CVPR 2019.

The mean of a feature map over its channels shows where the network looks. At every step a layer either hides the places
it looks at most, or weights all places by how much it looks at them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast.backbones import Backbone
from wsolfast.methods._base import accuracy
from wsolfast.methods._cam_head import HeadKind
from wsolfast.methods._class_activation import ClassActivation, Pool
from wsolfast.types import Batch, TrainState


class ADL(ClassActivation):
    """CAM trained with attention-based dropout after some stages; the layers do nothing in evaluation.

    Args:
        backbone, num_classes, head, hidden_channels, dropout, cam_relu, pool, tap_threshold: as
            :class:`~wsolfast.methods._class_activation.ClassActivation`; with ``pool="tap"`` it is ADL-TAP.
        positions: stages that a layer follows; all but the first if None, as published for VGG16.
        drop_rate: probability that a step hides instead of weighting.
        drop_threshold: γ; attention of at least γ times its maximum is hidden.

    Raises:
        ValueError: if a rate or threshold lies outside [0, 1].
        BackboneError: if the backbone has no such stage, or takes no layers.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: HeadKind = "linear",
        hidden_channels: int = 1024,
        dropout: float = 0.0,
        cam_relu: bool = False,
        positions: Sequence[str] | None = None,
        drop_rate: float = 0.75,
        drop_threshold: float = 0.9,
        pool: Pool = "gap",
        tap_threshold: float = 0.1,
    ):
        super().__init__(
            backbone,
            num_classes,
            head=head,
            hidden_channels=hidden_channels,
            dropout=dropout,
            cam_relu=cam_relu,
            pool=pool,
            tap_threshold=tap_threshold,
        )
        for name, value in (("drop_rate", drop_rate), ("drop_threshold", drop_threshold)):
            if not 0 <= value <= 1:
                raise ValueError(f"adl: {name}: expected a value in [0, 1], got {value}")
        self.drop_rate = drop_rate
        self.layers: list[AttentionDropout] = []
        for stage in [info.name for info in backbone.stages[1:]] if positions is None else positions:
            self.layers.append(AttentionDropout(drop_threshold))
            backbone.insert(stage, f"adl_{stage}", self.layers[-1])

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        drawn = torch.rand(len(self.layers), generator=state.generator())
        for layer, hides in zip(self.layers, (drawn < self.drop_rate).tolist(), strict=True):
            layer.hides = hides
        logits = self.classify(batch.image)
        return {"loss": functional.cross_entropy(logits, batch.label), "accuracy": accuracy(logits, batch.label)}


class AttentionDropout(nn.Module):
    r"""A layer that multiplies features by a map of their attention :math:`A = \mathrm{mean}_c F_c`, in training only.

    The drop mask :math:`[A < \gamma \max A]` where ``hides`` is set, otherwise the importance map
    :math:`\sigma(A)`, which passes gradients on.
    """

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.hides = False

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return features
        attention = features.mean(1, keepdim=True)
        if not self.hides:
            return features * attention.sigmoid()
        peak = attention.amax((2, 3), keepdim=True)
        return features * (attention < self.threshold * peak)


NAME = "ADL"
STAGES = {"localizer": ADL}
