"""The contract between a refinement and the method that it stands behind."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast import ops
from wsolfast._choices import check_choices, check_types
from wsolfast.backbones import StageInfo
from wsolfast.types import Features

# In place of a backbone stage: gradients are wanted of the image itself.
IMAGE = "image"


class FeatureError(ValueError):
    """Features or gradients of which there is no map; the command line exits with ``exit_code``."""

    exit_code = 1


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier on pooled features: class maps are weight @ features + bias, logits are their means.

    Attributes:
        features (Tensor[N, C, h, w]): what is pooled.
        weight (Tensor[K, C]): of the classifier.
        bias (Tensor[K]): of the classifier.
        relu_maps: negative values of a class map count as zero in its mean.
        tap_threshold: of thresholded average pooling (:func:`thresholded_mean`), by which the logits are made of the
            features; None for the plain mean.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor
    relu_maps: bool = False
    tap_threshold: float | None = None

    def logits(self) -> Tensor:
        """Return logits [N, K]."""
        if self.tap_threshold is not None:
            return functional.linear(thresholded_mean(self.features, self.tap_threshold), self.weight, self.bias)
        return ops.class_head_pool(self.features.to(self.weight.dtype), self.weight, self.bias, relu=self.relu_maps)

    def class_maps(self, classes: Tensor) -> Tensor:
        """Return the class maps [N, M, h, w] of ``classes`` [N, M], before any ReLU."""
        maps = project(self.weight[classes], self.features.to(self.weight.dtype))
        return maps + self.bias[classes][:, :, None, None]

    def gradients(self, classes: Tensor) -> Iterator[Tensor]:
        """Yield the gradients of the logits of ``classes`` [N, M] at the features, one class of every image at a time.

        Each is a Tensor[N, C, h, w], or [N, C, 1, 1] where it is the same at every position.
        """
        positions = self.features.shape[2] * self.features.shape[3]
        share: Tensor | float = 1 / positions if positions else 0.0
        if self.tap_threshold is not None:
            counted = activated(self.features, self.tap_threshold).to(self.features.dtype)
            share = counted / counted.sum((2, 3), keepdim=True).clamp(min=1)
        for of_class in classes.unbind(1):
            weight = self.weight[of_class][:, :, None, None] * share
            yield weight * (self.class_maps(of_class[:, None]) > 0) if self.relu_maps else weight


def activated(features: Tensor, threshold: float) -> Tensor:
    """Return where ``features`` [N, C, h, w] exceed ``threshold`` times the maximum of their channel, bool."""
    return features > threshold * features.amax((2, 3), keepdim=True)


def thresholded_mean(features: Tensor, threshold: float) -> Tensor:
    r"""Return the mean of each channel over the positions where it is activated, [N, C].

    .. math:: \frac{1}{\max(1, |A_c|)} \sum_{p \in A_c} f_{cp}, \quad A_c = \{p : f_{cp} > \theta \max_q f_{cq}\}

    Thresholded average pooling (TAP) of Bae et al., ECCV 2020. No gradient passes through the choice of positions.

    Args:
        features (Tensor[N, C, h, w]): floating point.
        threshold: θ; at 0 zeros still do not count.
    """
    counted = activated(features.detach(), threshold)
    return torch.where(counted, features, 0).sum((2, 3)) / counted.sum((2, 3)).clamp(min=1)


@dataclass(frozen=True)
class Seen:
    """A batch of images as a trained method saw it; what the refinement does not need may be None.

    Attributes:
        size: (H, W) of the images.
        features: Tensor[N, C, h, w] of backbone stages, by name.
        classes (Tensor[N, M]): int64, the classes whose maps are wanted.
        logits (Tensor[N, K]): of all classes; None from a method that ranks none.
        ranking (Tensor[N, K]): scores by which a combination ranks all classes: those of another view of the images if
            there is one, else ``logits``.
        maps (Tensor[N, M, h, w]): the method's own maps in [0, 1].
        head: the method's linear classifier and what it reads.

    If the refinement asks for a graph, that of ``logits`` starts at ``features`` of the stage it names.
    """

    size: Sequence[int]
    features: Features
    classes: Tensor
    logits: Tensor | None = None
    ranking: Tensor | None = None
    maps: Tensor | None = None
    head: LinearHead | None = None


@dataclass(frozen=True)
class Needs:
    """The parts of a method that a refinement reads.

    Attributes:
        stages: names of backbone stages, besides the method's own.
        maps: the method's own maps.
        head: its linear classifier on pooled features.
        scores: its logits.
        graph_from: the backbone stage, or :data:`IMAGE`, at which the graph of the logits starts; None for no graph.
    """

    stages: tuple[str, ...] = ()
    maps: bool = False
    head: bool = False
    scores: bool = False
    graph_from: str | None = None


class Refinement:
    """Better maps of a trained method, without training.

    A subclass takes ``(stages, *, options)``: the stages of the backbone that it will see, and as keywords what a
    recipe may say in ``[evaluate.<name>]``. Values of another type than the annotation's, and where that is a
    ``Literal``, those that it does not list, are refused before the constructor runs.
    """

    def __new__(cls, *args: Any, **options: Any) -> Self:
        name = cls.__module__.rpartition(".")[2]
        check_choices(name, cls.__init__, options)
        check_types(cls.__init__, options, where=name)
        return super().__new__(cls)

    @classmethod
    def more_options(cls) -> list[str]:
        """Return the names of options that the constructor takes as ``**options``."""
        return []

    def needs(self, has_head: bool) -> Needs:
        """Return what the refinement reads of a method.

        Args:
            has_head: the method has a linear classifier on pooled features. One that is asked for all the same makes
                the refinement impossible.
        """
        raise NotImplementedError

    def watching(self) -> AbstractContextManager:
        """Return the context in which the network runs wherever its graph is recorded."""
        return nullcontext()

    def __call__(self, seen: Seen) -> Tensor:
        """Return maps [N, M, h, w] in [0, 1] of the classes that ``seen`` names; M may be 1 for a map that serves all.

        The size h × w is the refinement's own. A map that is constant is zero, one that cannot be computed is NaN.
        """
        raise NotImplementedError


def check_stage(name: str, option: str, stage: str, stages: Iterable[StageInfo]) -> None:
    """Check that ``stage`` is one of ``stages``.

    Args:
        name: of the refinement.
        option: that names the stage.

    Raises:
        ValueError: if it is none of them; the message names those that there are.
    """
    known = [info.name for info in stages]
    if stage not in known:
        raise ValueError(f"{name}: {option}: this backbone has the stages {', '.join(known)}, not {stage!r}")


def project(vectors: Tensor, features: Tensor) -> Tensor:
    """Return maps [N, M, h, w] of ``vectors`` [N, M, C] on ``features`` [N, C, h, w]."""
    return torch.bmm(vectors, features.flatten(2)).unflatten(2, features.shape[2:])
