"""SCG: Pan et al., "Unveiling the Potential of Structure Preserving for Weakly Supervised ...", CVPR 2021.

SPA's self-correlation guidance, inside SPA and behind any other method.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor
from torch.nn import functional

from wsolfast import ops
from wsolfast._nearest import nearest
from wsolfast.backbones import StageInfo
from wsolfast.refinements._base import Needs, Refinement, Seen, check_stage
from wsolfast.types import Features


class SelfCorrelation(Refinement):
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
        known = ["layers", "resize_roundtrip", *self.more_options()]
        for name in rule:
            if name not in known:
                raise ValueError(f"scg: no option {name!r}; {nearest(name, known)}")
        self.layers = _check_layers(stages, layers)
        self.resize_roundtrip = resize_roundtrip
        self.rule = ops.CorrelationRule(**rule)

    @classmethod
    def more_options(cls) -> list[str]:
        return [field.name for field in fields(ops.CorrelationRule)]

    def needs(self, has_head: bool) -> Needs:
        return Needs(stages=self.layers, maps=True)

    def __call__(self, seen: Seen) -> Tensor:
        assert seen.maps is not None
        return self.correlate(seen.features, seen.maps, seen.size)

    def correlate(self, features: Features, maps: Tensor, image_size: Sequence[int]) -> Tensor:
        """Return refined maps [N, M, h, w], of the features' size.

        Args:
            features: with the stages ``layers``, Tensor[N, C, h, w] each.
            maps (Tensor[N, M, h', w']): in [0, 1]; resized to h × w first.
            image_size: (H, W) of the images, for ``resize_roundtrip``.
        """
        correlated = [features[name] for name in self.layers]
        size = correlated[-1].shape[-2:]
        if maps.shape[-2:] != size:
            maps = functional.interpolate(maps, size, mode="bilinear", align_corners=False)
        elif self.resize_roundtrip:
            maps = ops.resize_roundtrip(maps, image_size)
        return ops.self_correlation_map(correlated, maps, self.rule)


def _check_layers(stages: Sequence[StageInfo], layers: Sequence[str] | None) -> tuple[str, ...]:
    same = [stage.name for stage in stages if stage.stride == stages[-1].stride]
    if layers is None:
        return tuple(stage.name for stage in stages[-2:] if stage.name in same)
    strides = {stage.name: stage.stride for stage in stages}
    for name in layers:
        check_stage("scg", "layers", name, stages)
        if name not in same:
            raise ValueError(
                f"scg: layers: {name!r} has stride {strides[name]}, the map has stride {stages[-1].stride}; "
                f"choose among {', '.join(same)}"
            )
    return tuple(layers)


NAME = "SCG"
REFINEMENT = SelfCorrelation
