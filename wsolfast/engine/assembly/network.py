"""The networks of a recipe: one gives the maps or boxes, the same or another one ranks the classes."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from wsolfast.engine.assembly.build import build_method, choose_device, refine
from wsolfast.engine.assembly.checkpoint import load_start, load_weights, seed_everything
from wsolfast.engine.assembly.cuda_graph import choose_cuda_graphs
from wsolfast.engine.assembly.precision import choose_amp
from wsolfast.engine.assembly.predictor import Predictor
from wsolfast.engine.assembly.preflight import check_networks
from wsolfast.engine.assembly.stage_refs import StageRef, classifier_of, gives_boxes, localizer_of
from wsolfast.engine.assembly.weights import find_weights
from wsolfast.engine.run.errors import MissingError
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.methods import Method
from wsolfast.recipe import Recipe, RecipeError, StageSpec


def load_method(run: RunFolder, ref: StageRef, num_classes: int) -> Method:
    """Return a stage's method with the weights that it ended with, or as it starts if nothing is trained.

    Args:
        run: the run at hand; a stage of another run has its own.

    Raises:
        MissingError: if training is not finished.
        RecipeError: if another run's classifier knows other classes.
    """
    recipe, stage, own, run = ref.recipe, ref.stage, run.class_names(), ref.run or run
    known = stage.num_classes or len(run.class_names())
    if ref.run is not None and known != num_classes:
        raise RecipeError(f"evaluate.classifier: {run.path} knows {known} classes, the data set has {num_classes}")
    if stage.epochs and own and run.class_names() and run.class_names() != own:
        raise RecipeError(f"evaluate.classifier: {run.path} has other classes, or the same ones in another order")
    weights = ref.weights_in(run)
    if stage.takes_best and not weights.is_file() and run.weights_path(stage.name).is_file():
        raise MissingError(
            f"{weights}: missing, the stage was trained without [stage.validate]; "
            f"set stage.{stage.name}.validate.weights=last"
        )
    if not weights.is_file() and stage.epochs > 0:
        raise MissingError(f"{weights}: missing, the run is not finished; wsolfast train --resume {run.path}")
    seed_everything(recipe.seed)
    method = build_method(recipe, stage, num_classes, pretrained=not weights.is_file())
    if weights.is_file():
        load_weights(weights, method)
    else:
        load_start(run, stage, method)
    method.class_names = run.class_names()
    return method


def load_localizer(run: RunFolder, recipe: Recipe, num_classes: int) -> Method:
    """Return the method of the stage that localises, its maps refined if ``recipe.evaluate.post`` asks for it.

    Args and errors are those of :func:`load_method`.
    """
    return refine(load_method(run, localizer_of(recipe), num_classes), recipe.evaluate)


def give_networks(run: RunFolder, stage: StageSpec, method: Method, num_classes: int, device: torch.device) -> None:
    """Give a method the networks that it trains with: frozen, in evaluation mode, as earlier stages left them.

    Args:
        run: at hand.
        stage: of the method.
        method: takes them.
        num_classes: of the data set.
        device: where they lie.

    Raises:
        RecipeError: if a network is missing, too much, or none that the method can use.
        MissingError: if an earlier stage left no weights.
    """
    recipe = run.recipe
    check_networks(recipe, stage, method, num_classes)
    layout = torch.channels_last if recipe.runtime.channels_last else torch.contiguous_format
    dtype = method.backbone.input_mean.dtype
    for name, source in stage.networks.items():
        (earlier,) = [one for one in recipe.stage if one.name == source]
        network = load_method(run, StageRef(recipe, earlier), num_classes).eval().requires_grad_(False)
        network.backbone.fold_batch_norms()
        # torch's own annotation leaves memory_format out.
        network = network.to(device, dtype, memory_format=layout)  # type: ignore[call-overload]
        if recipe.runtime.compile:
            network.backbone.compile()
        try:
            method.take_network(name, network)
        except ValueError as error:
            raise RecipeError(f"stage.{stage.name}.networks.{name}: {error}") from error


class Network:
    """The localiser and the classifier of a recipe, built when maps are first needed: reused maps cost no weights.

    Args:
        run: has the weights.
        recipe: says which stages these are, and how they run.
        num_classes: of the data set.
        log: is given a warning where the precision that is asked for is slow.

    Attributes:
        amp: ``"bf16"``, ``"fp16"`` or ``"none"``, what ``runtime.amp`` comes to on the device.
        graphs: ``"off"``, ``"auto"`` or ``"on"``, what ``runtime.cuda_graphs`` comes to there.

    Raises:
        BackendError: if this machine does not have the device, or the device no CUDA graphs that are asked for.
    """

    def __init__(
        self, run: RunFolder, recipe: Recipe, num_classes: int, log: Callable[[str], None] = lambda text: None
    ):
        self.run, self.recipe, self.num_classes = run, recipe, num_classes
        self.device = choose_device(recipe.runtime.device)
        self.amp = choose_amp(recipe.runtime.amp, self.device, log)
        self.graphs, self._log = choose_cuda_graphs(recipe.runtime.cuda_graphs or "off", self.device), log
        self.localizer, self.classifier = localizer_of(recipe), classifier_of(recipe)

    @cached_property
    def predictor(self) -> Predictor:
        """Both networks, run as the recipe's evaluation wants it."""
        spec, runtime = self.recipe.evaluate, self.recipe.runtime
        localizer = load_localizer(self.run, self.recipe, self.num_classes)
        classifier = None if self.classifier is None else load_method(self.run, self.classifier, self.num_classes)
        return Predictor(
            localizer,
            classifier,
            device=self.device,
            crop=(self.classifier or self.localizer).crop if spec.ten_crop else None,
            topk=max(5, spec.topk),
            amp=self.amp,
            channels_last=runtime.channels_last,
            compiled=runtime.compile,
            singly=runtime.deterministic,
            graphs=self.graphs,
            log=self._log,
        )

    @property
    def gives_boxes(self) -> bool:
        """True if the localiser answers with boxes instead of maps."""
        return gives_boxes(self.localizer.stage)

    @property
    def classifier_name(self) -> str:
        """Name of the stage that ranks the classes, or path of the run that it is taken from."""
        ref = self.classifier or self.localizer
        return ref.stage.name if ref.run is None else str(ref.run.path)

    @property
    def known_classes(self) -> int:
        """Number of classes that can be told apart."""
        return (self.classifier or self.localizer).stage.num_classes or self.num_classes

    def identity(self) -> list[object]:
        """Return everything that the outputs depend on."""
        parts = [self._identity_of(self.localizer)]
        parts += [] if self.classifier is None else [self._identity_of(self.classifier)]
        spec = self.recipe.evaluate
        runtime = self.recipe.runtime
        return [
            *itertools.chain(*parts),
            self.amp,
            runtime.deterministic,
            spec.post,
            spec.refinements.get(spec.post, {}),
        ]

    def _identity_of(self, ref: StageRef) -> list[object]:
        stage = ref.stage
        weights = ref.weights_in(self.run)
        backbone = Path(find_weights(stage.backbone.weights, self.recipe.data.root))
        given = weights if weights.is_file() else backbone if backbone.is_file() else stage.backbone.weights
        options = dataclasses.asdict(stage.backbone) | {"weights": ""}
        del options["drop_path"]  # of training alone
        return [given, stage.method, stage.model, options, ref.resize, ref.crop, ref.recipe.seed]
