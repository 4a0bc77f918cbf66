"""Logs of a stage in training: losses and speed, and the steps that were left out."""

import json
import time
from collections.abc import Callable, Sequence
from statistics import fmean

from wsolfast.engine.run.errors import RunError
from wsolfast.engine.run.run_folder import RunFolder, write_json
from wsolfast.engine.training.gradients import StepResult
from wsolfast.engine.training.order import TrainPosition
from wsolfast.recipe import StageSpec

_EVENTS_PER_EPOCH = 50


class EpochLog:
    """Losses and speed of one epoch: means over some steps in ``metrics.jsonl``, and one line at the end.

    Args:
        run: gets the events.
        stage: the one that is trained.
        steps_per_epoch: of the whole epoch, also where only the rest of it is trained.
    """

    def __init__(self, run: RunFolder, stage: StageSpec, steps_per_epoch: int):
        self.run, self.stage, self.steps_per_epoch = run, stage, steps_per_epoch
        self.every = max(1, steps_per_epoch // _EVENTS_PER_EPOCH)
        self.recent: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.images, self.speed, self.started = 0, 0.0, time.monotonic()

    def add(self, result: StepResult, at: TrainPosition, *, images: int, rate: float) -> str:
        """Note a step that began at position ``at``; return what to show beside the progress."""
        self.images += images
        self.speed = self.images / (time.monotonic() - self.started)
        if result.is_finite:
            self.recent.append(result.losses | self._clipping(result))
            self.losses.append(result.losses["loss"])
        steps = at.step_in_epoch + 1
        if self.recent and (steps % self.every == 0 or steps == self.steps_per_epoch):
            means = {name: fmean(losses[name] for losses in self.recent) for name in self.recent[-1]}
            self.run.event(
                stage=self.stage.name,
                epoch=at.epoch,
                step=at.step + 1,
                **means,
                lr=rate,
                images_per_second=round(self.speed, 2),
                time=round(time.time(), 3),
            )
            self.recent = []
        loss = f"{result.losses['loss']:.3f}" if result.is_finite else "not finite"
        return f"epoch {at.epoch + 1}/{self.stage.epochs}  loss {loss}  {self.speed:.1f} images/s"

    def _clipping(self, result: StepResult) -> dict[str, float]:
        """Return the norm of the gradient and whether it was clipped, if norms are."""
        limit = self.stage.optim.grad_clip
        if limit is None:
            return {}
        return {"gradient_norm": result.gradient_norm, "clipped": float(result.gradient_norm > limit)}

    @property
    def mean_loss(self) -> float | None:
        """Mean of the losses that were finite; None if none was."""
        return fmean(self.losses) if self.losses else None

    def summary(self, epochs: int) -> str:
        """Return the line that is logged when ``epochs`` are done."""
        mean = "not finite" if self.mean_loss is None else f"{self.mean_loss:.4f}"
        return f"epoch {epochs}/{self.stage.epochs}  loss {mean}  {self.speed:.1f} images/s"


class NonFiniteSteps:
    """Steps that were left out because a loss or the gradient was not finite, listed in ``nonfinite.json``.

    A resumed stage goes on with the steps that it left out before, so that stopping it often allows no more of them.

    Args:
        run: its recipe says how many are allowed in a stage.
        stage: name of the one that is trained.
        log: is given a line for each.
        step: where training begins or goes on; steps of the stage from there on are taken again.
    """

    def __init__(self, run: RunFolder, stage: str, log: Callable[[str], None], step: int):
        self.allowed, self.stage, self.log = run.recipe.runtime.skip_nonfinite, stage, log
        self.run, self.file = run, run.path / "nonfinite.json"
        listed = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else []
        self.others: list[dict] = [row for row in listed if row["stage"] != stage]
        self.rows: list[dict] = [row for row in listed if row["stage"] == stage and row["step"] < step]

    def add(self, result: StepResult, at: TrainPosition, image_ids: Sequence[str]) -> None:
        """List a step at position ``at`` with its values and images.

        Raises:
            RunError: if those of the stage are more than the recipe allows.
        """
        values = result.losses | {"gradient norm": result.gradient_norm}
        listed = ", ".join(f"{name} = {value}" for name, value in values.items())
        where = {"stage": self.stage, "epoch": at.epoch, "step": at.step}
        self.rows.append(where | {"values": listed, "images": list(image_ids)})
        self.run.keep()
        write_json(self.file, self.others + self.rows)
        text = f"stage {self.stage}, epoch {at.epoch}, step {at.step}: {listed}; images {', '.join(image_ids)}"
        if len(self.rows) > self.allowed:
            raise RunError(
                f"{text} (listed in {self.file}). The last checkpoint is whole; a smaller stage.optim.lr is the usual "
                "cure, --skip-nonfinite N leaves out as many such steps"
            )
        self.log(f"left out, {len(self.rows)} of at most {self.allowed}: {text}")
