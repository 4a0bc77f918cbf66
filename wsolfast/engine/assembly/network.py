"""The networks of an evaluation: who gives the maps, who ranks the classes, and what both say of a batch."""

import dataclasses
import functools
import itertools
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from wsolfast import data
from wsolfast.backbones import Backbone
from wsolfast.engine.assembly.build import build_method, choose_device, find_weights, refine
from wsolfast.engine.assembly.checkpoint import load_weights, seed_everything
from wsolfast.engine.assembly.stage_refs import StageRef, classifier_of, localizer_of
from wsolfast.engine.run.errors import MissingError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.methods import Method
from wsolfast.recipe import Recipe, RecipeError


def load_method(run: RunFolder, ref: StageRef, num_classes: int) -> Method:
    """A stage's method with the weights that it ended with, or as it starts if nothing is trained.

    Args:
        run: the run at hand; a stage of another run has its own.

    Raises:
        MissingError: if training is not finished.
        RecipeError: if another run's classifier knows other classes.
    """
    recipe, stage, run = ref.recipe, ref.stage, ref.run or run
    known = stage.num_classes or len(run.class_names())
    if ref.run is not None and known != num_classes:
        raise RecipeError(f"evaluate.classifier: {run.path} knows {known} classes, the data set has {num_classes}")
    weights = run.weights_path(stage.name)
    if not weights.is_file() and stage.epochs > 0:
        raise MissingError(f"{weights}: missing, the run is not finished; wsolfast train --resume {run.path}")
    seed_everything(recipe.seed)
    method = build_method(recipe, stage, num_classes, pretrained=not weights.is_file())
    if weights.is_file():
        load_weights(weights, method)
    return method


def load_localizer(run: RunFolder, recipe: Recipe, num_classes: int) -> Method:
    """:func:`load_method` of the stage that localises, its maps refined where ``recipe.evaluate.post`` asks for it."""
    return refine(load_method(run, localizer_of(recipe), num_classes), recipe.evaluate)


class Network:
    """The localiser and the classifier of a recipe, built when maps are first needed: reused maps cost no weights."""

    def __init__(self, run: RunFolder, recipe: Recipe, num_classes: int):
        self.run, self.recipe, self.num_classes = run, recipe, num_classes
        self.device = choose_device(recipe.runtime.device)
        self.localizer, self.classifier = localizer_of(recipe), classifier_of(recipe)

    @cached_property
    def predictor(self) -> "Predictor":
        """What both say of a batch, as the recipe's evaluation wants it."""
        spec, runtime = self.recipe.evaluate, self.recipe.runtime
        localizer = load_localizer(self.run, self.recipe, self.num_classes)
        classifier = None if self.classifier is None else load_method(self.run, self.classifier, self.num_classes)
        return Predictor(
            localizer,
            classifier,
            device=self.device,
            crop=(self.classifier or self.localizer).crop if spec.ten_crop else None,
            topk=max(5, spec.topk),
            amp=runtime.amp,
            channels_last=runtime.channels_last,
            compiled=runtime.compile,
            singly=runtime.deterministic,
        )

    @property
    def classifier_name(self) -> str:
        """The stage that ranks the classes, or the run it is taken from."""
        ref = self.classifier or self.localizer
        return ref.stage.name if ref.run is None else str(ref.run.path)

    @property
    def known_classes(self) -> int:
        """How many classes can be told apart."""
        return (self.classifier or self.localizer).stage.num_classes or self.num_classes

    def identity(self) -> list[object]:
        """What the outputs depend on."""
        parts = [self._identity_of(self.localizer)]
        parts += [] if self.classifier is None else [self._identity_of(self.classifier)]
        spec = self.recipe.evaluate
        runtime = self.recipe.runtime
        return [*itertools.chain(*parts), runtime.amp, runtime.deterministic, spec.post, spec.scg]

    def _identity_of(self, ref: StageRef) -> list[object]:
        stage = ref.stage
        weights = (ref.run or self.run).weights_path(stage.name)
        backbone = Path(find_weights(stage.backbone.weights, self.recipe.data.root))
        given = weights if weights.is_file() else backbone if backbone.is_file() else stage.backbone.weights
        options = dataclasses.asdict(stage.backbone) | {"weights": ""}
        return [given, stage.method, stage.model, options, ref.resize, ref.crop, ref.recipe.seed]


class Predictor:
    """Classifies and localises a batch of images.

    The networks become those of evaluation for good: batch norms of their backbones are folded.

    Args:
        method: gives the maps.
        classifier: ranks the classes by the second view, which the data set must deliver; the method itself if None.
        device: where both run.
        crop: side of the ten crops of the second view whose mean probabilities rank the classes; None ranks by the
            second view itself, or by the localisation forward if the data set delivers none.
        topk: how many classes are kept.
        amp: "bf16" runs the networks in bfloat16; maps are kept as float32 all the same.
        channels_last: the memory layout that the networks read.
        compiled: the backbones go through torch.compile; they then want batches of one size.
        singly: every image goes through the networks alone, so that its outputs do not depend on the size of batches,
            by which convolutions choose their order of summation.
    """

    def __init__(
        self,
        method: Method,
        classifier: Method | None = None,
        *,
        device: torch.device,
        crop: int | None = None,
        topk: int = 5,
        amp: str = "none",
        channels_last: bool = False,
        compiled: bool = False,
        singly: bool = False,
    ):
        self.method = method.eval().to(device)
        self.classifier = method if classifier is None else classifier.eval().to(device)
        self.device, self.crop, self.topk, self.amp = device, crop, topk, amp
        self.compiled, self.singly = compiled, singly
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        for backbone in self.backbones:
            backbone.fold_batch_norms()
            if compiled:
                # Not the module's own compile(): hooks, which read the clock, stay outside.
                backbone.forward = torch.compile(backbone.forward, dynamic=False)  # type: ignore[method-assign]

    @property
    def backbones(self) -> list[Backbone]:
        """Those of both networks."""
        networks = (self.method, self.classifier)
        return list({id(network): network.backbone for network in networks if hasattr(network, "backbone")}.values())

    def __call__(self, image: Tensor, wide: Tensor | None, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps, classes and scores as :class:`wsolfast.engine.evaluation.score_maps.MapBatch` holds them.

        Args:
            image (Tensor[N, 3, H, W]): uint8, what the localiser sees.
            wide (Tensor[N, 3, H', W']): uint8, the second view.
            label (Tensor[N]): whose map is wanted.
        """
        if not self.singly:
            return self._predict(image, wide, label)
        wides = [None] * len(image) if wide is None else wide.split(1)
        parts = [self._predict(*views) for views in zip(image.split(1), wides, label.split(1), strict=True)]
        maps, classes, scores = (torch.cat(found) for found in zip(*parts, strict=True))
        return maps, classes, scores

    def _predict(self, image: Tensor, wide: Tensor | None, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp == "bf16"):
            probability: Tensor | None = None
            if wide is not None:
                crops = [wide] if self.crop is None else data.ten_crop(wide, self.crop).unbind(1)
                views = (self.classifier.classify(self._laid_out(view)).float().softmax(1) for view in crops)
                probability = functools.reduce(torch.add, views) / len(crops)
            found = self.method.localize(self._laid_out(image), label=label, topk=0, ranking=probability)
            if probability is None:
                assert found.logits is not None  # a method that ranks no classes comes with a classifier
                probability = found.logits.float().softmax(1)
            best = probability.topk(min(self.topk, probability.shape[1]), dim=1)
            return found.localization_map[:, 0].float(), best.indices, best.values

    def _laid_out(self, image: Tensor) -> Tensor:
        return image.contiguous(memory_format=self.layout)
