"""Runs of Weights & Biases; its own variables (WANDB_MODE, WANDB_PROJECT, ...) say where they go."""

import os
import uuid
from collections.abc import Mapping
from typing import Any

from wsolfast.engine.loggers.logger import Logger, measured, numbers_of, recipe_table
from wsolfast.engine.run.observers import EpochEnd
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder


class WandB(Logger):
    """Writer of metrics, pictures and the recipe.

    Args:
        run: the run.
    """

    wants_pictures = True

    def __init__(self, run: RunFolder):
        super().__init__(run)
        import wandb

        self._wandb: Any = wandb
        # Of a run that is resumed; offline, too, files of the same id become one run.
        identity = self.kept_id("wandb") or uuid.uuid4().hex[:8]
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "wsolfast"),
            name=run.path.name,
            id=identity,
            resume="allow",
            dir=str(self.folder),
            config=recipe_table(run),
            # What the command prints is its own.
            settings=wandb.Settings(console="off", silent=True),
        )
        self.keep_id("wandb", identity)

    def begin(self, stage: str, step: int) -> None:
        # Each stage counts its own steps, so that W&B's count of calls means nothing.
        self._run.define_metric(f"{stage}/step")
        self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def on_event(self, event: Mapping[str, Any]) -> None:
        self._log(event["stage"], event["step"], numbers_of(event))

    def on_epoch(self, end: EpochEnd) -> None:
        if end.pictures:
            shown = [self._wandb.Image(picture, caption=name) for name, picture in end.pictures.items()]
            self._log(end.stage, end.step, {"maps": shown})

    def on_evaluation(self, results: EvalResults) -> None:
        self._run.summary.update(measured(results))

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))

    def _log(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({f"{stage}/{name}": value for name, value in values.items()} | {f"{stage}/step": step})
