"""CAM's network, which regularisers train in other ways: one head, one map per class."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method
from wsolfast.methods._cam_head import CamHead, HeadKind
from wsolfast.refinements import LinearHead
from wsolfast.types import Features, Localization

Pool = Literal["gap", "tap"]


class ClassActivation(Method):
    """A method whose logits are pooled class maps; the map of a class is its localization map.

    Args:
        backbone: its last stage feeds the head.
        num_classes: K.
        head: ``"linear"``, ``"conv2"``, ``"conv3"`` or ``"pretrained"``, see :class:`CamHead`.
        hidden_channels: width of the ``"conv2"`` and ``"conv3"`` heads.
        dropout: share of values dropped before every convolution of the head.
        cam_relu: cut negative activations before min-max, as the SPA baseline does.
        pool: logits are the class maps' means (``"gap"``), or come from each feature's mean over the positions where it
            is activated (``"tap"``, see :func:`wsolfast.refinements.thresholded_mean`).
        tap_threshold: θ of ``"tap"``, a share of the feature's maximum.

    Raises:
        ValueError: if an option is none of its choices, or θ lies outside [0, 1).
    """

    has_linear_head = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: HeadKind = "linear",
        hidden_channels: int = 1024,
        dropout: float = 0.0,
        cam_relu: bool = False,
        pool: Pool = "gap",
        tap_threshold: float = 0.1,
    ):
        super().__init__()
        self.backbone = backbone
        threshold = tap_threshold if pool == "tap" else None
        self.head = CamHead(backbone, num_classes, head, hidden_channels, dropout=dropout, tap_threshold=threshold)
        self.cam_relu = cam_relu

    def classify_features(self, features: Features) -> Tensor:
        return self.head.logits(features[self.last_stage])

    def linear_head(self, features: Features) -> LinearHead:
        return self.head.linear(self.head.hidden(features[self.last_stage]))

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        logits, classes, cam = self.head.localize(features[self.last_stage], label, topk)
        return Localization(logits, classes, ops.min_max_normalize(cam.relu() if self.cam_relu else cam))
