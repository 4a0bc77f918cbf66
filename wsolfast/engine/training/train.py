"""Training: the stages of a recipe, one after the other, each resumable at any step."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wsolfast.engine.assembly.build import (
    build_method,
    build_optimizer,
    choose_device,
    count_workers,
    describe_device,
    open_training_data,
    rate_at,
)
from wsolfast.engine.assembly.checkpoint import load_checkpoint, save_checkpoint, save_weights, seed_everything
from wsolfast.engine.run import distributed
from wsolfast.engine.run.allocator import keep_freed_memory
from wsolfast.engine.run.determinism import deterministic_algorithms
from wsolfast.engine.run.errors import Interrupted, RunError
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder, now, write_json
from wsolfast.engine.run.signals import StopRequest
from wsolfast.engine.training import artefacts
from wsolfast.engine.training.loading import load_batches
from wsolfast.methods import Method
from wsolfast.recipe import Recipe, RecipeError, StageSpec, dump_recipe
from wsolfast.types import Batch, TrainState

_EVENTS_PER_EPOCH = 50


@dataclass
class TrainPosition:
    """Where a stage stands: ``step_in_epoch`` batches of ``epoch`` are done, ``step`` in all."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0


def train(run: RunFolder, progress: Progress | None = None) -> None:
    """Train every stage of the run's recipe that is not finished, from the last checkpoint if there is one.

    Several processes (see :func:`wsolfast.engine.run.distributed.processes`) share every batch of the recipe.

    Args:
        run: has the recipe; the weights go there.
        progress: where to show how far it is.

    Raises:
        Interrupted: a signal asked for a stop; the checkpoint is written.
        RunError: the loss or the gradient is not finite; the message names the step and its images.
        RecipeError: the checkpoint was written under another recipe.
    """
    progress = progress if progress and distributed.is_first() else Progress(quiet=True)
    device = choose_device(run.recipe.runtime.device)
    keep_freed_memory()
    with run.lock(), StopRequest() as stop, deterministic_algorithms(run.recipe.runtime.deterministic):
        finished = distributed.from_first([run.weights_path(stage.name).exists() for stage in run.recipe.stage])
        if all(finished):
            return
        started = time.monotonic()
        run.update_environment(device=describe_device(device), processes=distributed.world_size())
        try:
            for index, done in enumerate(finished):
                if not done:
                    StageTraining(run, index, run.recipe.stage[index], device, progress, stop).go()
            run.update_environment(finished=now())
        finally:
            run.add_seconds(time.monotonic() - started)


def change_runtime(run: RunFolder, recipe: Recipe) -> None:
    """Let the run continue with ``recipe``, which may differ in ``runtime`` and ``data.root``.

    Raises:
        RecipeError: if it differs in anything else; the run's own recipe stays.
    """
    if recipe_hash(recipe) != recipe_hash(run.recipe):
        raise RecipeError(f"{run.path}: a run continues with its own recipe; only runtime.* and data.root may change")
    run.replace_recipe(recipe)


def recipe_hash(recipe: Recipe) -> str:
    """Names what a checkpoint may be continued with: the recipe without where its data lies and how it is run."""
    # Every decoder gives the same pixels.
    core = replace(recipe, runtime=type(recipe.runtime)(), data=replace(recipe.data, root=None, decoder=None))
    return hashlib.sha256(dump_recipe(core).encode()).hexdigest()


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """A permutation of ``count`` images that depends on ``(seed, epoch)`` alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_epoch_seed(seed, epoch)))


def _epoch_seed(seed: int, epoch: int) -> int:
    return _seed_of(f"{seed}/{epoch}")


def _seed_of(name: str) -> int:
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:7], "little")


class _Losses(nn.Module):
    """A training step as a forward, which is what DDP can wrap."""

    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        losses = self.method.training_step(batch, state)
        return {name: loss if name == "loss" else loss.detach() for name, loss in losses.items()}


class StageTraining:
    def __init__(
        self, run: RunFolder, index: int, stage: StageSpec, device: torch.device, progress: Progress, stop: StopRequest
    ):
        self.run, self.stage, self.device, self.progress, self.stop = run, stage, device, progress, stop
        self.seed = run.recipe.seed + index
        self.dataset = open_training_data(run.recipe, stage)
        run.keep_class_names(self.dataset.class_names)
        seed_everything(self.seed)
        self.folder = run.weights_path(stage.name).parent
        checkpoint = load_checkpoint(self.folder, self._log)
        self.method = self._build(pretrained=checkpoint is None)
        fused = run.recipe.runtime.fused_optimizer
        self.optimizer = build_optimizer(self.method, stage.optim, f"stage.{stage.name}.optim", fused=fused)
        self.at = TrainPosition()
        self.steps_per_epoch = len(self.batches(0))
        self.collate = artefacts.Collate(artefacts.load(run, stage), self.method.mask_maker())
        self.saved_at = time.monotonic()
        self.stopping, self.save_due = False, False  # as all processes agreed in the last step
        self.nonfinite: list[dict[str, object]] = []
        if checkpoint is not None:
            self._restore(checkpoint)
        self.losses = self._share(_Losses(self.method))

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

    def _share(self, losses: _Losses) -> nn.Module:
        if distributed.world_size() == 1:
            return losses
        devices = [self.device] if self.device.type == "cuda" else None
        # Which parameters a loss reaches may change with the epoch, and with the images.
        return DistributedDataParallel(losses, devices, find_unused_parameters=True)

    def go(self) -> None:
        """Train to the end and leave the weights."""
        stage, total = self.stage, self.stage.epochs * self.steps_per_epoch
        self._log(
            f"{stage.name}: {stage.method} on {len(self.dataset)} images of {len(self.dataset.class_names)} classes, "
            f"{stage.epochs} epochs of {self.steps_per_epoch} steps on {self.device}"
            + (f", {distributed.world_size()} processes" if distributed.world_size() > 1 else "")
            + (f", resumed at step {self.at.step}" if self.at.step else "")
        )
        if self.method.backbone.load_report is not None:
            self._log(str(self.method.backbone.load_report))
        if self.dataset.skipped:
            self._log(f"{len(self.dataset.skipped)} unreadable images are left out")
        for message in self.dataset.skipped:
            self._log(f"skipped: {message}")
        for message in self.dataset.describe_cache():
            self._log(f"cache: {message}")
        self._hold_images()
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
        # What the first process wrote is there before anyone reads it.
        distributed.from_first(None)

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

    def _epoch(self, advance: Callable[..., None]) -> None:
        at, seen, started = self.at, 0, time.monotonic()
        every = max(1, self.steps_per_epoch // _EVENTS_PER_EPOCH)
        recent: list[dict[str, float]] = []
        epoch_losses: list[float] = []
        for indices, parts in self.loader():
            losses = self.step(indices, parts)
            at.step += 1
            at.step_in_epoch += 1
            seen += len(indices)
            if losses is not None:
                recent.append(losses)
                epoch_losses.append(losses["loss"])
            speed = seen / (time.monotonic() - started)
            if recent and (at.step_in_epoch % every == 0 or at.step_in_epoch == self.steps_per_epoch):
                means = {name: fmean(values[name] for values in recent) for name in recent[-1]}
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
            loss = f"{losses['loss']:.3f}" if losses else "not finite"
            advance(1, f"epoch {at.epoch + 1}/{self.stage.epochs}  loss {loss}  {speed:.1f} images/s")
            if at.step_in_epoch < self.steps_per_epoch:
                self._save_if_due()
        at.epoch, at.step_in_epoch = at.epoch + 1, 0
        mean = f"{fmean(epoch_losses):.4f}" if epoch_losses else "not finite"
        self._log(f"epoch {at.epoch}/{self.stage.epochs}  loss {mean}  {speed:.1f} images/s")
        self._save()
        self._stop_if_asked()

    def step(self, indices: Sequence[int], parts: Sequence[Batch]) -> dict[str, float] | None:
        """One step over the batch ``indices``, of which this process holds ``parts``; None if it was left out."""
        at, skips = self.at, self.run.recipe.runtime.skip_nonfinite
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(at.step) * group["lr_factor"]
        # What a method draws depends on where training stands, and not on what was drawn before.
        seed_everything(_seed_of(f"{self.seed}/{at.step}/{distributed.rank()}"))
        buffers = [(buffer, buffer.clone()) for buffer in self.method.buffers()] if skips else []
        self.optimizer.zero_grad(set_to_none=True)
        values = self._differentiate(len(indices), parts)
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        values["gradient norm"] = nn.utils.get_total_norm(gradients) / distributed.world_size()
        agreed = self._agree(values)
        norm = agreed.pop("gradient norm")
        if all(map(math.isfinite, (norm, *agreed.values()))):
            self.optimizer.step()
            return agreed
        self._note_nonfinite(agreed | {"gradient norm": norm}, indices)
        for buffer, before in buffers:
            buffer.copy_(before)
        return None

    def _differentiate(self, count: int, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Gradients of the mean loss over a batch of ``count`` images; this process's share of the mean losses."""
        runtime, at, total = self.run.recipe.runtime, self.at, self.stage.epochs * self.steps_per_epoch
        state = TrainState(epoch=at.epoch, epochs=self.stage.epochs, step=at.step, steps=total, seed=self.seed)
        values: dict[str, Tensor] = {}
        for number, batch in enumerate(parts, 1):
            batch = batch.to(self.device)
            if runtime.channels_last:
                batch = replace(batch, image=batch.image.to(memory_format=torch.channels_last))
            shared, last = self.losses, number == len(parts)
            with nullcontext() if last or not isinstance(shared, DistributedDataParallel) else shared.no_sync():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=runtime.amp == "bf16"):
                    losses = self.losses(batch, state)
                share = len(batch.image_id) / count
                # DDP takes the mean over the processes, whose shares add up to one.
                (losses["loss"] * (share * distributed.world_size())).backward()
            for name, loss in losses.items():
                values[name] = values.get(name, 0) + loss.detach() * share
        return values

    def _agree(self, values: dict[str, Tensor]) -> dict[str, float]:
        """The losses of all processes together; and whether to save, and to stop, because one of them wants to."""
        flags = (self.stop.requested, distributed.is_first() and self._is_save_due())
        stacked = torch.stack([value.detach().float() for value in values.values()])
        *numbers, stop, save = distributed.sum_over_all(torch.cat([stacked, stacked.new_tensor(flags)])).tolist()
        self.stopping, self.save_due = bool(stop), bool(save)
        return dict(zip(values, numbers, strict=True))

    def _note_nonfinite(self, values: dict[str, float], indices: Sequence[int]) -> None:
        """Keep what is not finite, where, and with which images; more than the recipe allows ends the run."""
        at, allowed = self.at, self.run.recipe.runtime.skip_nonfinite
        image_ids = [self.dataset.image_ids[index] for index in indices]
        listed = ", ".join(f"{name} = {value}" for name, value in values.items())
        where = {"stage": self.stage.name, "epoch": at.epoch, "step": at.step}
        self.nonfinite.append(where | {"values": listed, "images": image_ids})
        file = self.run.path / "nonfinite.json"
        write_json(file, self.nonfinite)
        text = f"stage {self.stage.name}, epoch {at.epoch}, step {at.step}: {listed}; images {', '.join(image_ids)}"
        if len(self.nonfinite) > allowed:
            raise RunError(
                f"{text} (listed in {file}). The last checkpoint is whole; a smaller stage.optim.lr is the usual cure, "
                "--skip-nonfinite N leaves out as many such steps"
            )
        self._log(f"left out, {len(self.nonfinite)} of at most {allowed}: {text}")

    def _rate(self, step: int) -> float:
        return self.stage.optim.lr * rate_at(self.stage.schedule, step, self.steps_per_epoch, self.stage.epochs)

    def batches(self, epoch: int) -> list[list[int]]:
        """Indices of every batch of an epoch, by the method's own sampler if it has one."""
        seed = _epoch_seed(self.seed, epoch)
        sampler = self.method.batch_sampler(self.dataset.labels, self.stage.batch_size, seed)
        if sampler is not None:
            return [list(batch) for batch in sampler]
        order = epoch_order(self.seed, epoch, len(self.dataset)).tolist()
        return [order[i : i + self.stage.batch_size] for i in range(0, len(order), self.stage.batch_size)]

    def _parts(self, batch: list[int]) -> list[list[int]]:
        """This process's images of a batch, for every turn of gradient accumulation."""
        ranks = distributed.world_size()
        if len(batch) < ranks:
            raise RecipeError(
                f"stage.{self.stage.name}.batch_size: an epoch of {len(self.dataset)} images has a batch of "
                f"{len(batch)}, too few for {ranks} processes; choose another batch_size or fewer processes"
            )
        turns = distributed.split(batch, min(self.stage.accumulate, len(batch) // ranks))
        return [list(distributed.split(turn, ranks)[distributed.rank()]) for turn in turns]

    def loader(self) -> Iterator[tuple[list[int], list[Batch]]]:
        """What is left of the epoch: the indices of each batch, and this process's parts of it."""
        self.dataset.set_epoch(self.at.epoch)
        batches = self.batches(self.at.epoch)[self.at.step_in_epoch :]
        parts = [self._parts(batch) for batch in batches]
        loader = load_batches(
            self.dataset,
            [part for of_batch in parts for part in of_batch],
            self.collate,
            workers=0 if self.dataset.is_held else count_workers(self.run.recipe.runtime.workers),
            pin_memory=self.device.type == "cuda" and not self.dataset.is_held,
        )
        for batch, of_batch in zip(batches, parts, strict=True):
            yield batch, list(islice(loader, len(of_batch)))

    def _is_save_due(self) -> bool:
        runtime, step = self.run.recipe.runtime, self.at.step + 1
        by_steps = runtime.save_every_steps and step % runtime.save_every_steps == 0
        return by_steps or time.monotonic() - self.saved_at >= 60 * runtime.save_every_minutes

    def _save_if_due(self) -> None:
        if self.save_due or self.stopping:
            self._save()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.stopping:
            raise Interrupted(f"stopped at step {self.at.step}; continue with: wsolfast train --resume {self.run.path}")

    def _save(self) -> None:
        state = {
            "recipe": recipe_hash(self.run.recipe),
            "images": len(self.dataset),
            "position": [self.at.epoch, self.at.step_in_epoch, self.at.step],
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
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
        self.at = TrainPosition(*state["position"])

    def _log(self, text: str) -> None:
        self.run.log(text)
        self.progress.log(text)
