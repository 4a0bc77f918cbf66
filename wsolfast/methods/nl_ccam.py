"""NL-CCAM: Yang et al., "Combinational Class Activation Maps for Weakly Supervised Object Localization", WACV 2020."""

from torch import Tensor
from torch.nn import functional

from wsolfast.methods._base import accuracy
from wsolfast.methods._combinational import CombinationalMethod
from wsolfast.types import Batch, TrainState


class NLCCAM(CombinationalMethod):
    """A backbone with non-local blocks; the map is a combination of all class maps by the rank of their classes.

    The options are those of :class:`~wsolfast.methods._combinational.CombinationalMethod`.
    """

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        logits = self.classify(batch.image)
        return {"loss": functional.cross_entropy(logits, batch.label), "accuracy": accuracy(logits, batch.label)}


NAME = "NL-CCAM"
STAGES = {"localizer": NLCCAM}
