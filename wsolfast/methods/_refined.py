"""A trained method with a refinement behind it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method, wanted_classes
from wsolfast.refinements import IMAGE, FeatureError, LinearHead, Seen, display_name, get_refinement
from wsolfast.types import Batch, Features, Localization, ParamGroup, TrainState


class Refined(Method):
    """A trained method whose localization maps go through a refinement; nothing else of it changes.

    Its backbone runs once. Where the refinement takes gradients, the graph starts at the stage that it names: nothing
    is kept of what lies below.

    Args:
        method: gives what the refinement reads.
        name: of the refinement, one of :func:`wsolfast.refinements.list_refinements`.
        **options: of the refinement.

    Raises:
        KeyError: if there is no such refinement.
        ValueError: if an option does not fit the backbone, the method lacks what the refinement reads, gives boxes and
            no maps, or has a ``localize`` of its own, which does not say what features its maps come from.

    Localising raises :class:`wsolfast.refinements.FeatureError` for features that hold NaN or infinity.
    """

    def __init__(self, method: Method, name: str, **options: Any):
        super().__init__()
        title = type(method).__name__
        if method.gives_boxes:
            raise ValueError(f"{name}: {title} gives boxes and no maps, so there is nothing to refine; use none")
        if type(method).localize is not Method.localize:
            raise ValueError(
                f"{name}: {title} defines localize; its maps can be refined if it defines localize_features instead"
            )
        self.name = name
        self.refine = get_refinement(name)(method.backbone.stages, **options)
        self.needs = self.refine.needs(method.has_linear_head)
        if (self.needs.scores or self.needs.head) and not method.classifies:
            raise ValueError(f"{name}: {title} ranks no classes, and {name} starts from a class's score")
        if self.needs.head and not method.has_linear_head:
            raise ValueError(f"{name}: {title} has no linear classifier on pooled features, from which {name} starts")
        if self.needs.maps and not method.gives_maps:
            raise ValueError(f"{name}: {title} has no maps, from which {name} starts; use hires_cam")
        self._check_layer(method)
        self.method = method
        self.training = method.training
        self.classifies = method.classifies
        self.has_linear_head = method.has_linear_head

    def _check_layer(self, method: Method) -> None:
        names, start = [stage.name for stage in method.backbone.stages], self.needs.graph_from
        # Attention of a transformer is no stage.
        deepest = max(names.index(stage) for stage in method.feature_stages if stage in names)
        if start in names[deepest + 1 :]:
            raise ValueError(
                f"{self.name}: layer: {type(method).__name__} reads nothing above {names[deepest]!r}, not {start!r}"
            )

    @property
    # The method's own, read-only: as an attribute it would be two submodules.
    def backbone(self) -> Backbone:  # type: ignore[override]
        return self.method.backbone

    @property
    def map_note(self) -> str:
        return self.method.map_note

    @property
    def feature_stages(self) -> tuple[str, ...]:
        return (*self.method.feature_stages, *self.needs.stages)

    def features(self, image: Tensor, stages: Iterable[str] = ()) -> dict[str, Tensor]:
        wanted, start = (*self.needs.stages, *stages), self.needs.graph_from
        if start is None:
            return self.method.features(image, wanted)
        with self._recording():
            # An inference tensor cannot be saved for a backward pass.
            image = image.clone() if image.is_inference() else image
            if start == IMAGE:
                leaf = (image if image.is_floating_point() else image / 255).detach().requires_grad_()
                return {IMAGE: leaf} | self.method.features(leaf, wanted)
            found = self.backbone.features_with_graph(image, start)
        return {name: found[name] for name in (*self.method.feature_stages, *wanted, start)}

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        return self.method.training_step(batch, state)

    def classify(self, image: Tensor) -> Tensor:
        return self.method.classify(image)

    def classify_features(self, features: Features) -> Tensor:
        return self.method.classify_features(features)

    def linear_head(self, features: Features) -> LinearHead:
        return self.method.linear_head(features)

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Localise as :meth:`Method.localize_features` does, with refined maps.

        Args:
            features: what :meth:`features` returned.
            size, label, topk, ranking: as for :meth:`Method.localize_features`; ``ranking`` also chooses the predicted
                classes.

        Raises:
            FeatureError: if features or gradients hold NaN or infinity; the message names the stage.
        """
        with self._recording():
            seen = self._see(features, size, label, topk, ranking)
            maps = self.refine(seen).detach()
        if not maps.isfinite().all():
            raise FeatureError(f"{self.name}: {self._not_finite(seen)}; there is no map of such features")
        logits = None if seen.logits is None else seen.logits.detach()
        return Localization(logits, seen.classes, maps.expand(-1, seen.classes.shape[1], -1, -1))

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        if not self.method.gives_maps:
            return self.method.evidence(image, label)
        before = self.method.localize(image, label, 0).localization_map
        assert before is not None  # of a method that gives boxes nothing is refined
        return self.method.evidence(image, label) | {f"map before {display_name(self.name)}": before[:, 0]}

    def param_groups(self) -> list[ParamGroup]:
        return self.method.param_groups()

    def batch_sampler(self, labels: Tensor, batch_size: int, seed: int) -> Iterable[list[int]] | None:
        return self.method.batch_sampler(labels, batch_size, seed)

    def export(self, batch: Batch) -> dict[str, Tensor]:
        return self.method.export(batch)

    def mask_maker(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        return self.method.mask_maker()

    def box_maker(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        return self.method.box_maker()

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Record a graph of what runs inside if the refinement asks for one; else change nothing."""
        if self.needs.graph_from is None:
            yield
            return
        if self.training:
            # Images of a batch would share the gradients of its statistics.
            raise ValueError(f"{self.name}: gradients of single images need evaluation mode; call .eval() first")
        with torch.inference_mode(False), torch.enable_grad(), self.refine.watching():
            yield

    def _see(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, ranking: Tensor | None
    ) -> Seen:
        head = self.method.linear_head(features) if self.needs.head else None
        # A method that ranks no classes says by its maps whose they are.
        if self.needs.maps or not self.method.classifies:
            found = self.method.localize_features(features, size, label, topk, ranking=ranking)
            logits, classes, maps = found.logits, found.classes, found.localization_map
        else:
            logits = self.method.classify_features(features) if head is None else head.logits()
            classes, maps = wanted_classes(logits if ranking is None else ranking, label, topk), None
        return Seen(size, features, classes, logits, logits if ranking is None else ranking, maps, head)

    def _not_finite(self, seen: Seen) -> str:
        """Name what holds NaN or infinity, the shallowest stage of several."""
        shallow_first = (IMAGE, *(stage.name for stage in self.backbone.stages))
        named = {name: seen.features[name] for name in shallow_first if name in seen.features}
        named |= {} if seen.head is None else {"the classifier": seen.head.features}
        bad = [name for name, values in named.items() if not values.isfinite().all()]
        return f"features of {bad[0]} hold NaN or infinity" if bad else "gradients hold NaN or infinity"
