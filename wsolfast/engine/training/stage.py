"""A stage of a recipe at work: its images, its network, its checkpoints, and the weights that it leaves."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from wsolfast.data import DataError
from wsolfast.engine.assembly.build import (
    build_method,
    check_float64,
    check_other_splits,
    memory_format,
    open_training_data,
)
from wsolfast.engine.assembly.checkpoint import load_start, load_weights, save_weights, seed_everything
from wsolfast.engine.assembly.network import give_networks
from wsolfast.engine.assembly.preflight import check_stages
from wsolfast.engine.run import distributed
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.signals import StopRequest
from wsolfast.engine.run.words import count, left_out
from wsolfast.engine.training import artefacts
from wsolfast.engine.training.checkpointer import Checkpointer
from wsolfast.methods import Method
from wsolfast.recipe import Recipe, RecipeError, dump_recipe


def recipe_hash(recipe: Recipe) -> str:
    """Return a name of what a checkpoint may be continued with: the recipe without its data's place and its runtime."""
    # Every decoder gives the same pixels.
    core = replace(recipe, runtime=type(recipe.runtime)(), data=replace(recipe.data, root=None, decoder=None))
    return hashlib.sha256(dump_recipe(core).encode()).hexdigest()


class StageWork:
    """A stage before its first step, or after its last checkpoint; a subclass does the work in ``train``.

    Args:
        run: has the recipe; checkpoints, logs and weights go there.
        index: of the stage in the recipe.
        device: where to work.
        amp: the precision, ``"bf16"``, ``"fp16"`` or ``"none"``.
        progress: where to show how far it is.
        stop: asks for a stop after the running step.

    Raises:
        RecipeError: if the stage cannot be built, or its checkpoint was written under another recipe.
        MissingError: if what it needs of an earlier stage, or every checkpoint, cannot be read.
        BackendError: if the method needs float64 and the device has none.
    """

    def __init__(
        self, run: RunFolder, index: int, device: torch.device, amp: str, progress: Progress, stop: StopRequest
    ):
        recipe, stage = run.recipe, run.recipe.stage[index]
        self.run, self.stage, self.device, self.amp = run, stage, device, amp
        self.progress, self.stop = progress, stop
        self.seed = recipe.seed + index
        self.dataset = open_training_data(recipe, stage, run.class_names())
        run.keep_class_names(self.dataset.class_names)
        seed_everything(self.seed)
        self.weights = run.weights_path(stage.name)
        self.identity = recipe_hash(recipe)
        self.checkpoints = Checkpointer(
            self.weights.parent, recipe.runtime, identity=self.identity, images=len(self.dataset)
        )
        self.saved = self.checkpoints.load(self._log)
        self.method = self._build(pretrained=self.saved is None)

    def check_later_stages(self) -> None:
        """Look at what is needed when this stage is done: the next ones, the refinement of maps, other splits.

        Raises:
            RecipeError: if something cannot be built.
            DataError: if a split is there and cannot be read.
        """
        check_stages(self.run.recipe, len(self.dataset.class_names), self.stage, self.method)
        check_other_splits(self.run.recipe, self.dataset.class_names)

    def train(self) -> None:
        """Work to the end and leave the weights.

        Raises:
            Interrupted: a signal asked for a stop; the checkpoint is written.
            RunError: something that cannot be gone on with; the message names it.
        """
        raise NotImplementedError

    def _build(self, pretrained: bool) -> Method:
        runtime, stage = self.run.recipe.runtime, self.stage
        method = build_method(self.run.recipe, stage, len(self.dataset.class_names), pretrained=pretrained)
        if pretrained:
            load_start(self.run, stage, method)
        if method.upper_levels:
            self._set_parents(method)
        if stage.sync_bn:
            try:
                distributed.synchronize_batch_norm(method, self.device)
            except ValueError as error:
                raise RecipeError(f"stage.{stage.name}.{error}") from None
        check_float64(method, self.device, f"stage.{stage.name}.method")
        layout = memory_format(runtime.channels_last, self.device)
        # torch's own annotation leaves memory_format out.
        method = method.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        if runtime.compile:
            method.backbone.compile()
        give_networks(self.run, stage, method, len(self.dataset.class_names), self.device)
        return method

    def _set_parents(self, method: Method) -> None:
        hierarchy, names = self.dataset.hierarchy, self.dataset.class_names
        if hierarchy is None:
            raise DataError(
                f"{self.stage.name}: {self.stage.method} learns {count(method.upper_levels, 'level')} above the "
                "classes, and the data says none: name data.options.hierarchy=cub or a CSV file below the data folder "
                "(class,family,order), or leave stage.model.level_sizes out"
            )
        try:
            method.set_parents(torch.from_numpy(hierarchy.parents(names)))
        except ValueError as error:
            raise RecipeError(f"stage.{self.stage.name}.model.{error}") from None

    def _log_start(self, amount: str, resumed: str) -> None:
        stage, processes = self.stage, distributed.world_size()
        self._log(
            f"{stage.name}: {stage.method} on {count(len(self.dataset), 'image')} "
            f"of {count(len(self.dataset.class_names), 'class', 'classes')}, {amount} on {self.device}"
            + (f", {self.amp}" if self.amp != "none" else "")
            + (f", {processes} processes" if processes > 1 else "")
            + (f", resumed at {resumed}" if resumed else "")
        )
        if self.method.backbone.load_report is not None:
            self._log(str(self.method.backbone.load_report))
        if self.dataset.skipped:
            self._log(left_out(len(self.dataset.skipped)))
        for message in self.dataset.skipped:
            self._log(f"skipped: {message}")
        for message in self.dataset.describe_cache():
            self._log(f"cache: {message}")

    @property
    def about(self) -> dict[str, str]:
        """Method, recipe and stage, for the header of a file of weights."""
        return {"method": self.stage.method, "recipe": self.run.recipe.name, "stage": self.stage.name}

    def _leave_weights(self) -> None:
        run, stage = self.run, self.stage
        last = self.method.state_dict()
        if stage.takes_best:
            last = {name: tensor.cpu().clone() for name, tensor in last.items()}
            load_weights(run.weights_path(stage.name, best=True), self.method)
        artefacts.save(
            run, stage, self.method, self.device, identity=self.identity, stop=self.stop, progress=self.progress
        )
        self._save_weights(self.weights, last)
        # What the first process wrote is there before anyone reads it.
        distributed.from_first(None)

    def _save_weights(self, file: Path, state: Mapping[str, Tensor]) -> None:
        save_weights(file, state, self.about)

    def _log(self, text: str) -> None:
        self.run.log(text)
        self.progress.log(text)
