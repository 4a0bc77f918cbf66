"""BAS: Wu et al., "Background Activation Suppression for Weakly Supervised Object Localization", CVPR 2022.

A generator gives a map of each class from features of a middle stage. It learns to cover what the class's score comes
from: what is left outside must score low, and the map must stay small.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast.backbones import Backbone, call_as_constant
from wsolfast.methods._base import Method, accuracy, bias_of, wanted_classes
from wsolfast.methods._cam_head import CamHead, HeadKind
from wsolfast.refinements import LinearHead
from wsolfast.types import Batch, Features, Localization, TrainState

_EPS = 1e-8


class BAS(Method):
    r"""A classifier of the last stage, and a generator of maps that suppresses what activates it elsewhere.

    With x the features of ``generator_stage``, m the generator's map of the label t and f² the layers above:

    .. math:: \mathcal{L} = CE(S, t) + \lambda_1 CE(S^{fg}, t) + \min\nolimits^{*}(S^{bg}_t / S_t) + \lambda_2 \bar m

    S are the logits, means of rectified class maps G of f²(x). :math:`S^{fg}` is the mean of G weighted by m at its
    size. :math:`S^{bg}_t` is the score of :math:`f^2(x (1 - m))`, where neither x nor a weight of f² or the classifier
    takes a gradient: m alone learns from it. The ratio counts as 0, without a gradient, where the background scores at
    least as high as the image (in the code for ILSVRC where it scores higher). Batch norms of f² normalise the erased
    features by their own batch; their running statistics do not see them.

    Args:
        backbone: its last stage feeds the classifier, ``generator_stage`` the generator.
        num_classes: K.
        head: the classifier; ``"conv3"`` (published) or any other, see :class:`CamHead`. Class maps are rectified.
        hidden_channels: width of its 3×3 convolutions.
        generator_stage: a stage below the last that feeds the generator; the last but one if None.
        foreground_loss_weight: weight λ1.
        area_loss_weight: weight λ2.
        map_classes: 0 gives each class its own map (ILSVRC). With k, all classes have one map: the mean of the maps
            of the k most likely ones of the same view (CUB). A k above K counts as K.

    Raises:
        ValueError: if an option is none of its choices or negative, or the generator has no stage below the last.
    """

    has_linear_head = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: HeadKind = "conv3",
        hidden_channels: int = 1024,
        generator_stage: str | None = None,
        foreground_loss_weight: float = 0.5,
        area_loss_weight: float = 1.0,
        map_classes: int = 0,
    ):
        super().__init__()
        options = {
            "foreground_loss_weight": foreground_loss_weight,
            "area_loss_weight": area_loss_weight,
            "map_classes": map_classes,
        }
        for name, value in options.items():
            if value < 0:
                raise ValueError(f"bas: {name}: expected at least 0, got {value}")
        channels = {stage.name: stage.channels for stage in backbone.stages[:-1]}
        self.generator_stage = list(channels)[-1] if generator_stage is None else generator_stage
        if self.generator_stage not in channels:
            raise ValueError(
                f"bas: generator_stage: expected one of {', '.join(channels)}, got {self.generator_stage!r}"
            )
        self.foreground_loss_weight, self.area_loss_weight = foreground_loss_weight, area_loss_weight
        self.map_classes = map_classes
        self.backbone = backbone
        self.head = CamHead(backbone, num_classes, head, hidden_channels)
        self.head.relu_maps = True
        self.generator = nn.Conv2d(channels[self.generator_stage], num_classes, 3, padding=1)
        nn.init.xavier_uniform_(self.generator.weight)
        nn.init.zeros_(bias_of(self.generator))

    @property
    def feature_stages(self) -> tuple[str, ...]:
        return (self.last_stage, self.generator_stage)

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        features = self.features(batch.image)
        below, label = features[self.generator_stage], batch.label
        shown = self._generated(below, label[:, None])
        class_maps = _at_least_single(self.head.class_maps(features[self.last_stage]).relu())
        logits = class_maps.mean((2, 3))
        background = self._background_score(below, shown, label)
        losses = {
            "loss_cls": functional.cross_entropy(logits, label),
            "loss_background": suppression(logits.gather(1, label[:, None])[:, 0], background).mean(),
            "loss_area": shown.mean(),
        }
        loss = losses["loss_cls"] + losses["loss_background"] + self.area_loss_weight * losses["loss_area"]
        if self.foreground_loss_weight:
            foreground = foreground_scores(class_maps, shown)
            losses["loss_foreground"] = functional.cross_entropy(foreground, label)
            loss = loss + self.foreground_loss_weight * losses["loss_foreground"]
        return {"loss": loss, **losses, "accuracy": accuracy(logits, label)}

    def classify_features(self, features: Features) -> Tensor:
        return self.head.logits(features[self.last_stage])

    def linear_head(self, features: Features) -> LinearHead:
        return self.head.linear(self.head.hidden(features[self.last_stage]))

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Localise as :meth:`Method.localize_features` says, with one map for all classes if ``map_classes`` is set."""
        logits, below = self.classify_features(features), features[self.generator_stage]
        classes = wanted_classes(logits, label, topk)
        if not self.map_classes:
            return Localization(logits, classes, self._generated(below, classes))
        likely = logits.topk(min(self.map_classes, logits.shape[1]), dim=1).indices
        maps = _at_least_single(self.generator(below)).sigmoid()
        mean = maps.gather(1, likely[:, :, None, None].expand(-1, -1, *maps.shape[2:])).mean(1, keepdim=True)
        return Localization(logits, classes, mean.expand(-1, classes.shape[1], -1, -1))

    def _generated(self, below: Tensor, classes: Tensor) -> Tensor:
        """Return the generator's maps [N, M, h, w] of ``classes`` [N, M] in [0, 1]."""
        conv = self.generator
        return _at_least_single(chosen_channels(below, conv.weight, bias_of(conv), classes)).sigmoid()

    def _background_score(self, below: Tensor, shown: Tensor, label: Tensor) -> Tensor:
        """Return the label's score [N] of the features outside the map; its gradient reaches ``shown`` alone."""
        erased = below.detach() * (1 - shown)
        top = self.backbone.extract_from(self.generator_stage, erased, constant=True)[self.last_stage]
        hidden = call_as_constant(self.head.hidden, top)
        class_map = self.head.maps_of(hidden, label[:, None], constant=True)
        return _at_least_single(class_map.relu()).mean((1, 2, 3))


def chosen_channels(features: Tensor, weight: Tensor, bias: Tensor, classes: Tensor) -> Tensor:
    """Return the output channels ``classes`` of a padded 3×3 convolution, others for every image.

    One product of matrices gives what each of the nine taps sees at every position, and reads the features once. A
    fixed convolution adds the nine where they belong. ``bench/gathered_conv.py`` compares it with a grouped convolution
    and with im2col.

    Args:
        features (Tensor[N, C, h, w]): what the convolution reads.
        weight (Tensor[K, C, 3, 3]): of all channels.
        bias (Tensor[K]): of all channels.
        classes (Tensor[N, M]): int64, in [0, K).

    Returns:
        Tensor[N, M, h, w].
    """
    images, chosen = classes.shape
    taps = weight.flatten(2)[classes].transpose(2, 3).flatten(1, 2) @ features.flatten(2)  # [N, M·9, h·w]
    taps = taps.reshape(images * chosen, 9, *features.shape[2:])
    shifts = torch.eye(9, dtype=taps.dtype, device=taps.device).view(1, 9, 3, 3)
    return (
        functional.conv2d(taps, shifts, padding=1).view(images, chosen, *features.shape[2:])
        + bias[classes][:, :, None, None]
    )


def suppression(score: Tensor, background: Tensor) -> Tensor:
    """Return the share [N] of each image's ``score`` [N] that its ``background`` [N] has; 0 where it is all of it.

    The score takes no gradient.
    """
    score = score.detach()
    return torch.where(background < score, background / (score + _EPS), 0.0)


def foreground_scores(class_maps: Tensor, shown: Tensor) -> Tensor:
    """Return the means [N, K] of ``class_maps`` [N, K, h, w], weighted by ``shown`` [N, 1, H, W] at their size."""
    height, width = class_maps.shape[2:]
    weight = functional.adaptive_avg_pool2d(shown, (height, width))
    return (class_maps.flatten(2) @ weight.flatten(2).mT)[:, :, 0] / weight[0].numel()


def _at_least_single(maps: Tensor) -> Tensor:
    """Return 16-bit maps as float32: means and shares of scores need more than 8 bits."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


NAME = "BAS"
STAGES = {"localizer": BAS}
