"""Class attention: what the class token of a transformer looks at, the baseline of TS-CAM (Gao et al., ICCV 2021).

A network that classifies by its class token has one map for all classes: the attention of that token to the patches.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import CLASS_ATTENTION, CLASS_TOKEN, Backbone
from wsolfast.methods._base import Method, accuracy, wanted_classes
from wsolfast.methods._coupled_maps import Layers, attention_of
from wsolfast.types import Batch, Features, Localization, TrainState


class ClassAttention(Method):
    r"""A linear classifier of the class token; the map is the token's attention, the same for every class.

    .. math:: a_p = \sum_\ell \mathrm{mean}_h\, \mathrm{softmax}(q k^\top / \sqrt{d})_{\text{class}, p}

    Args:
        backbone: a transformer with a class token.
        num_classes: K.
        head: ``"linear"``, or ``"pretrained"`` for the classifier that came with the backbone's weights.
        layers: ``"all"`` sums over the layers, as TS-CAM does; ``"last"`` takes the last one, as DINO shows it.

    Raises:
        BackboneError: if the backbone has no class token's attention.
        ValueError: if the weights bring no classifier of the class token, or one of other classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: Literal["linear", "pretrained"] = "linear",
        layers: Layers = "all",
    ):
        super().__init__()
        backbone.require_class_attention("evaluation")
        self.backbone, self.layers = backbone, layers
        self.classifier = nn.Linear(backbone.stages[-1].channels, num_classes)
        if head == "pretrained":
            given = backbone.classifier
            if given is None or not given.of_class_token or len(given.weight) != num_classes:
                found = "none" if given is None else f"one of {len(given.weight)} classes"
                token = "" if given is None or given.of_class_token else " that reads the patches' mean"
                raise ValueError(
                    f"head 'pretrained': expected a classifier of the class token with {num_classes} classes, the "
                    f"weights bring {found}{token}; choose head 'linear', or the method cam"
                )
            self.classifier.load_state_dict({"weight": given.weight, "bias": given.bias})

    @property
    def map_note(self) -> str:
        return "the same for every class"

    @property
    def feature_stages(self) -> tuple[str, ...]:
        watched = (CLASS_ATTENTION,) if self.backbone.gives_class_attention else ()
        return (CLASS_TOKEN, *watched, self.last_stage)

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        logits = self.classify(batch.image)
        return {"loss": functional.cross_entropy(logits, batch.label), "accuracy": accuracy(logits, batch.label)}

    def classify_features(self, features: Features) -> Tensor:
        return self.classifier(features[CLASS_TOKEN])

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        logits = self.classify_features(features)
        classes = wanted_classes(logits, label, topk)
        maps = ops.min_max_normalize(attention_of(features, self.layers))
        return Localization(logits, classes, maps[:, None].expand(-1, classes.shape[1], -1, -1))


NAME = "Class attention"
STAGES = {"localizer": ClassAttention}
