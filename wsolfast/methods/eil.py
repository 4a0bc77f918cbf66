"""EIL: Mai et al., "Erasing Integrated Learning: A Simple Yet Effective Approach ...", CVPR 2020.

One network sees the features and, in the same step, the features without their strongest positions. Both must classify,
so that the network learns more of the object than what it finds first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast.backbones import Backbone
from wsolfast.methods._base import accuracy
from wsolfast.methods._cam_head import HeadKind
from wsolfast.methods._class_activation import ClassActivation
from wsolfast.types import Batch, TrainState


class EIL(ClassActivation):
    r"""CAM trained on whole and on erased features; nothing is erased in evaluation.

    .. math:: \mathcal{L} = CE(z, y) + \frac{\sigma}{|\text{positions}|} \sum_i CE(z_i, y)

    z are the logits of the whole features, :math:`z_i` those of the features erased at position i. All go through the
    layers above in one batch, whose batch norms therefore see whole and erased images together.

    Args:
        backbone, num_classes, head, hidden_channels, dropout, cam_relu: as
            :class:`~wsolfast.methods._class_activation.ClassActivation`.
        positions: stages after which features are erased; the one before the last if None, as released for VGG16.
            Several are MEIL, which was not released: positions and weights are experimental.
        erase_threshold: γ; positions whose mean over the channels is at least γ times its maximum are erased. The
            released code takes this share of each image's maximum.
        loss_weight: σ.

    Raises:
        ValueError: if γ lies outside [0, 1], σ is negative, or there is no position.
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
        erase_threshold: float = 0.7,
        loss_weight: float = 1.0,
    ):
        super().__init__(
            backbone, num_classes, head=head, hidden_channels=hidden_channels, dropout=dropout, cam_relu=cam_relu
        )
        if not 0 <= erase_threshold <= 1:
            raise ValueError(f"eil: erase_threshold: expected a value in [0, 1], got {erase_threshold}")
        if loss_weight < 0:
            raise ValueError(f"eil: loss_weight: expected at least 0, got {loss_weight}")
        chosen = [backbone.stages[-2:][0].name] if positions is None else list(positions)
        if not chosen:
            raise ValueError("eil: positions: expected at least one stage, got none")
        self.loss_weight, self.positions = loss_weight, chosen
        self.branches = [ErasedBranch(erase_threshold) for _ in chosen]
        for stage, branch in zip(chosen, self.branches, strict=True):
            backbone.insert(stage, f"eil_{stage}", branch)

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        for branch in self.branches:
            branch.images = len(batch.image)
        whole, *erased = self.classify(batch.image).split(len(batch.image))
        loss_cls = functional.cross_entropy(whole, batch.label)
        loss_erased = torch.stack([functional.cross_entropy(logits, batch.label) for logits in erased]).mean()
        return {
            "loss": loss_cls + self.loss_weight * loss_erased,
            "loss_cls": loss_cls,
            "loss_erased": loss_erased,
            "accuracy": accuracy(whole, batch.label),
        }


class ErasedBranch(nn.Module):
    r"""A layer that, in training, appends the erased features of the first ``images`` to the batch.

    Kept is where the mean over the channels :math:`A < \gamma \max A`; the mask passes no gradient on.
    """

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.images = 0

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return features
        whole = features[: self.images]
        attention = whole.detach().mean(1, keepdim=True)
        kept = attention < self.threshold * attention.amax((2, 3), keepdim=True)
        return torch.cat([features, whole * kept])


NAME = "EIL"
STAGES = {"localizer": EIL}
