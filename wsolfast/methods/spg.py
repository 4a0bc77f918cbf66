"""SPG: Zhang et al., "Self-produced Guidance for Weakly-supervised Object Localization", ECCV 2018.

The confident parts of the class map A teach a second branch where objects are, which teaches a third one; what all of
them learn of objects, the shared features learn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast.backbones import Backbone
from wsolfast.methods._across_ranks import of_every_process
from wsolfast.methods._base import accuracy, bias_of
from wsolfast.methods._cam_head import HeadKind
from wsolfast.methods._class_activation import ClassActivation
from wsolfast.types import Batch, Features, TrainState


class SPG(ClassActivation):
    r"""CAM whose features also learn foreground from seeds that the network produces itself.

    A map gives seeds: object above its high threshold, background below its low one, nothing in between. The label's
    map A teaches :math:`B_2`, on the last stage; :math:`B_2` teaches :math:`B_1`, on an earlier one; the mean of both
    teaches :math:`C`, on the features under A. All at the size of the image; seeds pass no gradient on. In evaluation
    SPG is CAM.

    Args:
        backbone, num_classes, head, hidden_channels, dropout, cam_relu: as
            :class:`~wsolfast.methods._class_activation.ClassActivation`.
        early: stage under :math:`B_1`; the last but one if None.
        guide_channels: width of the branches.
        thresholds_a: high and low, of A in [0, 1].
        thresholds_b: high and low, of the probability that :math:`B_2` gives.
        thresholds_c: high and low, of the mean probability of :math:`B_1` and :math:`B_2`.
        min_seeds: with fewer object pixels than this the high threshold is 0.7 of the map's maximum, as released.

    Raises:
        ValueError: if thresholds are not 0 <= low < high <= 1, or there is no such stage.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: HeadKind = "conv3",
        hidden_channels: int = 1024,
        dropout: float = 0.0,
        cam_relu: bool = False,
        early: str | None = None,
        guide_channels: int = 512,
        thresholds_a: tuple[float, float] = (0.7, 0.01),
        thresholds_b: tuple[float, float] = (0.5, 0.05),
        thresholds_c: tuple[float, float] = (0.7, 0.1),
        min_seeds: int = 30,
    ):
        super().__init__(
            backbone, num_classes, head=head, hidden_channels=hidden_channels, dropout=dropout, cam_relu=cam_relu
        )
        self.thresholds = {"thresholds_a": thresholds_a, "thresholds_b": thresholds_b, "thresholds_c": thresholds_c}
        for name, (high, low) in self.thresholds.items():
            if not 0 <= low < high <= 1:
                raise ValueError(f"spg: {name}: expected high and low with 0 <= low < high <= 1, got {[high, low]}")
        channels = {stage.name: stage.channels for stage in backbone.stages}
        self.late, self.early = backbone.stages[-1].name, early or backbone.stages[-2].name
        if self.early not in channels:
            raise ValueError(f"spg: early: this backbone has the stages {', '.join(channels)}, not {early!r}")
        self.min_seeds = min_seeds
        self.guide_early = _widen(channels[self.early], guide_channels)
        self.guide_late = _widen(channels[self.late], guide_channels)
        self.guide_shared = _foreground(guide_channels, guide_channels)
        self.guide_head = _foreground(self.head.classifier.in_channels, guide_channels)

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        features = self.features(batch.image, (self.early,))
        hidden = self.head.hidden(features[self.late])
        logits = self.head.pooled_logits(hidden)
        loss = loss_cls = functional.cross_entropy(logits, batch.label)
        losses = {"loss_cls": loss_cls, "accuracy": accuracy(logits, batch.label)}
        size = batch.image.shape[-2:]
        b1, b2, c = (_resize(branch, size) for branch in self._branches(features, hidden))
        with torch.no_grad():
            attention = unit_range(_resize(self.head.maps_of(hidden, batch.label[:, None]), size))
            lessons = {
                "loss_b2": (attention, "thresholds_a"),
                "loss_b1": (b2.sigmoid(), "thresholds_b"),
                "loss_c": ((b1.sigmoid() + b2.sigmoid()) / 2, "thresholds_c"),
            }
        for (name, (teacher, thresholds)), pupil in zip(lessons.items(), (b2, b1, c), strict=True):
            losses[name] = guided_loss(pupil, *seeds(teacher, *self.thresholds[thresholds], self.min_seeds))
            loss = loss + losses[name]
        return {"loss": loss} | losses

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        features = self.features(image, (self.early,))
        branches = self._branches(features, self.head.hidden(features[self.late]))
        return {name: branch[:, 0].sigmoid() for name, branch in zip(("B1", "B2", "C"), branches, strict=True)}

    def _branches(self, features: Features, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits [N, 1, h, w] of an object that B1, B2 and C give."""
        b1 = self.guide_shared(self.guide_early(features[self.early]))
        b2 = self.guide_shared(self.guide_late(features[self.late]))
        return b1, b2, self.guide_head(hidden)


def unit_range(maps: Tensor) -> Tensor:
    """Scale maps [N, 1, H, W] to [0, 1], each by its own range; a constant one becomes zero."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def seeds(maps: Tensor, high: float, low: float, min_seeds: int) -> tuple[Tensor, Tensor]:
    """Return the object pixels and the known pixels of maps in [0, 1], both bool and of the same shape [N, 1, H, W].

    Background wins where both apply, which the threshold for few seeds makes possible.
    """
    surely = maps > high
    few = surely.sum((1, 2, 3), keepdim=True) < min_seeds
    surely = torch.where(few, maps > 0.7 * maps.amax((1, 2, 3), keepdim=True), surely)
    background = maps < low
    return surely & ~background, surely | background


def guided_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over the ``known`` pixels of the batch; zero without any."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = functional.binary_cross_entropy_with_logits(logits, target.to(logits), reduction="none")
    of_image = (each * known).sum((1, 2, 3)), known.sum((1, 2, 3))
    total, count = (of_every_process(values).sum() for values in of_image)
    return total / count.clamp(min=1)


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def _widen(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(_initialized(nn.Conv2d(channels, width, 3, padding=1)), nn.ReLU(inplace=True))


def _foreground(channels: int, width: int) -> nn.Module:
    return nn.Sequential(*_widen(channels, width), _initialized(nn.Conv2d(width, 1, 1)))


def _initialized(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(bias_of(conv))
    return conv


NAME = "SPG"
STAGES = {"localizer": SPG}
