"""The network of NL-CCAM and CI-CAM, and maps that combine those of all classes by their rank."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method, wanted_classes
from wsolfast.methods._non_local import Activation, AttentionKind, insert_non_local_blocks, replace_activation, widen
from wsolfast.refinements import LinearHead, project
from wsolfast.refinements.ccam import Combination, Gamma
from wsolfast.types import Features, Localization


class CombinationalMethod(Method):
    """A backbone with non-local blocks, a linear classifier on pooled features, combinational maps.

    Args:
        backbone: its last stage feeds the classifier.
        num_classes: K.
        nl_positions: stages that a non-local block follows; every stage if None, as published for VGG16.
        nl_kind: ``"embedded_gaussian"`` (published) or ``"dot_product"``.
        activation: ``"lrelu02"`` replaces the backbone's ReLUs by LeakyReLU(0.2), as released; ``"relu"`` keeps them.
        hidden_channels: width of two 3×3 convolutions before the classifier; 0 for none.
        gamma: weights of the ranks, see :class:`~wsolfast.refinements.ccam.Combination`.
        gamma_m: ranks that count as likely in ``"nl_quadratic"``.
        gamma_r: ranks that count as unlikely in ``"sum"`` and ``"mean"``.
        gamma_s: largest weight times ``gamma_r`` in ``"sum"``.

    Raises:
        ValueError: if an option is none of its choices or out of range.
    """

    has_linear_head = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        nl_positions: Sequence[str] | None = None,
        nl_kind: AttentionKind = "embedded_gaussian",
        activation: Activation = "relu",
        hidden_channels: int = 0,
        gamma: Gamma = "nl_quadratic",
        gamma_m: int = 100,
        gamma_r: int = 20,
        gamma_s: float = 2.0,
    ):
        super().__init__()
        self.combination = Combination(gamma, gamma_m, gamma_r, gamma_s)
        self.backbone = backbone
        replace_activation(backbone, activation)
        insert_non_local_blocks(backbone, nl_positions, nl_kind)
        channels = backbone.stages[-1].channels
        self.hidden = widen(channels, hidden_channels, activation)
        self.classifier = nn.Linear(hidden_channels or channels, num_classes)

    def classify_features(self, features: Features) -> Tensor:
        return self._branch(self._widened(features))[0]

    def linear_head(self, features: Features) -> LinearHead:
        return LinearHead(self._widened(features), self.classifier.weight, self.classifier.bias)

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Localise as :meth:`Method.localize_features` says; one map serves all classes unless ``gamma`` is ``"none"``.

        ``ranking`` also chooses the predicted classes; the released evaluation takes it from the central crop.
        """
        logits, weight, maps_of = self._branch(self._widened(features))
        ranking = logits if ranking is None else ranking
        classes = wanted_classes(ranking, label, topk)
        maps = ops.min_max_normalize(maps_of(self.combination.class_vectors(weight, ranking, classes)))
        return Localization(logits, classes, maps.expand(-1, classes.shape[1], -1, -1))

    def _branch(self, features: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Return what localises: logits [N, K], its classifier's weight [K, C], a function from vectors to maps."""
        logits = self.classifier(features.mean((2, 3)))
        return logits, self.classifier.weight, lambda vectors: project(vectors, features)

    def _widened(self, features: Features) -> Tensor:
        """Return the features [N, C, h, w] whose mean is classified."""
        return self.hidden(features[self.last_stage])
