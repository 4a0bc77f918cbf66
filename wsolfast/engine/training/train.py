"""Training: the stages of a recipe, one after the other, each resumable at any step."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch

from wsolfast.engine.assembly.build import choose_device, count_workers, describe_device
from wsolfast.engine.assembly.checkpoint import seed_everything
from wsolfast.engine.assembly.decoders import check_training_decoder
from wsolfast.engine.assembly.optimizer import build_optimizer, rate_at
from wsolfast.engine.assembly.precision import choose_amp
from wsolfast.engine.assembly.preflight import check_recipe
from wsolfast.engine.assembly.stage_refs import fits
from wsolfast.engine.loggers.opening import begin_stage, check_loggers, observed
from wsolfast.engine.run import distributed
from wsolfast.engine.run.allocator import keep_freed_memory
from wsolfast.engine.run.determinism import deterministic_algorithms
from wsolfast.engine.run.environment import now
from wsolfast.engine.run.errors import Interrupted
from wsolfast.engine.run.observers import EpochEnd, Observer
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.signals import StopRequest
from wsolfast.engine.run.words import count
from wsolfast.engine.training import artefacts
from wsolfast.engine.training.best_weights import BestWeights
from wsolfast.engine.training.fit import StageFit
from wsolfast.engine.training.gradients import GradientAccumulator, StepResult, agree
from wsolfast.engine.training.loading import load_parts
from wsolfast.engine.training.logs import EpochLog, NonFiniteSteps
from wsolfast.engine.training.order import DataOrder, TrainPosition
from wsolfast.engine.training.stage import StageWork, recipe_hash
from wsolfast.engine.training.updates import WeightUpdate
from wsolfast.engine.training.validation import Validation, ValidationState, in_words
from wsolfast.recipe import Recipe, RecipeError
from wsolfast.types import Batch, TrainState, derive_seed


def train(run: RunFolder, progress: Progress | None = None, *, observers: Sequence[Observer] = ()) -> None:
    """Train every stage of the run's recipe that is not finished, from the last checkpoint if there is one.

    Several processes (see :func:`wsolfast.engine.run.distributed.processes`) share every batch of the recipe, or the
    classes of a stage that is fitted.

    Args:
        run: has the recipe; the weights go there.
        progress: where to show how far it is.
        observers: are told of events and epochs, as the loggers of the recipe's ``runtime.loggers`` are; one that
            fails is left out.

    Raises:
        Interrupted: a signal asked for a stop; the checkpoint is written.
        BackendError: the package of a logger is not installed.
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
        check_training_decoder(run.recipe)
        artefacts.check_uses(run.recipe)
        check_loggers(run.recipe.runtime.loggers)
        finished = distributed.from_first([run.weights_path(stage.name).exists() for stage in run.recipe.stage])
        if all(finished):
            return
        amp = choose_amp(run.recipe.runtime.amp, device, progress.log)
        started = time.monotonic()
        run.update_environment(device=describe_device(device), amp=amp, processes=distributed.world_size())
        try:
            with observed(run, run.recipe.runtime.loggers, observers, progress):
                for index, done in enumerate(finished):
                    if not done:
                        kind = StageFit if fits(run.recipe.stage[index]) else StageTraining
                        stage: StageWork = kind(run, index, device, amp, progress, stop)
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


class StageTraining(StageWork):
    """Training of one stage by gradients, from its first step or its last checkpoint to its weights.

    Args and errors are those of :class:`StageWork`.
    """

    def __init__(
        self, run: RunFolder, index: int, device: torch.device, amp: str, progress: Progress, stop: StopRequest
    ):
        super().__init__(run, index, device, amp, progress, stop)
        recipe, stage = run.recipe, self.stage
        where, fused = f"stage.{stage.name}.optim", recipe.runtime.fused_optimizer
        self.optimizer = build_optimizer(self.method, stage.optim, where, fused=fused)
        self.validation: Validation | None = None
        if stage.validate is not None:
            self.validation = Validation(run, stage, stage.validate, self.dataset, device, amp, progress, stop)
        held_out = self.validation.held_out if self.validation else ()
        self.order = DataOrder(self.dataset.labels, stage, self.seed, self.method.batch_sampler, held_out)
        self.collate = artefacts.prepare(artefacts.load(run, stage), self.dataset, self.method)
        saved = self.saved
        self.at = self.checkpoints.restore(saved, self.method, self.optimizer) if saved else TrainPosition()
        self.gradients = GradientAccumulator(self.method, device, recipe.runtime, amp)
        self.update = WeightUpdate(self.method, self.optimizer, stage.optim, self.gradients.scaler)
        if saved:
            self.update.load(saved)
        if self.validation is not None:
            if saved:
                self.validation.state = ValidationState(**saved["validation"])
            best = run.weights_path(stage.name, best=True)
            self.best = BestWeights(best, self.about, self.validation.state.step)
        self.nonfinite = NonFiniteSteps(run, stage.name, self._log, self.at.step)

    def train(self) -> None:
        """Train to the end and leave the weights.

        Raises:
            Interrupted: a signal asked for a stop; the checkpoint is written.
            RunError: the loss or the gradient is not finite.
        """
        stage, at, steps_per_epoch = self.stage, self.at, self.order.steps_per_epoch
        first = at.step
        amount = f"{count(stage.epochs, 'epoch')} of {count(steps_per_epoch, 'step')}"
        if self.validation is not None:
            amount += f", validated on {self.validation.describe()}"
        self._log_start(amount, f"step {at.step}" if at.step else "")
        begin_stage(self.run, stage.name, at.step)
        self._hold_images()
        self.method.train()
        with self.progress.task(stage.name, stage.epochs * steps_per_epoch, at.step) as advance:
            # A stop may have put a validation off.
            if not self._end_epoch(None, stop=False):
                raise self._stopped()
            while not self.ended:
                log = EpochLog(self.run, stage, steps_per_epoch)
                for indices, parts in self.remaining():
                    result = self.step(indices, parts)
                    if at.step == first:
                        self.run.keep()
                    advance(1, log.add(result, at, images=len(indices), rate=self._rate(at.step)))
                    at.advance(steps_per_epoch)
                    epoch_ends, stop = at.step_in_epoch == 0, result.stop
                    if epoch_ends:
                        self._log(log.summary(at.epoch))
                        stop = not self._end_epoch(log, stop=stop) or stop
                    if epoch_ends or result.save or stop:
                        self._save()
                    if stop:
                        raise self._stopped()
        if self.validation is not None and self.validation.state.step is not None:
            self.best.finish(self.validation.state.step)
        self._leave_weights()

    @property
    def ended(self) -> bool:
        """True after the last epoch, or if validation ends the stage early."""
        return self.at.epoch >= self.stage.epochs or (self.validation is not None and self.validation.ends_stage)

    def _end_epoch(self, log: EpochLog | None, *, stop: bool) -> bool:
        """Validate if that is due, and tell of the end of the epoch.

        Args:
            log: of the epoch; None if a stop came between it and its validation, which is then made up for.
            stop: a signal asked for a stop, which puts a validation off.

        Returns:
            bool: False if a validation is still due, because a stop was asked for before or during it.
        """
        at, validation, found = self.at, self.validation, None
        if validation is not None and validation.is_due(at, ended=at.epoch >= self.stage.epochs):
            if stop:
                return False
            with self.update.averaged():
                found = validation.measure(self.method)
                if found is None:
                    return False
                if best := validation.note(found, at):
                    self.best.save(self.method, at.step)
            self._log(in_words(found, validation.spec, best=best))
            if validation.ends_stage and at.epoch < self.stage.epochs:
                waited = count(validation.state.waited, "validation")
                better = f"{waited} without a better {validation.spec.select}"
                self._log(f"{self.stage.name}: ends after epoch {at.epoch}, {better}")
        if log is not None or found is not None:
            self._tell_epoch(log, found)
        return True

    def _tell_epoch(self, log: EpochLog | None, found: dict[str, float] | None) -> None:
        at, observers = self.at, self.run.observers
        pictures = {}
        if self.validation is not None and found is not None and observers.want_pictures:
            with self.update.averaged():
                pictures = self.validation.draw(self.method)
        loss, speed = (None, None) if log is None else (log.mean_loss, log.speed)
        end = EpochEnd(self.stage.name, at.epoch, at.step, loss, speed, found or {}, pictures)
        observers.tell(lambda one: one.on_epoch(end))

    def _save(self) -> None:
        more = self.update.state()
        if self.validation is not None:
            more["validation"] = asdict(self.validation.state)
        self.checkpoints.save(self.at, self.method, self.optimizer, more)
        if self.validation is not None:
            self.best.checkpointed(self.validation.state.step)

    def _stopped(self) -> Interrupted:
        return Interrupted(f"stopped at step {self.at.step}; continue with: wsolfast train --resume {self.run.path}")

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

        Where a loss or the gradient is not finite, parameters and buffers stay as they were. A gradient that only the
        scale of float16 made too large is expected now and then: buffers go on, and the step is not counted.

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
        result = agree(losses, self.update.gradient_norm(), stop=self.stop.requested, save=save)
        if result.is_finite:
            self.update.apply()
        elif not self.update.lower_scale(result):
            self.nonfinite.add(result, at, [self.dataset.image_ids[index] for index in indices])
            for buffer, before in buffers:
                buffer.copy_(before)
        return result

    def _leave_weights(self) -> None:
        if self.update.average is not None:
            self._save_weights(self.run.raw_weights_path(self.stage.name), self.method.state_dict())
        with self.update.averaged():
            super()._leave_weights()

    def _rate(self, step: int) -> float:
        factor = rate_at(self.stage.schedule, step, self.order.steps_per_epoch, self.stage.epochs)
        return self.stage.optim.lr * factor

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
