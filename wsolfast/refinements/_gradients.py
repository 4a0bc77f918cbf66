"""Maps from the activations of a layer and the gradients of a class's logit there."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.backbones import StageInfo
from wsolfast.refinements._base import FeatureError, Needs, Refinement, Seen, check_stage, project


class GradientMap(Refinement):
    """A map of a class from the features :math:`A` of a layer and the gradient :math:`g` of the class's logit there.

    Where the layer is what a linear classifier pools, the gradient is its weight times the share of a position in the
    pool, and no backward pass runs. Elsewhere one backward pass per class, for all images at once, goes down to it.

    Args:
        stages: of the backbone.
        layer: name of the stage; None for what the method's linear classifier reads, or for the last stage of a method
            without one.

    Raises:
        ValueError: if there is no such stage.
    """

    def __init__(self, stages: Sequence[StageInfo], *, layer: str | None = None):
        if layer is not None:
            check_stage(type(self).__module__.rpartition(".")[2], "layer", layer, stages)
        self.layer, self.last = layer, stages[-1].name

    def needs(self, has_head: bool) -> Needs:
        if self.layer is None and has_head:
            return Needs(head=True, scores=True)
        return Needs(scores=True, graph_from=self.layer or self.last)

    def __call__(self, seen: Seen) -> Tensor:
        head = seen.head
        if head is None:
            stage = self.layer or self.last
            return self.maps(seen.features[stage], gradients_of(seen, stage), scores_of(seen))
        return self.maps(head.features, head.gradients(seen.classes), scores_of(seen))

    @torch.no_grad()
    def maps(self, features: Tensor, gradients: Iterable[Tensor], scores: Iterable[Tensor]) -> Tensor:
        """Return maps [N, M, h, w] in [0, 1] of the features of a layer and of gradients there.

        Args:
            features (Tensor[N, C, h, w]): of the layer.
            gradients: Tensor[N, C, h or 1, w or 1] of every class in turn, as ``of_class`` takes them.
            scores: Tensor[N] of every class in turn, its logits.
        """
        # Three digits, which autocast would leave, are too few for sums over channels that nearly cancel.
        with torch.autocast(features.device.type, enabled=False):
            activations = as_float(features)
            maps = [
                self.of_class(activations, as_float(gradient), as_float(score))
                for gradient, score in zip(gradients, scores, strict=True)
            ]
        if not maps:
            return activations.new_zeros(len(features), 0, *features.shape[2:])
        return ops.min_max_normalize(torch.stack(maps, 1))

    def of_class(self, features: Tensor, gradient: Tensor, score: Tensor) -> Tensor:
        """Return the map [N, h, w] of a class, before it is scaled.

        Args:
            features (Tensor[N, C, h, w]): A, at least float32.
            gradient (Tensor[N, C, h, w] or Tensor[N, C, 1, 1]): g; one that is the same everywhere is given once.
            score (Tensor[N]): the logit of the class.
        """
        raise NotImplementedError


def scores_of(seen: Seen) -> tuple[Tensor, ...]:
    """Return the logits [N] of the classes whose maps are wanted, one class of every image after another.

    Args:
        seen: has the logits and the classes.
    """
    assert seen.logits is not None
    return seen.logits.gather(1, seen.classes).unbind(1)


def gradients_of(seen: Seen, stage: str, *, keep_graph: bool = True) -> Iterator[Tensor]:
    """Yield the gradients [N, C, h, w] of the classes' logits at a stage, one class of every image after another.

    Images do not interact, so that one backward pass serves all of them.

    Args:
        seen: has the logits, the classes and the features.
        stage: name of the features.
        keep_graph: others may take gradients of the same features; else the last backward pass lets go of the graph.

    Args:
        seen: with logits whose graph starts at the stage.
        stage: name of the stage.

    Raises:
        FeatureError: if the logits do not depend on the stage.
    """
    with torch.enable_grad():
        scores = scores_of(seen)
    for number, score in enumerate(scores, 1):
        gradient = None
        if score.requires_grad:
            ones, kept = torch.ones_like(score), keep_graph or number < len(scores)
            (gradient,) = torch.autograd.grad(score, seen.features[stage], ones, retain_graph=kept, allow_unused=True)
        if gradient is None:
            raise FeatureError(f"the class scores do not depend on {stage!r}: they have no gradient there")
        yield gradient


def weighted_sum(features: Tensor, weight: Tensor) -> Tensor:
    """Return the sum over channels [N, h, w] of ``features`` [N, C, h, w] times ``weight`` [N, C, h or 1, w or 1]."""
    if weight.shape[2:] == (1, 1):
        return project(weight.flatten(2).mT, features)[:, 0]
    # Einsum would copy both into another order first.
    return (features * weight).sum(1)


def as_float(values: Tensor) -> Tensor:
    """Return ``values`` in at least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
