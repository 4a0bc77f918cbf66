"""DANet: Xue et al., "DANet: Divergent Activation for Weakly Supervised Object Localization", ICCV 2019.

Two ideas. Hierarchical divergent activation classifies at several levels of a hierarchy (species, family, order) at
several depths of the network: upper levels need what all their species have. Discrepant divergent activation gives
each class several maps and pushes them apart, so that they cover different parts.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast import ops
from wsolfast._nearest import nearest
from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method, MethodError, accuracy, bias_of, wanted_classes
from wsolfast.methods._cam_head import CamHead, HeadKind
from wsolfast.refinements import LinearHead
from wsolfast.types import Batch, Features, Localization, TrainState

Absolute = Literal["sum", "each"]
Ancestors = Literal["rank", "label"]
_UNKNOWN = -1


class DANet(Method):
    r"""A head at each level of a hierarchy, with M maps for each of its classes.

    .. math:: \mathcal{L} = \tfrac{1}{2} \sum_l CE(z_l, y_l) + \alpha \mathcal{L}_{cos}

    The logit of a class is the mean of its M maps, :math:`\mathcal{L}_{cos}` is :func:`cosine_similarity_loss` of maps
    of the true classes: of all levels, resized to the top one, of which :math:`\lfloor 1.5 M \rfloor` are drawn in each
    step. Localization adds the maps of a class and its ancestors, each the mean of M rectified maps.

    Without levels above the classes this is discrepant divergent activation alone; there are then only M maps, and
    none is left out.

    Args:
        backbone: its last stage feeds the head of the classes.
        num_classes: K.
        maps_per_class: M.
        level_sizes: number of classes of each level above, from the lowest to the top: families, orders.
        level_stages: stages that feed the heads of the levels above. If None, the stages right below the last one, one
            for each level.
        head: head of the classes, see :class:`CamHead`.
        hidden_channels: width of the 3×3 convolutions of that head.
        level_head: head of each level above.
        level_channels: widths of the 3×3 convolutions of their heads.
        cos_weight: α.
        absolute: ``"sum"`` takes the absolute value of an image's sum of similarities, as released; positive and
            negative ones cancel in it. ``"each"`` takes that of each similarity, as written.
        ancestors: whose maps are added to the map of a predicted class: those of the family and the order of its
            rank among the predictions (``"rank"``, as released), or of its own (``"label"``). A class that is asked
            for and is not the most likely one has its own in both cases.

    Raises:
        ValueError: if a number is out of range, or there are not as many stages and widths as levels.
        BackboneError: if the backbone has no such stage.
    """

    has_linear_head = True
    parents: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        maps_per_class: int = 8,
        level_sizes: Sequence[int] = (),
        level_stages: Sequence[str] | None = None,
        head: HeadKind = "conv3",
        hidden_channels: int = 1024,
        level_head: HeadKind = "conv3",
        level_channels: Sequence[int] = (1024, 512),
        cos_weight: float = 0.01,
        absolute: Absolute = "sum",
        ancestors: Ancestors = "rank",
    ):
        super().__init__()
        if maps_per_class < 2:
            raise ValueError(f"danet: maps_per_class: expected at least 2, which can differ, got {maps_per_class}")
        if cos_weight < 0:
            raise ValueError(f"danet: cos_weight: expected at least 0, got {cos_weight}")
        self.backbone, self.upper_levels = backbone, len(level_sizes)
        known = [stage.name for stage in backbone.stages]
        stages = known[-2::-1][: self.upper_levels] if level_stages is None else list(level_stages)
        if level_sizes and not len(stages) == len(level_channels) == self.upper_levels:
            raise ValueError(
                f"danet: level_stages, level_channels: expected one for each of {self.upper_levels} levels, "
                f"got {len(stages)} and {len(level_channels)}"
            )
        for stage in stages:
            if stage not in known:
                raise ValueError(f"danet: level_stages: no stage {stage!r}; {nearest(stage, known)}")
        self.level_stages = tuple(stages[: self.upper_levels])
        self.maps_per_class, self.level_sizes = maps_per_class, tuple(level_sizes)
        self.cos_weight, self.absolute, self.ancestors = cos_weight, absolute, ancestors
        self.head = CamHead(backbone, num_classes * maps_per_class, head, hidden_channels)
        self.level_heads = nn.ModuleList(
            CamHead(backbone, size * maps_per_class, level_head, width, stage)
            for size, width, stage in zip(level_sizes, level_channels, stages, strict=False)
        )
        self.register_buffer("parents", torch.full((self.upper_levels, num_classes), _UNKNOWN))
        self._are_known = False

    @property
    def feature_stages(self) -> tuple[str, ...]:
        return (self.last_stage, *self.level_stages)

    def set_parents(self, parents: Tensor) -> None:
        found = tuple((parents.amax(1) + 1).tolist())
        if parents.shape[1] != self.parents.shape[1] or found != self.level_sizes:
            raise ValueError(
                f"level_sizes: built for {self.parents.shape[1]} classes and {list(self.level_sizes)} above them, the "
                f"hierarchy of the data has {parents.shape[1]} and {list(found)}"
            )
        self.parents.copy_(parents)

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        hidden = self._hidden(self.features(batch.image))
        labels = [batch.label, *self._known_parents()[:, batch.label]]
        logits = [self._logits(*level) for level in hidden]
        losses = [functional.cross_entropy(one, label) for one, label in zip(logits, labels, strict=True)]
        maps = [self._maps(*level, label[:, None])[:, 0] for level, label in zip(hidden, labels, strict=True)]
        size = maps[-1].shape[2:]
        together = torch.cat([resize_corners(one, size) for one in maps], dim=1)
        drawn = torch.randperm(together.shape[1], generator=state.generator())[: 3 * self.maps_per_class // 2]
        loss_cos = cosine_similarity_loss(together[:, drawn.to(together.device)], self.absolute)
        return {
            "loss": sum(losses) / 2 + self.cos_weight * loss_cos,
            "loss_cls": losses[0],
            **{f"loss_cls_{level}": loss for level, loss in enumerate(losses[1:], start=1)},
            "loss_cos": loss_cos,
            "accuracy": accuracy(logits[0], batch.label),
        }

    def classify_features(self, features: Features) -> Tensor:
        return self._logits(self.head, self.head.hidden(features[self.last_stage]))

    def linear_head(self, features: Features) -> LinearHead:
        return LinearHead(self.head.hidden(features[self.last_stage]), *self._mean_classifier(self.head))

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        hidden = self._hidden(features)
        logits = self._logits(*hidden[0])
        classes = wanted_classes(logits, label, topk)
        # Of each predicted class the rank, of one that is asked for 0 if it is the most likely one, -1 if it is not.
        rank = torch.arange(classes.shape[1], device=classes.device).expand_as(classes)
        if label is not None:
            likely = (logits if ranking is None else ranking).argmax(1)
            rank = torch.cat([(label == likely).long()[:, None] - 1, rank[:, :-1]], dim=1)
        maps = [self._score_maps(*hidden[0], classes)]
        for level, parents in zip(hidden[1:], self._known_parents(), strict=True):
            maps.append(self._score_maps(*level, self._ancestors(parents[classes], rank, self._logits(*level))))
        top = maps[-1].shape[2:]
        score_map = torch.stack([resize_corners(one, top) for one in maps]).sum(0)
        return Localization(logits, classes, ops.min_max_normalize(score_map))

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        if not self.upper_levels:
            return {}
        hidden, labels = self._hidden(self.features(image)), [label, *self._known_parents()[:, label]]
        maps = [self._score_maps(*level, one[:, None])[:, 0] for level, one in zip(hidden, labels, strict=True)]
        return {f"level {level}": ops.min_max_normalize(one) for level, one in enumerate(maps)}

    def _hidden(self, features: Features) -> list[tuple[CamHead, Tensor]]:
        """Return each level's head with what its classifier reads, the classes first."""
        heads = zip((self.head, *self.level_heads), self.feature_stages, strict=True)
        return [(head, head.hidden(features[stage])) for head, stage in heads]

    def _mean_classifier(self, head: CamHead) -> tuple[Tensor, Tensor]:
        """Return weight [K, C] and bias [K] of the mean of each class's maps, which is linear in the features."""
        weight, bias = head.classifier.weight.flatten(1), bias_of(head.classifier)
        per_class = (-1, self.maps_per_class)
        return weight.unflatten(0, per_class).mean(1), bias.unflatten(0, per_class).mean(1)

    def _logits(self, head: CamHead, hidden: Tensor) -> Tensor:
        """Return logits [N, K]; no map is made."""
        return functional.linear(hidden.mean((2, 3)), *self._mean_classifier(head))

    def _maps(self, head: CamHead, hidden: Tensor, classes: Tensor) -> Tensor:
        """Return the M maps of each of ``classes`` [N, T], [N, T, M, h, w]."""
        within = torch.arange(self.maps_per_class, device=classes.device)
        channels = (classes[:, :, None] * self.maps_per_class + within).flatten(1)
        return head.maps_of(hidden, channels).unflatten(1, (classes.shape[1], self.maps_per_class))

    def _score_maps(self, head: CamHead, hidden: Tensor, classes: Tensor) -> Tensor:
        """Return the mean of the rectified maps of each of ``classes`` [N, T], [N, T, h, w]."""
        return self._maps(head, hidden, classes).relu().mean(2)

    def _ancestors(self, own: Tensor, rank: Tensor, logits: Tensor) -> Tensor:
        """Return the classes [N, T] of a level whose maps are added: the own ones, or those of the same rank."""
        if self.ancestors == "label":
            return own
        ranked = logits.topk(min(max(1, rank.shape[1]), logits.shape[1]), dim=1).indices
        known = (rank >= 0) & (rank < ranked.shape[1])
        return torch.where(known, ranked.gather(1, rank.clamp(0, ranked.shape[1] - 1)), own)

    def _known_parents(self) -> Tensor:
        # A graph that is written of the method holds no question about values.
        if not self._are_known and not torch.compiler.is_compiling():
            # Once, because a GPU waits for the answer.
            if bool((self.parents == _UNKNOWN).any()):
                raise MethodError(
                    "danet: nobody has said what levels are above the classes; train it on data with a hierarchy, load "
                    "a checkpoint, or call set_parents"
                )
            self._are_known = True
        return self.parents


def resize_corners(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps [N, M, h, w], resized bilinearly with the corners aligned."""
    if maps.shape[2:] == tuple(size):
        return maps
    return functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


def cosine_similarity_loss(maps: Tensor, absolute: Absolute = "sum", eps: float = 1e-8) -> Tensor:
    r"""Return how alike the maps of an image are, the mean over the images.

    .. math:: \cos_{ij} = \frac{\langle m_i, m_j \rangle}{\sqrt{|m_i|^2 |m_j|^2 + \epsilon}}, \qquad
        \mathcal{L} = \frac{2}{n (n - 1)} \Big| \sum_{i < j} \cos_{ij} \Big|

    Args:
        maps (Tensor[N, n, h, w]): n maps of each image, at least 2; half precision is computed in float32.
        absolute: ``"sum"`` as above; ``"each"``: the sum of the absolute values.
        eps: ε.

    Returns:
        Tensor[]: in [0, 1].
    """
    maps = maps.flatten(2)
    with torch.autocast(maps.device.type, enabled=False):
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        products = maps @ maps.mT
        squares = products.diagonal(dim1=1, dim2=2)
        cosines = products / (squares[:, :, None] * squares[:, None] + eps).sqrt()
        pairs = cosines.triu(1)
        totals = pairs.sum((1, 2)).abs() if absolute == "sum" else pairs.abs().sum((1, 2))
        count = maps.shape[1] * (maps.shape[1] - 1) // 2
        return totals.mean() / count


NAME = "DANet"
STAGES = {"localizer": DANet}
