"""ACoL: Zhang et al., "Adversarial Complementary Learning for Weakly Supervised Object Localization", CVPR 2018.

Two classifiers on one backbone: what the first one uses is erased from the features of the second one, which has to
find the object by something else.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method, accuracy
from wsolfast.methods._cam_head import CamHead, HeadKind
from wsolfast.refinements import LinearHead
from wsolfast.types import Batch, Features, Localization, TrainState


class ACoL(Method):
    """Two classifiers: A sees the features, B those without A's peaks; the map is the maximum of both maps.

    The map of a class erases by A's map of that same class, as training does for the label. Logits are A's, and so is
    the linear head that refinements read.

    Args:
        backbone: its last stage feeds both heads.
        num_classes: K.
        head: ``"conv3"`` (the paper's) or any other, see :class:`CamHead`.
        hidden_channels: width of the 3×3 convolutions of a head.
        dropout: share of values dropped before every convolution of a head.
        erase_threshold: δ; A's map in [0, 1] of at least δ is erased.

    Raises:
        ValueError: if the threshold lies outside [0, 1].
    """

    has_linear_head = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: HeadKind = "conv3",
        hidden_channels: int = 1024,
        dropout: float = 0.0,
        erase_threshold: float = 0.9,
    ):
        super().__init__()
        if not 0 <= erase_threshold <= 1:
            raise ValueError(f"acol: erase_threshold: expected a value in [0, 1], got {erase_threshold}")
        self.backbone = backbone
        self.head = CamHead(backbone, num_classes, head, hidden_channels, dropout=dropout)
        self.second_head = CamHead(backbone, num_classes, head, hidden_channels, dropout=dropout)
        self.erase_threshold = erase_threshold

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        features = self.features(batch.image)[self.last_stage]
        hidden = self.head.hidden(features)
        logits = self.head.pooled_logits(hidden)
        loss = functional.cross_entropy(logits, batch.label)
        with torch.no_grad():
            cam = self.head.maps_of(hidden, batch.label[:, None])
        erased = erase(features, ops.min_max_normalize(cam), self.erase_threshold)
        loss_second = functional.cross_entropy(self.second_head.logits(erased), batch.label)
        return {
            "loss": loss + loss_second,
            "loss_cls": loss,
            "loss_cls_second": loss_second,
            "accuracy": accuracy(logits, batch.label),
        }

    def classify_features(self, features: Features) -> Tensor:
        return self.head.logits(features[self.last_stage])

    def linear_head(self, features: Features) -> LinearHead:
        return self.head.linear(self.head.hidden(features[self.last_stage]))

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        logits, classes, first, second = self._branches(features[self.last_stage], label, topk)
        return Localization(logits, classes, torch.maximum(first, second))

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        _, _, first, second = self._branches(self.features(image)[self.last_stage], label, 0)
        return {"map A": first[:, 0], "map B": second[:, 0]}

    def _branches(self, features: Tensor, label: Tensor | None, topk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return A's logits, the classes, and the map in [0, 1] of each by either classifier."""
        logits, classes, cam = self.head.localize(features, label, topk)
        first = ops.min_max_normalize(cam)
        # Every class has its own erased features: one image more in the batch of the second head.
        hidden = self.second_head.hidden(
            torch.cat([erase(features, one[:, None], self.erase_threshold) for one in first.unbind(1)])
        )
        second = self.second_head.maps_of(hidden, classes.T.reshape(-1, 1))
        second = ops.min_max_normalize(second.unflatten(0, classes.T.shape)[:, :, 0].transpose(0, 1).contiguous())
        return logits, classes, first, second


def erase(features: Tensor, score_map: Tensor, threshold: float) -> Tensor:
    """Return ``features`` [N, C, h, w], zero where ``score_map`` [N, 1, h, w] is at least ``threshold``."""
    return features * (score_map < threshold)


NAME = "ACoL"
STAGES = {"localizer": ACoL}
