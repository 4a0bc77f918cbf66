"""CSoA: Kou et al., "Improve CAM with Auto-adapted Segmentation and Co-supervised Augmentation", WACV 2021.

Two classifiers on two depths of one backbone. ConfSeg: the deep one teaches the other where the object surely is and is
not. CoAug: within a batch, objects of one class shall look alike and differ from their backgrounds. No code was
released; what the paper leaves open is an option here.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._balanced_batches import BalancedBatches
from wsolfast.methods._base import Method, accuracy, wanted_classes
from wsolfast.methods._cam_head import CamHead
from wsolfast.methods._csoa_losses import Reduction, co_supervised_loss
from wsolfast.methods._embedding import Embedding, MaskedEmbedding
from wsolfast.refinements import LinearHead
from wsolfast.types import Batch, Features, Localization, TrainState

# Added to the range of the foreground map, and to the denominators of CoAug.
EPS = 1e-6

_HeadKind = Literal["conv3", "linear"]


class CSoA(Method):
    """Auto-adapted segmentation (ConfSeg) and co-supervised augmentation (CoAug).

    Args:
        backbone: its stages feed the heads.
        num_classes: K.
        head: ``"conv3"`` (the paper's) or ``"linear"``, see :class:`CamHead`.
        hidden_channels: width of the ``"conv3"`` heads.
        early_head: kind of the early head alone; ``head`` if None. Features that were trained to be classified many
            layers later need convolutions to be classified.
        late: stage of the classifier that predicts, the last one if None.
        early: stage of the one it teaches, with the same resolution; the last but one if None.
        conf_seg: train the early classifier with ConfSeg (Eqs 2-6); otherwise there is no early classifier.
        conf_weight: largest weight of that loss.
        conf_schedule: how its weight grows from 0 to the largest: ``"linear"`` by epochs, ``"linear_step"`` by steps,
            ``"exp"``, exp(-5(1-t)²) by steps, or ``"constant"``.
        conf_reduction: ``"sum"`` (the paper) or ``"mean"`` over positions.
        detach_teacher: ConfSeg moves the early maps alone.
        co_aug: train with CoAug (Eqs 8-12).
        co_weight: weight of that loss.
        co_gamma: weight of background distances in it.
        co_delta: weight of distances between classes in it.
        co_reduction: ``"sum"`` (the paper) or ``"mean"`` over each set of pairs.
        co_foreground: how the late map becomes a foreground in [0, 1]: ``"minmax"``, ``"minmax_detached"`` (extrema
            without gradient) or ``"sigmoid"``.
        embedding: what images are compared by: ``"alexnet"`` (fc7), ``"alexnet_conv5"``, ``"alexnet_flat"``,
            ``"backbone"`` or ``"features"`` (of the method's own backbone), see :class:`MaskedEmbedding`.
        embedding_weights: weights of AlexNet.
        classes_per_batch: largest number of classes in a batch; each has an equal share. 0 for shuffled batches.
        combine: the object is where either branch sees it (``"union"``) or where both do (``"intersection"``, for
            the protocol ``csoa_intersection``).
        map_size: combine the branches' maps at their own size (``"cam"``) or resized to the input (``"input"``).
        scores: logits of the ``"late"`` classifier or the ``"mean"`` of both.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: _HeadKind = "conv3",
        hidden_channels: int = 1024,
        early_head: _HeadKind | None = None,
        late: str | None = None,
        early: str | None = None,
        conf_seg: bool = True,
        conf_weight: float = 1.0,
        conf_schedule: Literal["linear", "linear_step", "exp", "constant"] = "linear",
        conf_reduction: Reduction = "mean",
        detach_teacher: bool = True,
        co_aug: bool = True,
        co_weight: float = 1.0,
        co_gamma: float = 1.0,
        co_delta: float = 1.0,
        co_reduction: Reduction = "mean",
        co_foreground: Literal["minmax", "minmax_detached", "sigmoid"] = "minmax",
        embedding: Embedding = "alexnet",
        embedding_weights: str = "AlexNet_Weights.IMAGENET1K_V1",
        classes_per_batch: int = 12,
        combine: Literal["union", "intersection"] = "union",
        map_size: Literal["cam", "input"] = "cam",
        scores: Literal["late", "mean"] = "late",
    ):
        super().__init__()
        if classes_per_batch < 0:
            raise ValueError(f"csoa: classes_per_batch: expected at least 1, or 0 for none, got {classes_per_batch}")
        self.backbone = backbone
        names = [stage.name for stage in backbone.stages]
        self.late, self.early = late or names[-1], early or names[-2]
        self._check_stages(conf_seg)
        early_head = early_head or head
        self.late_head = CamHead(backbone, num_classes, head, hidden_channels, self.late)
        self.early_head = CamHead(backbone, num_classes, early_head, hidden_channels, self.early) if conf_seg else None
        self.conf_weight, self.conf_schedule = conf_weight, conf_schedule
        self.conf_options: dict[str, Any] = {"reduction": conf_reduction, "detach_teacher": detach_teacher}
        self.embedding = MaskedEmbedding(embedding, embedding_weights) if co_aug else None
        self.co_weight, self.co_foreground = co_weight, co_foreground
        self.co_options = {"gamma": co_gamma, "delta": co_delta, "reduction": co_reduction, "eps": EPS}
        self.classes_per_batch = classes_per_batch
        self.combine, self.map_size, self.scores = combine, map_size, scores

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        features = self.features(batch.image)
        of_label = batch.label[:, None]
        hidden = self.late_head.hidden(features[self.late])
        logits = self.late_head.pooled_logits(hidden)
        losses = {"loss_cls": functional.cross_entropy(logits, batch.label), "accuracy": accuracy(logits, batch.label)}
        # All that both losses read of the class maps is the label's.
        late = self.late_head.maps_of(hidden, of_label)[:, 0]
        total = losses["loss_cls"]
        if self.early_head is None:
            confident = ops.confidence_mask(late)
        else:
            hidden = self.early_head.hidden(features[self.early])
            losses["loss_cls_early"] = functional.cross_entropy(self.early_head.pooled_logits(hidden), batch.label)
            early = self.early_head.maps_of(hidden, of_label)[:, 0]
            losses["loss_conf"], confident = ops.confident_segmentation_loss(late, early, **self.conf_options)
            total = total + losses["loss_cls_early"] + self.conf_alpha(state) * losses["loss_conf"]
        if self.embedding is not None:
            foreground = self._foreground(late)
            vectors = self.embedding(self.backbone, batch.image, features[self.late], foreground, confident)
            losses["loss_co"] = co_supervised_loss(vectors, batch.label, **self.co_options)
            total = total + self.co_weight * losses["loss_co"]
        return {"loss": total} | losses

    def conf_alpha(self, state: TrainState) -> float:
        """Return the weight of ConfSeg: it grows, because the late maps are worth little at first."""
        if self.conf_schedule == "constant":
            return self.conf_weight
        if self.conf_schedule == "linear":
            done = state.epoch / (state.epochs - 1) if state.epochs > 1 else 1.0
            return self.conf_weight * done
        done = state.progress
        return self.conf_weight * (done if self.conf_schedule == "linear_step" else math.exp(-5 * (1 - done) ** 2))

    @property
    def feature_stages(self) -> tuple[str, ...]:
        return (self.late,) if self.early_head is None else (self.late, self.early)

    def classify_features(self, features: Features) -> Tensor:
        return self._classify(self._hidden(features))

    @property
    # A method's own is a constant; here an option decides.
    def has_linear_head(self) -> bool:  # type: ignore[override]
        return self.scores == "late"

    def linear_head(self, features: Features) -> LinearHead:
        return self.late_head.linear(self.late_head.hidden(features[self.late]))

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Localise; a cut of the map is the union (or intersection) of the branches' own cuts.

        A branch cuts its map at θ times the map's maximum (Eq 13), so the pixelwise maximum of both, each divided by
        its own, holds the unions for all θ. A branch without a positive value sees nothing.
        """
        hidden = self._hidden(features)
        logits = self._classify(hidden)
        classes = wanted_classes(logits, label, topk)
        maps = []
        for head, activation in hidden:
            branch = head.maps_of(activation, classes)
            if self.map_size == "input":
                branch = functional.interpolate(branch, tuple(size), mode="bilinear", align_corners=False)
            maps.append(branch)
        return Localization(logits, classes, combine_branches(maps, self.combine))

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return each branch's map, and where the late one is confident: 1 object, 0 background, 0.5 neither."""
        hidden = self._hidden(self.features(image))
        maps = [head.maps_of(activation, label[:, None])[:, 0] for head, activation in hidden]
        late = maps[0]
        above = (late > late.mean((1, 2), keepdim=True)).float()
        confident = torch.where(ops.confidence_mask(late) > 0, above, 0.5)
        named = zip(("late map", "early map"), maps, strict=False)
        return {name: ops.min_max_normalize(one) for name, one in named} | {"confident": confident}

    def batch_sampler(self, labels: Tensor, batch_size: int, seed: int) -> BalancedBatches | None:
        if not self.classes_per_batch:
            return None
        return BalancedBatches(labels, batch_size, seed, self.classes_per_batch)

    def _hidden(self, features: Features) -> list[tuple[CamHead, Tensor]]:
        """Return each head with what its classifier reads, the late one first."""
        heads = [(self.late_head, self.late), (self.early_head, self.early)]
        return [(head, head.hidden(features[stage])) for head, stage in heads if head is not None]

    def _classify(self, hidden: list[tuple[CamHead, Tensor]]) -> Tensor:
        logits = [head.pooled_logits(activation) for head, activation in hidden]
        return torch.stack(logits).mean(0) if self.scores == "mean" else logits[0]

    def _foreground(self, late: Tensor) -> Tensor:
        late = late.to(torch.promote_types(late.dtype, torch.float32))
        if self.co_foreground == "sigmoid":
            return late.sigmoid()
        if self.co_foreground == "minmax":
            return ops.min_max_normalize(late, EPS)
        low, high = late.detach().flatten(1).aminmax(dim=1)
        return (late - low[:, None, None]) / (high - low + EPS)[:, None, None]

    def _check_stages(self, conf_seg: bool) -> None:
        strides = {stage.name: stage.stride for stage in self.backbone.stages}
        for option, name in (("late", self.late), ("early", self.early))[: 1 + conf_seg]:
            if name not in strides:
                raise ValueError(f"csoa: {option}: this backbone has the stages {', '.join(strides)}, not {name!r}")
        if conf_seg and strides[self.early] != strides[self.late]:
            same = [name for name, stride in strides.items() if stride == strides[self.late]]
            raise ValueError(
                f"csoa: early: {self.early!r} has stride {strides[self.early]}, {self.late!r} has "
                f"{strides[self.late]}; choose among {', '.join(same)}, or another layout of the backbone"
            )


def combine_branches(maps: list[Tensor], combine: str) -> Tensor:
    """Return one map [N, M, h, w] in [0, 1] of branches' maps: each by its own maximum, then the extreme."""
    shares = []
    for branch in maps:
        positive = branch.relu()
        peak = positive.amax((-2, -1), keepdim=True)
        shares.append(torch.where(peak > 0, positive / peak, 0))
    stacked = torch.stack(shares)
    return stacked.amax(0) if combine == "union" else stacked.amin(0)


NAME = "CSoA"
STAGES = {"localizer": CSoA}
