"""Checkpoints of a stage in training: what they hold, when one is due, and which run they continue."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from wsolfast.engine.assembly.checkpoint import load_checkpoint, save_checkpoint
from wsolfast.engine.run.distributed import is_first
from wsolfast.engine.training.order import TrainPosition
from wsolfast.methods import Method
from wsolfast.recipe import RecipeError, RuntimeSpec

_NOTHING: Mapping[str, dict] = {}


class Checkpointer:
    """Writer and reader of one stage's checkpoints.

    Args:
        folder: where they lie.
        runtime: says how often one is due.
        identity: names the recipe; a checkpoint of another one is refused.
        images: number of training images; a checkpoint of another number is refused.
    """

    def __init__(self, folder: Path, runtime: RuntimeSpec, *, identity: str, images: int):
        self.folder, self.runtime, self.identity, self.images = folder, runtime, identity, images
        self.saved_at = time.monotonic()

    def load(self, log: Callable[[str], None]) -> dict | None:
        """Read the newest checkpoint that can be read; None if none was written yet.

        Args:
            log: is given what could not be read, and what is read instead.

        Raises:
            RecipeError: if it was written under another recipe, or with other images.
            MissingError: if there are checkpoints and none can be read.
        """
        state = load_checkpoint(self.folder, log)
        if state is None:
            return None
        if state["recipe"] != self.identity:
            raise RecipeError(f"{self.folder}: written under another recipe; only runtime.* and data.root may change")
        if state["images"] != self.images:
            raise RecipeError(f"{self.folder}: written with {state['images']} training images, now {self.images}")
        return state

    def restore(self, state: dict, method: Method, optimizer: torch.optim.Optimizer) -> TrainPosition:
        """Load what :meth:`load` read into ``method`` and ``optimizer``; return the position that it was saved at."""
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        return TrainPosition(*state["position"])

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is due after ``step`` steps of the stage, or by the time since the last one.

        The first process decides, because clocks differ; in the others this is False.
        """
        if not is_first():
            return False
        every = self.runtime.save_every_steps
        by_steps = bool(every) and step % every == 0
        return by_steps or time.monotonic() - self.saved_at >= 60 * self.runtime.save_every_minutes

    def save(
        self, at: TrainPosition, method: Method, optimizer: torch.optim.Optimizer, more: Mapping[str, dict] = _NOTHING
    ) -> None:
        """Write a checkpoint of a training; the one before it stays beside it.

        Args:
            at: where training stands.
            method, optimizer: as they are there.
            more: what else is to be read again, by name.
        """
        self.write(
            {
                "position": [at.epoch, at.step_in_epoch, at.step],
                "method": method.state_dict(),
                "optimizer": optimizer.state_dict(),
                **more,
            }
        )

    def write(self, content: dict) -> None:
        """Write a checkpoint of tensors and plain values, which :meth:`load` returns."""
        save_checkpoint(self.folder, {"recipe": self.identity, "images": self.images} | content)
        self.saved_at = time.monotonic()
