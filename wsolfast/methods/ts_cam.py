"""TS-CAM: Gao et al., "TS-CAM: Token Semantic Coupled Attention Map for Weakly Supervised Object ...", ICCV 2021."""

from torch import Tensor
from torch.nn import functional

from wsolfast.methods._base import accuracy
from wsolfast.methods._coupled_maps import CoupledMaps
from wsolfast.types import Batch, TrainState


class TSCAM(CoupledMaps):
    """Cross-entropy on the means of the patch tokens' class maps; attention couples with them in evaluation alone.

    Attention is summed over the layers and not scaled before the product. A map's negative values stay: where attention
    is large they pull the product down.

    Args:
        backbone, num_classes, layers: as :class:`~wsolfast.methods._coupled_maps.CoupledMaps`.

    Raises:
        BackboneError: if the backbone has no class token's attention.
    """

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        logits = self.classify(batch.image)
        return {"loss": functional.cross_entropy(logits, batch.label), "accuracy": accuracy(logits, batch.label)}


NAME = "TS-CAM"
STAGES = {"localizer": TSCAM}
