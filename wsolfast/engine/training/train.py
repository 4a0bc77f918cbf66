"""Training: the stages of a recipe, one after the other, each resumable at any step."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from wsolfast.engine.assembly.build import (
    build_method,
    build_optimizer,
    check_other_splits,
    choose_device,
    count_workers,
    describe_device,
    open_training_data,
    rate_at,
)
from wsolfast.engine.assembly.checkpoint import save_weights, seed_everything
from wsolfast.engine.assembly.precision import choose_amp
from wsolfast.engine.assembly.preflight import check_recipe, check_stages
from wsolfast.engine.run import distributed
from wsolfast.engine.run.allocator import keep_freed_memory
from wsolfast.engine.run.determinism import deterministic_algorithms
from wsolfast.engine.run.environment import now
from wsolfast.engine.run.errors import Interrupted
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.signals import StopRequest
from wsolfast.engine.run.words import count, left_out
from wsolfast.engine.training import artefacts
from wsolfast.engine.training.checkpointer import Checkpointer
from wsolfast.engine.training.gradients import GradientAccumulator, StepResult, agree, gradient_norm
from wsolfast.engine.training.loading import load_parts
from wsolfast.engine.training.logs import EpochLog, NonFiniteSteps
from wsolfast.engine.training.order import DataOrder, TrainPosition
from wsolfast.methods import Method
from wsolfast.recipe import Recipe, RecipeError, dump_recipe
from wsolfast.types import Batch, TrainState, derive_seed


def train(run: RunFolder, progress: Progress | None = None) -> None:
    """Train every stage of the run's recipe that is not finished, from the last checkpoint if there is one.

    Several processes (see :func:`wsolfast.engine.run.distributed.processes`) share every batch of the recipe.

    Args:
        run: has the recipe; the weights go there.
        progress: where to show how far it is.

    Raises:
        Interrupted: a signal asked for a stop; the checkpoint is written.
        RunError: the loss or the gradient is not finite; the message names the step and its images.
        RecipeError: something in the recipe cannot be meant, or the checkpoint was written under another one. What was
            there before the start of a run is there again.
        DataError: a split cannot be read, the same.
    """
    progress = progress if progress and distributed.is_first() else Progress(quiet=True)
    keep_freed_memory()
    deterministic = deterministic_algorithms(run.recipe.runtime.deterministic)
    with run.starting(), run.lock(), StopRequest() as stop, deterministic:
        device = choose_device(run.recipe.runtime.device)
        check_recipe(run.recipe)
        artefacts.check_uses(run.recipe)
        finished = distributed.from_first([run.weights_path(stage.name).exists() for stage in run.recipe.stage])
        if all(finished):
            return
        amp = choose_amp(run.recipe.runtime.amp, device, progress.log)
        started = time.monotonic()
        run.update_environment(device=describe_device(device), amp=amp, processes=distributed.world_size())
        try:
            for index, done in enumerate(finished):
                if not done:
                    stage = StageTraining(run, index, device, amp, progress, stop)
                    stage.check_later_stages()
                    stage.train()
            run.update_environment(finished=now())
        finally:
            run.add_seconds(time.monotonic() - started)


def change_runtime(run: RunFolder, recipe: Recipe) -> None:
    """Let the run continue with ``recipe``, which may differ in ``runtime`` and ``data.root``.

    Raises:
        RecipeError: if it differs in anything else; the run's own recipe stays, as it does if training cannot start.
    """
    if recipe_hash(recipe) != recipe_hash(run.recipe):
        raise RecipeError(f"{run.path}: a run continues with its own recipe; only runtime.* and data.root may change")
    run.replace_recipe(recipe, until_kept=True)


def recipe_hash(recipe: Recipe) -> str:
    """Return a name of what a checkpoint may be continued with: the recipe without its data's place and its runtime."""
    # Every decoder gives the same pixels.
    core = replace(recipe, runtime=type(recipe.runtime)(), data=replace(recipe.data, root=None, decoder=None))
    return hashlib.sha256(dump_recipe(core).encode()).hexdigest()


class StageTraining:
    """Training of one stage, from its first step or its last checkpoint to its weights.

    Args:
        run: has the recipe; checkpoints, logs and weights go there.
        index: of the stage in the recipe.
        device: where to train.
        amp: the precision, ``"bf16"`` or ``"none"``.
        progress: where to show how far it is.
        stop: asks for a stop after the running step.

    Raises:
        RecipeError: if the stage cannot be built, or its checkpoint was written under another recipe.
        MissingError: if what it needs of an earlier stage, or every checkpoint, cannot be read.
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
        saved = self.checkpoints.load(self._log)
        self.method = self._build(pretrained=saved is None)
        where, fused = f"stage.{stage.name}.optim", recipe.runtime.fused_optimizer
        self.optimizer = build_optimizer(self.method, stage.optim, where, fused=fused)
        self.order = DataOrder(self.dataset.labels, stage, self.seed, self.method.batch_sampler)
        self.collate = artefacts.Collate(artefacts.load(run, stage), self.method.mask_maker())
        self.at = self.checkpoints.restore(saved, self.method, self.optimizer) if saved else TrainPosition()
        self.gradients = GradientAccumulator(self.method, device, recipe.runtime, amp)
        self.nonfinite = NonFiniteSteps(run, stage.name, self._log, self.at.step)

    def check_later_stages(self) -> None:
        """Look at what is needed when this stage is done: the next ones, the refinement of maps, other splits.

        Raises:
            RecipeError: if something cannot be built.
            DataError: if a split is there and cannot be read.
        """
        check_stages(self.run.recipe, len(self.dataset.class_names), self.stage, self.method)
        check_other_splits(self.run.recipe, self.dataset.class_names)

    def train(self) -> None:
        """Train to the end and leave the weights.

        Raises:
            Interrupted: a signal asked for a stop; the checkpoint is written.
            RunError: the loss or the gradient is not finite.
        """
        stage, at, steps_per_epoch = self.stage, self.at, self.order.steps_per_epoch
        first = at.step
        self._log_start()
        self._hold_images()
        self.method.train()
        with self.progress.task(stage.name, stage.epochs * steps_per_epoch, at.step) as advance:
            while at.epoch < stage.epochs:
                log = EpochLog(self.run, stage, steps_per_epoch)
                for indices, parts in self.remaining():
                    result = self.step(indices, parts)
                    if at.step == first:
                        self.run.keep()
                    advance(1, log.add(result, at, images=len(indices), rate=self._rate(at.step)))
                    at.advance(steps_per_epoch)
                    epoch_ends = at.step_in_epoch == 0
                    if epoch_ends:
                        self._log(log.summary(at.epoch))
                    if epoch_ends or result.save or result.stop:
                        self.checkpoints.save(at, self.method, self.optimizer)
                    if result.stop:
                        again = f"wsolfast train --resume {self.run.path}"
                        raise Interrupted(f"stopped at step {at.step}; continue with: {again}")
        self._leave_weights()

    def remaining(self) -> Iterator[tuple[list[int], list[Batch]]]:
        """Load what is left of the epoch: the indices of each batch, and this process's parts of it."""
        self.dataset.set_epoch(self.at.epoch)
        held = self.dataset.is_held
        return load_parts(
            self.dataset,
            self.order.remaining(self.at),
            self.collate,
            workers=0 if held else count_workers(self.run.recipe.runtime.workers),
            pin_memory=self.device.type == "cuda" and not held,
        )

    def step(self, indices: Sequence[int], parts: Sequence[Batch]) -> StepResult:
        """Take one step over the batch ``indices``, of which this process holds ``parts``.

        Where a loss or the gradient is not finite, parameters and buffers stay as they were.

        Raises:
            RunError: if such steps are more than the recipe allows.
        """
        at, stage = self.at, self.stage
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(at.step) * group["lr_factor"]
        # What a method draws depends on where training stands, and not on what was drawn before.
        seed_everything(derive_seed(f"{self.seed}/{at.step}/{distributed.rank()}"))
        buffers = [(buffer, buffer.clone()) for buffer in self.method.buffers()] if self.nonfinite.allowed else []
        steps = stage.epochs * self.order.steps_per_epoch
        state = TrainState(epoch=at.epoch, epochs=stage.epochs, step=at.step, steps=steps, seed=self.seed)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.gradients.accumulate(parts, len(indices), state)
        save = self.checkpoints.is_due(at.step + 1)
        result = agree(losses, gradient_norm(self.optimizer), stop=self.stop.requested, save=save)
        if result.is_finite:
            self.optimizer.step()
        else:
            self.nonfinite.add(result, at, [self.dataset.image_ids[index] for index in indices])
            for buffer, before in buffers:
                buffer.copy_(before)
        return result

    def _rate(self, step: int) -> float:
        factor = rate_at(self.stage.schedule, step, self.order.steps_per_epoch, self.stage.epochs)
        return self.stage.optim.lr * factor

    def _build(self, pretrained: bool) -> Method:
        runtime, stage = self.run.recipe.runtime, self.stage
        method = build_method(self.run.recipe, stage, len(self.dataset.class_names), pretrained=pretrained)
        if stage.sync_bn:
            try:
                distributed.synchronize_batch_norm(method, self.device)
            except ValueError as error:
                raise RecipeError(f"stage.{stage.name}.{error}") from None
        layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
        # torch's own annotation leaves memory_format out.
        method = method.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        if runtime.compile:
            method.backbone.compile()
        return method

    def _log_start(self) -> None:
        stage, processes = self.stage, distributed.world_size()
        self._log(
            f"{stage.name}: {stage.method} on {count(len(self.dataset), 'image')} "
            f"of {count(len(self.dataset.class_names), 'class', 'classes')}, "
            f"{count(stage.epochs, 'epoch')} of {count(self.order.steps_per_epoch, 'step')} on {self.device}"
            + (", bf16" if self.amp == "bf16" else "")
            + (f", {processes} processes" if processes > 1 else "")
            + (f", resumed at step {self.at.step}" if self.at.step else "")
        )
        if self.method.backbone.load_report is not None:
            self._log(str(self.method.backbone.load_report))
        if self.dataset.skipped:
            self._log(left_out(len(self.dataset.skipped)))
        for message in self.dataset.skipped:
            self._log(f"skipped: {message}")
        for message in self.dataset.describe_cache():
            self._log(f"cache: {message}")

    def _hold_images(self) -> None:
        gigabytes = self.run.recipe.runtime.device_cache_gb
        if not gigabytes:
            return
        with self.progress.task(f"{self.stage.name}: decode", len(self.dataset)) as advance:
            try:
                fits = self.dataset.hold(self.device, int(gigabytes * 1e9), advance)
            except ValueError as error:
                raise RecipeError(f"runtime.device_cache_gb: {error}") from error
        if not fits:
            self._log(f"the images need more than runtime.device_cache_gb = {gigabytes:g} and are decoded every epoch")

    def _leave_weights(self) -> None:
        run, stage = self.run, self.stage
        artefacts.save(
            run, stage, self.method, self.device, identity=self.identity, stop=self.stop, progress=self.progress
        )
        about = {"method": stage.method, "recipe": run.recipe.name, "stage": stage.name}
        save_weights(self.weights, self.method.state_dict(), about)
        # What the first process wrote is there before anyone reads it.
        distributed.from_first(None)

    def _log(self, text: str) -> None:
        self.run.log(text)
        self.progress.log(text)
