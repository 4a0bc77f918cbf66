"""Training: the stages of a recipe, one after the other, each resumable at any step."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wsolfast.engine import artefacts
from wsolfast.engine.build import (
    build_method,
    build_optimizer,
    choose_device,
    count_workers,
    open_training_data,
    rate_at,
)
from wsolfast.engine.checkpoint import (
    load_checkpoint,
    random_state,
    save_checkpoint,
    save_weights,
    seed_everything,
    set_random_state,
)
from wsolfast.engine.errors import Interrupted, RunError
from wsolfast.engine.progress import Progress
from wsolfast.engine.run_folder import RunFolder, now
from wsolfast.engine.signals import StopRequest
from wsolfast.recipe import Recipe, RecipeError, StageSpec, dump_recipe
from wsolfast.types import Batch, Clock

_EVENTS_PER_EPOCH = 50


@dataclass
class Position:
    """Where a stage stands: ``step_in_epoch`` batches of ``epoch`` are done, ``step`` in all."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0


def train(run: RunFolder, progress: Progress | None = None) -> None:
    """Train every stage of the run's recipe that is not finished, from the last checkpoint if there is one.

    Raises:
        Interrupted: a signal asked for a stop; the checkpoint is written.
        RunError: the loss is not finite; the message names the step and its images.
        RecipeError: the checkpoint was written under another recipe.
    """
    progress = progress or Progress(quiet=True)
    device = choose_device(run.recipe.runtime.device)
    with run.lock(), StopRequest() as stop:
        started = time.monotonic()
        run.update_environment(device=_device_name(device))
        for index, stage in enumerate(run.recipe.stage):
            if not run.weights_path(stage.name).exists():
                _StageTraining(run, index, stage, device, progress, stop).go()
        run.update_environment(finished=now(), seconds=round(time.monotonic() - started, 1))


def change_runtime(run: RunFolder, recipe: Recipe) -> None:
    """Let the run continue with ``recipe``, which may differ in ``runtime`` and ``data.root``.

    Raises:
        RecipeError: if it differs in anything else; the run's own recipe stays.
    """
    if recipe_hash(recipe) != recipe_hash(run.recipe):
        raise RecipeError(f"{run.path}: a run continues with its own recipe; only runtime.* and data.root may change")
    run.replace_recipe(recipe)


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def recipe_hash(recipe: Recipe) -> str:
    """Names what a checkpoint may be continued with: the recipe without where its data lies and how it is run."""
    core = replace(recipe, runtime=type(recipe.runtime)(), data=replace(recipe.data, root=None))
    return hashlib.sha256(dump_recipe(core).encode()).hexdigest()


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """A permutation of ``count`` images that depends on ``(seed, epoch)`` alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_epoch_seed(seed, epoch)))


def _epoch_seed(seed: int, epoch: int) -> int:
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


class _StageTraining:
    def __init__(self, run: RunFolder, index: int, stage: StageSpec, device, progress: Progress, stop: StopRequest):
        self.run, self.stage, self.device, self.progress, self.stop = run, stage, device, progress, stop
        self.seed = run.recipe.seed + index
        self.dataset = open_training_data(run.recipe, stage)
        run.keep_class_names(self.dataset.class_names)
        seed_everything(self.seed)
        self.folder = run.weights_path(stage.name).parent
        checkpoint = load_checkpoint(self.folder)
        method = build_method(run.recipe, stage, len(self.dataset.class_names), pretrained=checkpoint is None)
        layout = torch.channels_last if run.recipe.runtime.channels_last else torch.contiguous_format
        self.method = method.to(device, memory_format=layout)
        self.optimizer = build_optimizer(self.method, stage.optim, f"stage.{stage.name}.optim")
        self.at = Position()
        self.steps_per_epoch = len(self._batches(0))
        self.collate = artefacts.Collate(artefacts.load(run, stage), self.method.mask_maker())
        self.saved_at = time.monotonic()
        if checkpoint is not None:
            self._restore(checkpoint)

    def go(self) -> None:
        """Train to the end and leave the weights."""
        stage, total = self.stage, self.stage.epochs * self.steps_per_epoch
        self._tell(
            f"{stage.name}: {stage.method} on {len(self.dataset)} images of {len(self.dataset.class_names)} classes, "
            f"{stage.epochs} epochs of {self.steps_per_epoch} steps on {self.device}"
            + (f", resumed at step {self.at.step}" if self.at.step else "")
        )
        if self.method.backbone.load_report is not None:
            self._tell(str(self.method.backbone.load_report))
        if self.dataset.skipped:
            self._tell(f"{len(self.dataset.skipped)} unreadable images are left out")
        for message in self.dataset.skipped:
            self._tell(f"skipped: {message}")
        self.method.train()
        with self.progress.task(stage.name, total, self.at.step) as advance:
            while self.at.epoch < stage.epochs:
                self._epoch(advance)
        about = {"method": stage.method, "recipe": self.run.recipe.name, "stage": stage.name}
        identity = recipe_hash(self.run.recipe)
        artefacts.save(
            self.run, stage, self.method, self.device, identity=identity, stop=self.stop, progress=self.progress
        )
        save_weights(self.run.weights_path(stage.name), self.method.state_dict(), about)

    def _epoch(self, advance) -> None:
        at, seen, started = self.at, 0, time.monotonic()
        every = max(1, self.steps_per_epoch // _EVENTS_PER_EPOCH)
        recent: list[dict[str, float]] = []
        epoch_losses: list[float] = []
        for batch in self._loader():
            losses = self._step(batch)
            at.step += 1
            at.step_in_epoch += 1
            seen += len(batch.image_id)
            recent.append(losses)
            epoch_losses.append(losses["loss"])
            speed = seen / (time.monotonic() - started)
            if at.step_in_epoch % every == 0 or at.step_in_epoch == self.steps_per_epoch:
                means = {name: fmean(values[name] for values in recent) for name in losses}
                self.run.event(
                    stage=self.stage.name,
                    epoch=at.epoch,
                    step=at.step,
                    **means,
                    lr=self._rate(at.step - 1),
                    images_per_second=round(speed, 2),
                    time=round(time.time(), 3),
                )
                recent = []
            advance(1, f"epoch {at.epoch + 1}/{self.stage.epochs}  loss {losses['loss']:.3f}  {speed:.1f} images/s")
            if at.step_in_epoch < self.steps_per_epoch:
                self._save_if_due()
        at.epoch, at.step_in_epoch = at.epoch + 1, 0
        self._tell(f"epoch {at.epoch}/{self.stage.epochs}  loss {fmean(epoch_losses):.4f}  {speed:.1f} images/s")
        self._save()
        self._stop_if_asked()

    def _step(self, batch: Batch) -> dict[str, float]:
        runtime, at = self.run.recipe.runtime, self.at
        batch = batch.to(self.device)
        if runtime.channels_last:
            batch = replace(batch, image=batch.image.to(memory_format=torch.channels_last))
        total = self.stage.epochs * self.steps_per_epoch
        clock = Clock(epoch=at.epoch, epochs=self.stage.epochs, step=at.step, steps=total, seed=self.seed)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(at.step) * group["lr_factor"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=runtime.amp == "bf16"):
            losses = self.method.training_step(batch, clock)
        values = {name: value.item() for name, value in losses.items()}
        if not torch.isfinite(torch.tensor(list(values.values()))).all():
            told = ", ".join(f"{name} = {value}" for name, value in values.items())
            raise RunError(
                f"stage {self.stage.name}, epoch {at.epoch}, step {at.step}: {told}; "
                f"images {', '.join(batch.image_id)}. "
                f"The last checkpoint is whole; a smaller stage.optim.lr is the usual cure"
            )
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self.optimizer.step()
        return values

    def _rate(self, step: int) -> float:
        return self.stage.optim.lr * rate_at(self.stage.schedule, step, self.steps_per_epoch, self.stage.epochs)

    def _batches(self, epoch: int) -> list[list[int]]:
        """Indices of every batch of an epoch, by the method's own sampler if it has one."""
        seed = _epoch_seed(self.seed, epoch)
        sampler = self.method.batch_sampler(self.dataset.labels, self.stage.batch_size, seed)
        if sampler is not None:
            return [list(batch) for batch in sampler]
        order = epoch_order(self.seed, epoch, len(self.dataset)).tolist()
        return [order[i : i + self.stage.batch_size] for i in range(0, len(order), self.stage.batch_size)]

    def _loader(self) -> Iterator[Batch]:
        workers = count_workers(self.run.recipe.runtime.workers)
        self.dataset.set_epoch(self.at.epoch)
        return iter(
            DataLoader(
                self.dataset,
                batch_sampler=self._batches(self.at.epoch)[self.at.step_in_epoch :],
                collate_fn=self.collate,
                num_workers=workers,
                pin_memory=self.device.type == "cuda",
                # Its own generator: drawing the workers' seed from the global one would depend on how often we resumed.
                generator=torch.Generator().manual_seed(0),
            )
        )

    def _save_if_due(self) -> None:
        runtime = self.run.recipe.runtime
        by_steps = runtime.save_every_steps and self.at.step % runtime.save_every_steps == 0
        by_clock = time.monotonic() - self.saved_at >= 60 * runtime.save_every_minutes
        if by_steps or by_clock or self.stop.requested:
            self._save()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.stop.requested:
            raise Interrupted(f"stopped at step {self.at.step}; continue with: wsolfast train --resume {self.run.path}")

    def _save(self) -> None:
        state = {
            "recipe": recipe_hash(self.run.recipe),
            "images": len(self.dataset),
            "position": [self.at.epoch, self.at.step_in_epoch, self.at.step],
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(),
        }
        save_checkpoint(self.folder, state)
        self.saved_at = time.monotonic()

    def _restore(self, state: dict) -> None:
        if state["recipe"] != recipe_hash(self.run.recipe):
            raise RecipeError(f"{self.folder}: written under another recipe; only runtime.* and data.root may change")
        if state["images"] != len(self.dataset):
            raise RecipeError(f"{self.folder}: written with {state['images']} training images, now {len(self.dataset)}")
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.at = Position(*state["position"])
        set_random_state(state["random"])

    def _tell(self, text: str) -> None:
        self.run.log(text)
        self.progress.say(text)
