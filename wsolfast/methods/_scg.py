"""SPA's self-correlation guidance (SCG): of SPA itself, and behind any other method."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import Tensor
from torch.nn import functional

from wsolfast import ops
from wsolfast._nearest import nearest
from wsolfast.backbones import Backbone, StageInfo
from wsolfast.methods._base import Method
from wsolfast.types import Batch, Features, Localization, ParamGroup, TrainState


class SelfCorrelation:
    """Refinement of maps in [0, 1] by first- and second-order self-correlations of feature stages (SPA, Eqs 6-14).

    Its keywords are what a recipe may say in ``[evaluate.scg]`` and in SPA's ``[stage.model.scg]``.

    Args:
        stages: of the backbone; the last one has the resolution of the maps.
        layers: names of the stages whose correlations are summed; they need the resolution of the last stage. Default:
            those of the last two that have it.
        resize_roundtrip: resize the maps to the input's size and back first, as the released code does with the
            image's own size; it moves values by up to 0.05, which matters against ``delta_l``.
        **rule: fields of :class:`wsolfast.ops.CorrelationRule`.

    Raises:
        ValueError: if an option is unknown or out of range, or a layer does not exist or has another resolution.
    """

    def __init__(
        self,
        stages: Sequence[StageInfo],
        *,
        layers: Sequence[str] | None = None,
        resize_roundtrip: bool = True,
        **rule: Any,
    ):
        known = ["layers", "resize_roundtrip", *(field.name for field in fields(ops.CorrelationRule))]
        for name in rule:
            if name not in known:
                raise ValueError(f"scg: no option {name!r}; {nearest(name, known)}")
        self.layers = _check_layers(stages, layers)
        self.resize_roundtrip = resize_roundtrip
        self.rule = ops.CorrelationRule(**rule)

    def __call__(self, features: Features, maps: Tensor, image_size: Sequence[int]) -> Tensor:
        """Return refined maps [N, M, h, w] of ``maps`` [N, M, h', w'], resized to the features' h × w first."""
        correlated = [features[name] for name in self.layers]
        size = correlated[-1].shape[-2:]
        if maps.shape[-2:] != size:
            maps = functional.interpolate(maps, size, mode="bilinear", align_corners=False)
        elif self.resize_roundtrip:
            maps = ops.resize_roundtrip(maps, image_size)
        return ops.self_correlation_map(correlated, maps, self.rule)


class Refined(Method):
    """A trained method whose localization maps go through :class:`SelfCorrelation`; nothing else of it changes.

    Args:
        method: gives the maps; it runs its backbone once.
        **options: of :class:`SelfCorrelation`.

    Raises:
        ValueError: if an option does not fit the backbone, or the method has a ``localize`` of its own, which does not
            say what features its maps come from.
    """

    def __init__(self, method: Method, **options: Any):
        super().__init__()
        if type(method).localize is not Method.localize:
            raise ValueError(
                f"scg: {type(method).__name__} defines localize; its maps can be refined if it defines "
                "localize_features instead"
            )
        self.refine = SelfCorrelation(method.backbone.stages, **options)
        self.method = method
        self.classifies = method.classifies

    @property
    # The method's own, read-only: as an attribute it would be two submodules.
    def backbone(self) -> Backbone:  # type: ignore[override]
        return self.method.backbone

    @property
    def feature_stages(self) -> tuple[str, ...]:
        return (*self.method.feature_stages, *self.refine.layers)

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        return self.method.training_step(batch, state)

    def classify(self, image: Tensor) -> Tensor:
        return self.method.classify(image)

    def classify_features(self, features: Features) -> Tensor:
        return self.method.classify_features(features)

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        found = self.method.localize_features(features, size, label, topk, ranking=ranking)
        return replace(found, localization_map=self.refine(features, found.localization_map, size))

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        before = self.method.localize(image, label, 0).localization_map[:, 0]
        return self.method.evidence(image, label) | {"map before SCG": before}

    def param_groups(self) -> list[ParamGroup]:
        return self.method.param_groups()

    def batch_sampler(self, labels: Tensor, batch_size: int, seed: int) -> Iterable[list[int]] | None:
        return self.method.batch_sampler(labels, batch_size, seed)

    def export(self, batch: Batch) -> dict[str, Tensor]:
        return self.method.export(batch)

    def mask_maker(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        return self.method.mask_maker()


def _check_layers(stages: Sequence[StageInfo], layers: Sequence[str] | None) -> tuple[str, ...]:
    same = [stage.name for stage in stages if stage.stride == stages[-1].stride]
    if layers is None:
        return tuple(stage.name for stage in stages[-2:] if stage.name in same)
    strides = {stage.name: stage.stride for stage in stages}
    for name in layers:
        if name not in strides:
            raise ValueError(f"scg: layers: this backbone has the stages {', '.join(strides)}, not {name!r}")
        if name not in same:
            raise ValueError(
                f"scg: layers: {name!r} has stride {strides[name]}, the map has stride {stages[-1].stride}; "
                f"choose among {', '.join(same)}"
            )
    return tuple(layers)
