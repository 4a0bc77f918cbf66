"""CI-CAM: Shao et al., "Improving Weakly Supervised Object Localization via Causal Intervention", ACM MM 2021.

Built on NL-CCAM. Objects and their usual surroundings are entangled; a pool of where each class was seen re-weights the
features, and a second classification of the re-weighted features gives the map.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import accuracy, bias_of
from wsolfast.methods._combinational import CombinationalMethod
from wsolfast.methods._context_pool import ContextPool, Contribution, Rows
from wsolfast.methods._non_local import Activation, AttentionKind
from wsolfast.refinements import LinearHead, project
from wsolfast.refinements.ccam import Gamma
from wsolfast.types import Batch, Features, ParamGroup, TrainState


class CICAM(CombinationalMethod):
    r"""Two branches with one classifier; between them features are enhanced by the context of the predicted class.

    With X the features, π the class that the up branch predicts and Q_π its context, the down branch sees
    :math:`X^e_{cp} = X_{cp} (1 + \beta_c + V_{c\pi} Q_{\pi p})`. That is what a 1×1 convolution (V, β) of K maps, all
    zero but Q_π, amounts to. Neither X^e nor a class map is built in training, except the predicted class's for the
    pool.

    Args:
        backbone, num_classes, nl_positions, nl_kind, activation, hidden_channels, gamma, gamma_m, gamma_r, gamma_s:
            as :class:`~wsolfast.methods._combinational.CombinationalMethod`.
        shared_classifier: both branches use the same weights (published).
        up_loss_weight: weight of the up branch's cross-entropy: 1 in the paper's Eq. 9, 0 in KG-CI-CAM.
        enhance: ``"class_conv"``, V has a column per class (released); ``"shared_conv"``, one column for all (the
            paper's Eq. 8); ``"none"``, X^e = X, the ablation without a context pool.
        pool_size: side of the context maps: the side of the last feature maps.
        pool_lambda: λ, share of a batch in the pool.
        pool_contrib: ``"correct"``, images whose prediction is right grow the pool (released), or ``"predicted"``.
        pool_timing: the pool grows ``"after"`` it was used (released) or ``"before"``.
        pool_rows: ``"all"`` classes are standardised at every step (released) or the ``"touched"`` ones.
        pool_eps: added to the variance of a context map.
        map_branch: branch whose logits and maps count: ``"down"`` (released) or ``"up"``.

    Raises:
        ValueError: if an option is none of its choices or out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        nl_positions: Sequence[str] | None = None,
        nl_kind: AttentionKind = "embedded_gaussian",
        activation: Activation = "relu",
        hidden_channels: int = 0,
        shared_classifier: bool = True,
        up_loss_weight: float = 1.0,
        enhance: Literal["class_conv", "shared_conv", "none"] = "class_conv",
        pool_size: int = 14,
        pool_lambda: float = 0.01,
        pool_contrib: Contribution = "correct",
        pool_timing: Literal["after", "before"] = "after",
        pool_rows: Rows = "all",
        pool_eps: float = 1e-5,
        map_branch: Literal["down", "up"] = "down",
        gamma: Gamma = "ci_quadratic",
        gamma_m: int = 100,
        gamma_r: int = 20,
        gamma_s: float = 2.0,
    ):
        super().__init__(
            backbone,
            num_classes,
            nl_positions=nl_positions,
            nl_kind=nl_kind,
            activation=activation,
            hidden_channels=hidden_channels,
            gamma=gamma,
            gamma_m=gamma_m,
            gamma_r=gamma_r,
            gamma_s=gamma_s,
        )
        self.up_loss_weight, self.pool_timing, self.map_branch = up_loss_weight, pool_timing, map_branch
        channels = self.classifier.in_features
        self.down_classifier = None if shared_classifier else nn.Linear(channels, num_classes)
        self.enhance: nn.Conv2d | None = None
        if enhance != "none":
            self.enhance = nn.Conv2d(num_classes if enhance == "class_conv" else 1, channels, 1)
            self.pool = ContextPool(
                num_classes, pool_size, contrib=pool_contrib, rows=pool_rows, rate=pool_lambda, eps=pool_eps
            )

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        features = self._widened(self.features(batch.image))
        up = self.classifier(features.mean((2, 3)))
        if self.pool_timing == "before":
            self._grow_pool(features, up, batch.label)
        down = self._down(features, up)
        if self.pool_timing == "after":
            self._grow_pool(features, up, batch.label)
        loss_up = functional.cross_entropy(up, batch.label)
        loss_down = functional.cross_entropy(down, batch.label)
        counted = up if self.map_branch == "up" else down
        return {
            "loss": self.up_loss_weight * loss_up + loss_down,
            "loss_up": loss_up,
            "loss_down": loss_down,
            "accuracy": accuracy(counted, batch.label),
        }

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return the contexts of the label and of the class that the up branch predicts, and the unenhanced map."""
        features = self._widened(self.features(image))
        up = self.classifier(features.mean((2, 3)))
        vectors = self.combination.class_vectors(self._down_classifier.weight, self._down(features, up), label[:, None])
        found = {"map without context": project(vectors, features)[:, 0]}
        if self.enhance is not None:
            size = features.shape[2:]
            found["context of the label"] = self.pool.lookup(label, size)
            found["context used"] = self.pool.lookup(up.argmax(1), size)
        return {name: ops.min_max_normalize(maps) for name, maps in found.items()}

    def param_groups(self) -> list[ParamGroup]:
        """Return :meth:`Method.param_groups` with the enhancing convolution among the backbone's, as released."""
        if self.enhance is None:
            return super().param_groups()
        moved = {f"backbone_{name}": (parameter,) for name, parameter in self.enhance.named_parameters()}
        own = {id(parameter) for parameter in self.enhance.parameters()}
        return [
            ParamGroup(group.name, tuple(p for p in group.params if id(p) not in own) + moved.get(group.name, ()))
            for group in super().param_groups()
        ]

    @property
    def _down_classifier(self) -> nn.Linear:
        return self.classifier if self.down_classifier is None else self.down_classifier

    def linear_head(self, features: Features) -> LinearHead:
        if self.map_branch == "up":
            return super().linear_head(features)
        seen, classifier = self._widened(features), self._down_classifier
        if self.enhance is not None:
            column, context = self._context(self.enhance, seen, self.classifier(seen.mean((2, 3))))
            added = column[:, :, None] * context[:, None]
            seen = seen * (1 + bias_of(self.enhance))[:, None, None] + (seen.flatten(2) * added).view_as(seen)
        return LinearHead(seen, classifier.weight, classifier.bias)

    def _branch(self, features: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        if self.map_branch == "up":
            return super()._branch(features)
        up = self.classifier(features.mean((2, 3)))
        return self._down(features, up), self._down_classifier.weight, lambda vectors: self._maps(vectors, features, up)

    def _grow_pool(self, features: Tensor, up: Tensor, label: Tensor) -> None:
        if self.enhance is not None and self.training:
            predicted = up.argmax(1)
            with torch.no_grad():
                cam = project(self.classifier.weight[predicted][:, None], features)[:, 0]
            self.pool.update(predicted, label, cam)

    def _context(self, enhance: nn.Conv2d, features: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Return V_π [N, C] and Q_π [N, h·w] of the class π that the up branch predicts."""
        predicted = up.argmax(1)
        columns = enhance.weight.flatten(1).mT  # [K or 1, C]
        column = columns[predicted] if len(columns) > 1 else columns.expand(len(predicted), -1)
        return column, self.pool.lookup(predicted, features.shape[2:]).to(features.dtype).flatten(1)

    def _down(self, features: Tensor, up: Tensor) -> Tensor:
        """Return logits of the enhanced features, which are never built: pooling them takes two means of X."""
        mean = features.mean((2, 3))
        if self.enhance is not None:
            column, context = self._context(self.enhance, features, up)
            in_context = (features.flatten(2) @ context[:, :, None])[:, :, 0] / context.shape[1]
            mean = mean * (1 + bias_of(self.enhance)) + column * in_context
        return self._down_classifier(mean)

    def _maps(self, vectors: Tensor, features: Tensor, up: Tensor) -> Tensor:
        """Return maps [N, M, h, w] of ``vectors`` [N, M, C] on X^e, where ``up`` are the up branch's logits."""
        if self.enhance is None:
            return project(vectors, features)
        column, context = self._context(self.enhance, features, up)
        in_context = project(vectors * column[:, None], features) * context[:, None].unflatten(2, features.shape[2:])
        return project(vectors * (1 + bias_of(self.enhance)), features) + in_context


NAME = "CI-CAM"
STAGES = {"localizer": CICAM}
