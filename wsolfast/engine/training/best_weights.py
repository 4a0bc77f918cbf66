"""The best weights of a stage so far: a file that checkpoints name, so that none is lost or mixed up by a crash."""

import os
from pathlib import Path

from wsolfast.engine.assembly.checkpoint import save_weights
from wsolfast.engine.run.distributed import is_first, on_first
from wsolfast.methods import Method


class BestWeights:
    """Files of the best weights beside a stage's checkpoints.

    While the stage is trained, each file is named after its step: that of a checkpoint stays until no checkpoint names
    it, and a resumed stage never finds weights there of steps that it has taken back.

    Args:
        file: of the best weights of the finished stage.
        about: goes into their header.
        step: of the weights that the checkpoint names which the stage goes on from, if there is one.
    """

    def __init__(self, file: Path, about: dict[str, str], step: int | None):
        self.file, self.about = file, about
        self._named = [step]  # by the last two checkpoints

    def save(self, method: Method, step: int) -> None:
        """Write the weights that a method has after ``step`` steps."""
        save_weights(self._at(step), method.state_dict(), self.about)

    def checkpointed(self, step: int | None) -> None:
        """Note that a checkpoint names the weights of a step, and remove those that none of the last two names."""
        self._named = [*self._named[-1:], step]
        if is_first():
            self._remove_all_but(self._named)

    def finish(self, step: int) -> None:
        """Give the weights of a step, the best of the stage, their last name."""

        def rename() -> None:
            # An end that was interrupted may have done so.
            if self._at(step).is_file():
                os.replace(self._at(step), self.file)
            self._remove_all_but([])

        on_first(rename)

    def _remove_all_but(self, steps: list[int | None]) -> None:
        kept = {self._at(step) for step in steps if step is not None}
        for file in self.file.parent.glob("best-*.safetensors"):
            if file not in kept:
                file.unlink()

    def _at(self, step: int) -> Path:
        return self.file.with_name(f"best-{step}.safetensors")
