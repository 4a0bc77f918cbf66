"""A network that classifies by its own head, and by which a refinement localises."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from wsolfast.backbones import LOGITS, Backbone, BackboneError
from wsolfast.methods._base import Method, MethodError, accuracy
from wsolfast.types import Batch, Features, Localization, TrainState


class WholeNetwork(Method):
    """A network that classifies by its own head, whatever that is.

    It has no maps by itself: ``evaluate.post`` names a refinement that takes gradients, such as ``"hires_cam"``.

    Args:
        backbone: gives logits besides its stage, as ``timm:<name>`` in layout ``"whole"`` does.
        num_classes: K.

    Raises:
        BackboneError: if the backbone has no head of its own.
        ValueError: if its head tells other classes apart.
    """

    gives_maps = False

    def __init__(self, backbone: Backbone, num_classes: int):
        super().__init__()
        if backbone.own_classes is None:
            raise BackboneError(
                "backbone: its own head is wanted and this network has none; choose timm:<name> with layout 'whole'"
            )
        if backbone.own_classes != num_classes:
            raise ValueError(f"the network's own head has {backbone.own_classes} classes, not {num_classes}")
        self.backbone = backbone

    @property
    def feature_stages(self) -> tuple[str, ...]:
        return (LOGITS, self.last_stage)

    @property
    def map_note(self) -> str:
        if self.backbone.head_is_linear():
            return "before its ReLU it adds up to the class score, as CAM does"
        return "a linear approximation, the head is not linear"

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        logits = self.classify(batch.image)
        return {"loss": functional.cross_entropy(logits, batch.label), "accuracy": accuracy(logits, batch.label)}

    def classify_features(self, features: Features) -> Tensor:
        return features[LOGITS]

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Do not localise: the maps are those of a refinement.

        Args:
            features, size, label, topk, ranking: as for :meth:`Method.localize_features`.

        Raises:
            MethodError: always.
        """
        raise MethodError(
            "WholeNetwork: a network's own head gives no map; set evaluate.post, to hires_cam for instance"
        )
