"""SPA: Pan et al., "Unveiling the Potential of Structure Preserving for WSOL", CVPR 2021.

Training adds the restricted activation loss (RAM); inference refines the coarse CAM with first- and second-order
self-correlations of two feature stages (SCG).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method, accuracy
from wsolfast.methods._cam_head import CamHead, HeadKind
from wsolfast.refinements import LinearHead
from wsolfast.refinements.scg import SelfCorrelation
from wsolfast.types import Batch, Features, Localization, TrainState

# Added to the range in the released code's min-max of the coarse CAM.
CAM_EPS = 1e-10


class SPA(Method):
    """Structure-preserving activation.

    Args:
        backbone: its last stage feeds the head.
        num_classes: K.
        head: ``"conv3"`` (the paper's), ``"linear"`` or ``"pretrained"``, see :class:`CamHead`.
        hidden_channels: width of the ``"conv3"`` head.
        ram: train with the restricted activation loss (Eqs 2-5).
        ram_alpha: weight of that loss.
        ram_tau: background below this statistic.
        ram_sigma: foreground above ``ram_tau + ram_sigma``; in between no loss.
        ram_start: first epoch (0-based) with the loss.
        ram_stat: ``"var"`` (released) or ``"std"`` (the paper's word) of the class probabilities.
        ram_norm: ``"minmax"`` (released) or ``"none"`` (the paper) before the cut.
        refine: refine the CAM by self-correlation (SCG, Eqs 6-14); otherwise the map is the CAM.
        scg: options of that refinement, the same as in ``[evaluate.scg]``; see :class:`SelfCorrelation`.
        cam_relu: cut negative activations before min-max.

    Raises:
        ValueError: if an option is unknown, or does not fit the backbone.
    """

    has_linear_head = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: HeadKind = "conv3",
        hidden_channels: int = 1024,
        ram: bool = True,
        ram_alpha: float = 0.5,
        ram_tau: float = 0.1,
        ram_sigma: float = 0.2,
        ram_start: int = 0,
        ram_stat: Literal["var", "std"] = "var",
        ram_norm: Literal["minmax", "none"] = "minmax",
        refine: bool = True,
        scg: Mapping[str, Any] | None = None,
        cam_relu: bool = True,
    ):
        super().__init__()
        self.backbone = backbone
        self.head = CamHead(backbone, num_classes, head, hidden_channels)
        self.ram, self.ram_alpha, self.ram_start = ram, ram_alpha, ram_start
        self.ram_options: dict[str, Any] = {
            "tau": ram_tau,
            "sigma": ram_sigma,
            "statistic": ram_stat,
            "normalization": ram_norm,
        }
        refinement = SelfCorrelation(backbone.stages, **scg or {})
        self.refine = refinement if refine else None
        self.cam_relu = cam_relu

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        class_maps = self.head.class_maps(self.features(batch.image)[self.last_stage])
        logits = self.head.pool(class_maps)
        loss = loss_cls = functional.cross_entropy(logits, batch.label)
        losses = {"loss_cls": loss_cls, "accuracy": accuracy(logits, batch.label)}
        if self.ram and state.epoch >= self.ram_start:
            losses["loss_ram"] = ops.restricted_activation_loss(class_maps, batch.label, **self.ram_options)
            loss = loss_cls + self.ram_alpha * losses["loss_ram"]
        return {"loss": loss} | losses

    @property
    def feature_stages(self) -> tuple[str, ...]:
        return (self.last_stage,) if self.refine is None else (self.last_stage, *self.refine.layers)

    def classify_features(self, features: Features) -> Tensor:
        return self.head.logits(features[self.last_stage])

    def linear_head(self, features: Features) -> LinearHead:
        return self.head.linear(self.head.hidden(features[self.last_stage]))

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        logits, classes, cam = self._coarse(features, label, topk)
        if self.refine is not None:
            cam = self.refine.correlate(features, cam, size)
        return Localization(logits, classes, cam)

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        return {"coarse map": self._coarse(self.features(image), label, 0)[2][:, 0]}

    def _coarse(self, features: Features, label: Tensor | None, topk: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, classes and their maps before SCG."""
        logits, classes, cam = self.head.localize(features[self.last_stage], label, topk)
        return logits, classes, ops.min_max_normalize(cam.relu() if self.cam_relu else cam, CAM_EPS)


NAME = "SPA"
STAGES = {"localizer": SPA}
