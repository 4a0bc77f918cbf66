"""CAM, the baseline: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016."""

from torch import Tensor
from torch.nn import functional

from wsolfast.methods._base import accuracy
from wsolfast.methods._class_activation import ClassActivation
from wsolfast.types import Batch, TrainState


class CAM(ClassActivation):
    """Class activation mapping: cross-entropy on pooled class maps.

    The options are those of :class:`~wsolfast.methods._class_activation.ClassActivation`.
    """

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        logits = self.classify(batch.image)
        return {"loss": functional.cross_entropy(logits, batch.label), "accuracy": accuracy(logits, batch.label)}


NAME = "CAM"
STAGES = {"localizer": CAM}
