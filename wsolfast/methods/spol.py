"""SPOL: Wei et al., "Shallow Feature Matters for Weakly Supervised Object Localization", CVPR 2021.

Two networks of one shape. The first (``spol.cam``) learns to classify and leaves the class map of every training
image's true class; Gaussian priors turn these into pseudo labels, from which the second (``spol.seg``) learns to
separate any object from its background. Classes are told by a network of its own, see ``evaluate.classifier``.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method, accuracy, wanted_classes
from wsolfast.methods._mff import FuseOp, MFFNet, RectifiedHead, freeze_stem, init_convolutions, resize_aligned
from wsolfast.methods._spol_losses import distillation_loss, segmentation_loss
from wsolfast.refinements import LinearHead
from wsolfast.types import Batch, Features, Localization, TrainState

# Added to the maximum by which the released code divides class maps.
PEAK_EPS = 1e-6


class SPOLCam(Method):
    """MFF-Net₁: classification on the fused map, with an auxiliary classifier on the deepest stage.

    Args:
        backbone: its last stages are fused.
        num_classes: K.
        width: channels of the fused map.
        fuse_stages: how many stages, 1 to 4.
        fuse_op: ``"multiply"``, or ``"add"`` or ``"concat"`` as in the paper's ablation.
        mca: multiplication-based channel attention.
        loss: ``"paper"``, the sum of both classifiers' cross-entropies; ``"distill"`` (released for CUB), half of the
            auxiliary one and of the fused one against the auxiliary one's probabilities; ``"cls_only"`` (released for
            ILSVRC), the fused one without an auxiliary classifier.
        aux_source: what the auxiliary classifier reads: the deepest stage reduced and resized (``"U5"``), reduced
            (``"R5"``), or as it is, by a head of its own (``"O5"``). Concatenated stages always need that head.
        map_relu: rectify class maps before their mean.
        dropout: share of the features that the heads do not see in training.
        freeze_stem: keep the backbone's first convolution and the affine of its first batch norm.
    """

    has_linear_head = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 128,
        fuse_stages: int = 3,
        fuse_op: FuseOp = "multiply",
        mca: bool = True,
        loss: Literal["paper", "distill", "cls_only"] = "paper",
        aux_source: Literal["U5", "R5", "O5"] = "U5",
        map_relu: bool = True,
        dropout: float = 0.5,
        freeze_stem: bool = False,
    ):
        super().__init__()
        self.backbone = _trained(backbone, freeze_stem)
        self.fusion = MFFNet(backbone, width=width, fuse_stages=fuse_stages, fuse_op=fuse_op, mca=mca)
        self.head = RectifiedHead(self.fusion.channels, num_classes, relu=map_relu, dropout=dropout)
        self.loss, self.aux_source = loss, aux_source
        aux_channels = backbone.stages[-1].channels if aux_source == "O5" else width
        own = loss != "cls_only" and (aux_source == "O5" or aux_channels != self.fusion.channels)
        self.aux_head = RectifiedHead(aux_channels, num_classes, relu=map_relu, dropout=dropout) if own else None

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        features = self.features(batch.image)
        fused, deep = self.fusion(features)
        logits = self.head.logits(fused)
        right = {"accuracy": accuracy(logits, batch.label)}
        if self.loss == "cls_only":
            return {"loss": functional.cross_entropy(logits, batch.label)} | right
        if self.aux_source == "O5":
            deep = features[self.fusion.stages[-1]]
        elif self.aux_source == "U5":
            deep = resize_aligned(deep, fused.shape[2:])
        aux = (self.aux_head or self.head).logits(deep)
        losses = {"loss_aux": functional.cross_entropy(aux, batch.label)}
        if self.loss == "distill":
            losses["loss_distill"] = distillation_loss(logits, aux)
            total = (losses["loss_aux"] + losses["loss_distill"]) / 2
        else:
            losses["loss_cls"] = functional.cross_entropy(logits, batch.label)
            total = losses["loss_aux"] + losses["loss_cls"]
        return {"loss": total} | losses | right

    @property
    def feature_stages(self) -> tuple[str, ...]:
        return self.fusion.stages

    def classify_features(self, features: Features) -> Tensor:
        return self.head.logits(self.fusion(features).fused)

    def linear_head(self, features: Features) -> LinearHead:
        return self.head.linear(self.fusion(features).fused)

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        fused = self.fusion(features).fused
        logits = self.head.logits(fused)
        classes = wanted_classes(logits, label, topk)
        return Localization(logits, classes, share_of_peak(self.head.maps_of(fused, classes)))

    def export(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``pseudo_mask``: the true class's map as shares of its maximum, float16 [N, h, w]."""
        fused = self.fusion(self.features(batch.image)).fused
        cam = self.head.maps_of(fused, batch.label[:, None])[:, 0]
        return {"pseudo_mask": share_of_peak(cam).half()}


class SPOLSeg(Method):
    """MFF-Net₂: object or background at every pixel, of whatever class.

    Args:
        backbone: its last stages are fused.
        num_classes: of the data set; the network has no use for it.
        width: channels of the fused map.
        fuse_stages: how many stages, 1 to 4.
        fuse_op: ``"multiply"``, or ``"add"`` or ``"concat"`` as in the paper's ablation.
        mca: multiplication-based channel attention.
        prior: ``"paper"`` or ``"released"``, see :data:`wsolfast.ops.GAUSSIAN_PRIORS`.
        prior_options: fields of :class:`wsolfast.ops.GaussianPrior` that differ from it.
        dropout: share of the features that the head does not see in training.
        freeze_stem: keep the backbone's first convolution and the affine of its first batch norm.
    """

    classifies = False

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 128,
        fuse_stages: int = 3,
        fuse_op: FuseOp = "multiply",
        mca: bool = True,
        prior: Literal["paper", "released"] = "paper",
        prior_options: dict | None = None,
        dropout: float = 0.5,
        freeze_stem: bool = False,
    ):
        super().__init__()
        self.prior = replace(ops.GAUSSIAN_PRIORS[prior], **prior_options or {})
        self.backbone = _trained(backbone, freeze_stem)
        self.fusion = MFFNet(backbone, width=width, fuse_stages=fuse_stages, fuse_op=fuse_op, mca=mca)
        self.head = nn.Conv2d(self.fusion.channels, 1, 1)
        init_convolutions(self.head)
        self.dropout = dropout

    def mask_maker(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        """Return the function from a class map [h, w] to labels uint8 [H, W]: 0 background, 1 object, 255 ignored."""
        return partial(pseudo_labels, prior=self.prior)

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        if batch.pseudo_mask is None:
            raise ValueError('spol.seg: trains on the maps of an earlier stage; give it uses = {pseudo_mask = "STAGE"}')
        return {"loss": segmentation_loss(self._logits(self.features(batch.image)), batch.pseudo_mask)}

    @property
    def feature_stages(self) -> tuple[str, ...]:
        return self.fusion.stages

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Localise with one map [N, 1, H, W] at the image's size, whatever the class."""
        found = resize_aligned(self._logits(features).float(), size).sigmoid()
        classes = found.new_full(found.shape[:1], -1, dtype=torch.int64) if label is None else label
        return Localization(None, classes[:, None], found)

    def _logits(self, features: Features) -> Tensor:
        fused = self.fusion(features).fused
        return self.head(functional.dropout(fused, self.dropout, self.training))


def share_of_peak(maps: Tensor) -> Tensor:
    """Return rectified maps [..., h, w] divided by their maximum plus 1e-6: in [0, 1)."""
    return maps / (maps.amax((-2, -1), keepdim=True) + PEAK_EPS)


def pseudo_labels(cam: Tensor, size: tuple[int, int], prior: ops.GaussianPrior) -> Tensor:
    """Return labels uint8 [H, W] of one class map [h, w] over a whole image."""
    return ops.gaussian_prior_labels(cam[None], size, prior=prior)[0]


def _trained(backbone: Backbone, frozen_stem: bool) -> Backbone:
    if frozen_stem:
        freeze_stem(backbone)
    return backbone


NAME = "SPOL"
STAGES = {"cam": SPOLCam, "seg": SPOLSeg}
