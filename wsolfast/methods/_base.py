"""The contract between a method and the engine."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast._choices import check_choices
from wsolfast.backbones import Backbone
from wsolfast.refinements import LinearHead
from wsolfast.types import Batch, Features, Localization, ParamGroup, TrainState


class MethodError(ValueError):
    """Images or classes that a method cannot work with; the command line exits with ``exit_code``."""

    exit_code = 1


class Method(nn.Module):
    """A WSOL method: ``backbone`` (a :class:`wsolfast.backbones.Backbone`) plus whatever it trains on top.

    A subclass takes ``(backbone, num_classes, **options)``; its options are the recipe's ``[stage.model]`` table. Where
    an option is annotated as ``Literal``, values that are not listed are refused before the constructor runs.
    """

    backbone: Backbone
    # False for a map of no class: ``classify`` is missing, ``localize`` gives no logits, another network ranks classes.
    classifies: bool = True
    # True for a method that answers with boxes instead of maps: nothing is cut, so no threshold is chosen for it, and
    # no refinement fits behind it.
    gives_boxes: bool = False
    # False for a method whose maps a refinement makes, which ``localize`` then waits for.
    gives_maps: bool = True
    # The logits are pooled maps of a linear classifier, which ``linear_head`` gives.
    has_linear_head: bool = False
    # True for a method without a loss, which one pass over the training images fits: instead of ``training_step`` it
    # has ``fit_batch``, ``fit_class`` and ``keep_class``.
    fits: bool = False
    # What a stage takes over from the earlier one that its ``backbone.weights`` name.
    starts_with: tuple[str, ...] = ("backbone",)
    # How many levels above the classes it learns, which :meth:`set_parents` is given before training.
    upper_levels: int = 0
    # Of the classes, for messages; empty where nobody knows them.
    class_names: Sequence[str] = ()

    def __new__(cls, *args: Any, **options: Any) -> Self:
        check_choices(cls.__module__.rpartition(".")[2], cls.__init__, options)
        return super().__new__(cls)

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        """Return the losses of one batch: ``loss`` (scalar, differentiated) and ``loss_*`` parts (logged).

        A method that ranks classes adds ``accuracy``, see :func:`accuracy`. Whatever else it adds is logged, too, as
        its mean over the images.

        Args:
            batch: on the method's device.
            state: where training stands; also where random numbers come from.
        """
        raise NotImplementedError

    @property
    def looks(self) -> int:
        """Number of times that a fit sees the images of each class."""
        return 1

    def fit_batch(self, batch: Batch, sums: dict[str, Tensor], look: int) -> dict[str, Tensor]:
        """Add images to the sums of their class.

        The engine calls this class by class: in the order of their ids with all images of a class, as often as
        :attr:`looks` says, then with those of the next one. Each class is summed in one process. Sums that grow image
        by image therefore have the same bits for every size of batches and number of processes.

        Args:
            batch: whole images as evaluation sees them, all of one class, on the method's device.
            sums (dict of Tensor[...]): what this method returned for the images before, which may be changed in place;
                empty at first. Checkpoints hold them.
            look: 0-based, over the images of the class.

        Returns:
            The sums with these images, by any name.

        Raises:
            MethodError: if an image cannot be used; the message names it.
        """
        raise NotImplementedError

    def fit_class(self, sums: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Fit a class.

        Args:
            sums (dict of Tensor[...]): of all its images.

        Returns:
            A dict that :meth:`keep_class` is given, on the CPU, and remarks: what is odd about the class, in words
            that fit every class.
        """
        raise NotImplementedError

    def keep_class(self, label: int, found: dict[str, Tensor]) -> None:
        """Write what :meth:`fit_class` found of a class into the buffers; every process does so.

        Args:
            label: the class.
            found (dict of Tensor[...]): a row of each buffer, by its name.
        """
        raise NotImplementedError

    def set_parents(self, parents: Tensor) -> None:
        """Write the levels above the classes into a buffer, which checkpoints hold.

        Args:
            parents (Tensor[L, K]): int64, the number of each class's ancestor at each level, from the lowest level to
                the top.

        Raises:
            ValueError: if the method was built for other levels; the message starts with the option.
        """
        raise NotImplementedError

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks of earlier stages that training needs; one called ``classifier`` ranks classes."""
        return ()

    def take_network(self, name: str, network: "Method") -> None:
        """Keep a network that training needs, outside of this module: it belongs to no checkpoint.

        Args:
            name: one of :attr:`networks`.
            network: in evaluation mode, without gradients of its parameters, on this method's device.

        Raises:
            ValueError: if it is none that this method can use.
        """
        raise NotImplementedError

    @property
    def last_stage(self) -> str:
        """Name of the backbone's last stage, which feeds most heads."""
        return self.backbone.stages[-1].name

    @property
    def map_note(self) -> str:
        """Remark on the maps for people, in a few words after the method's name; empty for none."""
        return ""

    @property
    def feature_stages(self) -> tuple[str, ...]:
        """Names of the backbone stages that the method reads."""
        return (self.last_stage,)

    def features(self, image: Tensor, stages: Iterable[str] = ()) -> dict[str, Tensor]:
        """Run the backbone once.

        Args:
            image (Tensor[N, 3, H, W]): uint8, RGB.
            stages: names of further stages, which a refinement reads.

        Returns:
            Tensor[N, C, h, w] of each of :attr:`feature_stages` and of ``stages``, by name; no other stage is kept.
        """
        found = self.backbone(image)
        return {name: found[name] for name in (*self.feature_stages, *stages)}

    def classify_features(self, features: Features) -> Tensor:
        """Return logits [N, K] of what :meth:`features` returned."""
        raise NotImplementedError

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Return maps, or boxes with :attr:`gives_boxes`, for the label (if given), then for ``topk`` classes.

        Args:
            features: what :meth:`features` returned.
            size: (H, W) of the images.
            label (Tensor[N]): classes whose map comes first.
            topk: how many predicted classes get a map; 0 with a label gives the label's map only.
            ranking (Tensor[N, K]): scores of all classes by another view of the images, for a map that combines the
                classes by their rank; None ranks them by ``features``. Methods with a map per class ignore it.
        """
        raise NotImplementedError

    def linear_head(self, features: Features) -> LinearHead:
        """Return the linear classifier whose pooled class maps are the logits, for refinements that start from it.

        Only a method that sets :attr:`has_linear_head` has one.

        Args:
            features: what :meth:`features` returned.
        """
        raise NotImplementedError

    def classify(self, image: Tensor) -> Tensor:
        """Return logits [N, K] of an ``image`` batch [N, 3, H, W], without any map."""
        return self.classify_features(self.features(image))

    def localize(
        self, image: Tensor, label: Tensor | None = None, topk: int = 1, *, ranking: Tensor | None = None
    ) -> Localization:
        """Run :meth:`localize_features` on an ``image`` batch [N, 3, H, W], in one backbone pass.

        Args:
            image (Tensor[N, 3, H, W]): uint8, RGB.
            label, topk, ranking: as for :meth:`localize_features`.

        Returns:
            Logits, classes and maps, or boxes, of the images.
        """
        return self.localize_features(self.features(image), image.shape[-2:], label, topk, ranking=ranking)

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return what the map of ``label`` was made of, for people to look at: maps [N, h, w] in [0, 1] by name.

        Args:
            image, label: as for :meth:`localize`.
        """
        return {}

    def param_groups(self) -> list[ParamGroup]:
        """Return trainable parameters as ``{backbone,head}_{weight,bias}``; the recipe has a rate factor for each."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                owner = "backbone" if name.startswith("backbone.") else "head"
                groups.setdefault(f"{owner}_{'bias' if name.endswith('bias') else 'weight'}", []).append(parameter)
        return [ParamGroup(name, tuple(params)) for name, params in groups.items()]

    def batch_sampler(self, labels: Tensor, batch_size: int, seed: int) -> Iterable[list[int]] | None:
        """Return a batch sampler that the method insists on, or None for shuffled batches.

        Args:
            labels (Tensor[n]): int64, of every training image.
            batch_size: images per batch.
            seed: another one for every epoch.

        Raises:
            ValueError: if the method cannot make batches of that size.
        """
        return None

    def export(self, batch: Batch) -> dict[str, Tensor]:
        """Return what a later stage reads of each whole image of ``batch``; nothing for one-stage methods."""
        return {}

    def mask_maker(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        """Return the function from a map [h, w] that an earlier stage left of a whole image to its mask [H, W].

        What is returned runs in loader processes: it must be picklable and hold no parameter. The mask is then cropped
        and mirrored with the image.
        """
        return resize_map

    def box_maker(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        """Return the function from a box [4] that an earlier stage left of an image to the box that is trained on.

        It takes xyxy as shares of the image and the image's (width, height), and returns float64 xyxy in pixels of the
        image. Like that of :meth:`mask_maker` it runs in loader processes. The box is then cropped and mirrored with
        the image.
        """
        return scale_box


def scale_box(exported: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a box [4] given as shares of an image in pixels of its (width, height): float64."""
    return exported.double() * torch.tensor([*size, *size], dtype=torch.float64)


def accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Return the share of the images whose most likely class is their label; without a gradient."""
    return (logits.detach().argmax(1) == label).float().mean()


def wanted_classes(ranking: Tensor, label: Tensor | None, topk: int) -> Tensor:
    """Return the classes [N, M] to localise: the label if there is one, then the ``topk`` most likely."""
    predicted = ranking.topk(min(topk, ranking.shape[1]), dim=1).indices
    return predicted if label is None else torch.cat((label[:, None], predicted), dim=1)


def bias_of(conv: nn.Conv2d) -> Tensor:
    """Return the bias of a convolution that was built with one, which torch's annotations leave open."""
    assert conv.bias is not None
    return conv.bias


def resize_map(exported: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map [h, w] as float32 [H, W], resized bilinearly."""
    return functional.interpolate(exported[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
