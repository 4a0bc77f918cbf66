"""Event files for TensorBoard, a folder for each stage: ``tensorboard --logdir RUN/loggers/tensorboard``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from wsolfast.engine.loggers.logger import Logger, measured, numbers_of
from wsolfast.engine.run.observers import EpochEnd
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder


class TensorBoard(Logger):
    """Writer of scalars and pictures.

    Args:
        run: the run.
    """

    wants_pictures = True

    def __init__(self, run: RunFolder):
        super().__init__(run)
        from torch.utils.tensorboard import SummaryWriter

        self._make: Any = SummaryWriter
        self._writers: dict[str, Any] = {}

    def begin(self, stage: str, step: int) -> None:
        # Steps that a killed run has logged behind its last checkpoint are shown no more: they come again.
        self._writers[stage] = self._make(self.folder / "tensorboard" / stage, purge_step=step + 1 if step else None)

    def on_event(self, event: Mapping[str, Any]) -> None:
        writer = self._writers[event["stage"]]
        for name, value in numbers_of(event).items():
            writer.add_scalar(name, value, event["step"])

    def on_epoch(self, end: EpochEnd) -> None:
        writer = self._writers[end.stage]
        for name, picture in end.pictures.items():
            writer.add_image(f"maps/{name}", np.asarray(picture), end.step, dataformats="HWC")
        writer.flush()

    def on_evaluation(self, results: EvalResults) -> None:
        if "evaluation" not in self._writers:
            self._writers["evaluation"] = self._make(self.folder / "tensorboard" / "evaluation")
        for name, value in measured(results).items():
            self._writers["evaluation"].add_scalar(name.removeprefix("evaluation/"), value, 0)

    def close(self, *, failed: bool) -> None:
        for writer in self._writers.values():
            writer.close()
