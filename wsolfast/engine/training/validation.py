"""Validation between the epochs of a stage, the best weights so far, and the end of a stage that improves no more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from wsolfast import data
from wsolfast.engine.assembly.build import count_workers, eval_protocol, memory_format, open_validation_data
from wsolfast.engine.assembly.precision import autocast
from wsolfast.engine.report.pictures import draw_boxes, overlay
from wsolfast.engine.run import distributed
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.signals import StopRequest
from wsolfast.engine.run.words import count
from wsolfast.engine.training.held_out import hold_out
from wsolfast.engine.training.loading import load_batches
from wsolfast.engine.training.order import TrainPosition
from wsolfast.methods import Method
from wsolfast.metrics import BoxAccuracy, GivenBoxes
from wsolfast.recipe import StageSpec, ValidateSpec
from wsolfast.types import Batch

_SHOWN = 4


@dataclass
class ValidationState:
    """Memory of the validations of a stage: plain values, which checkpoints hold."""

    epochs: int = 0  # of the stage that were done at the last validation
    score: float = -math.inf  # of the best weights, the larger the better
    step: int | None = None  # of the best weights; None before the first validation
    waited: int = 0  # validations since then


class Validation:
    """Validation of one stage.

    Args:
        run: its recipe says what is held out.
        stage: the one that is trained.
        spec: of the stage.
        dataset: its training images.
        device: where the method lies.
        amp: the precision, ``"bf16"``, ``"fp16"`` or ``"none"``.
        progress: where to show how far it is.
        stop: asks for a stop after the running batch.

    Attributes:
        held_out: indices of training images that are validated and not trained on.
        state: what was found so far.

    Raises:
        RecipeError: if so many images cannot be held out.
        DataError: if the split cannot be opened.
    """

    def __init__(
        self,
        run: RunFolder,
        stage: StageSpec,
        spec: ValidateSpec,
        dataset: data.Dataset,
        device: torch.device,
        amp: str,
        progress: Progress,
        stop: StopRequest,
    ):
        self.run, self.stage, self.spec, self.device, self.amp = run, stage, spec, device, amp
        self.progress, self.stop, self.state = progress, stop, ValidationState()
        self.dataset = open_validation_data(run.recipe, stage, spec, dataset.class_names)
        self.held_out: list[int] = []
        self.indices = list(range(len(self.dataset)))
        if spec.split == "held_out":
            where = f"stage.{stage.name}.validate.held_out"
            # The recipe's seed, so that every stage holds out the same images.
            self.held_out = hold_out(dataset.image_ids, dataset.labels.tolist(), spec.held_out, run.recipe.seed, where)
            # Training may have left images out that cannot be read.
            places = {image_id: index for index, image_id in enumerate(self.dataset.image_ids)}
            self.indices = [places[dataset.image_ids[index]] for index in self.held_out]
        if spec.boxes:
            self.indices = [index for index in self.indices if len(self.dataset.annotations(index).boxes)]
            if not self.indices:
                raise data.DataError(f"stage.{stage.name}.validate: no image of {spec.split} has a true box")

    def describe(self) -> str:
        """Return in words what is validated on."""
        return f"{count(len(self.indices), 'image')} " + (
            "held out" if self.spec.split == "held_out" else f"of {self.spec.split}"
        )

    def is_due(self, at: TrainPosition, *, ended: bool) -> bool:
        """Return whether a validation is due at a position.

        Args:
            at: where training stands.
            ended: it ends there.
        """
        due = at.step_in_epoch == 0 and at.epoch > self.state.epochs
        return due and (ended or at.epoch % self.spec.every == 0)

    @property
    def ends_stage(self) -> bool:
        """True if the last validations, as many as the patience, found nothing better."""
        return 0 < self.spec.patience <= self.state.waited

    def measure(self, method: Method) -> dict[str, float] | None:
        """Return accuracy in [0, 1], mean cross-entropy and, where boxes may be looked at, GT-known Loc in percent.

        The numbers do not depend on the number of processes. Nothing of the method is changed, and nothing that is
        drawn later: batch norms keep their statistics.

        Args:
            method: on the device.

        Returns:
            dict of float: None if a signal asked for a stop before all images were seen.
        """
        size = self.run.recipe.evaluate.batch_size
        batches = [self.indices[start : start + size] for start in range(0, len(self.indices), size)]
        ranks = distributed.world_size()
        mine = batches[distributed.rank() :: ranks]
        loaded = self._load(mine)
        boxes = BoxAccuracy(eval_protocol(self.run.recipe), max_box=False) if self.spec.boxes else None
        losses: list[float] = []
        right = 0
        was_training = method.training
        method.eval()
        try:
            with torch.no_grad(), self.progress.inner_task(f"{self.stage.name}: validation", len(batches)) as advance:
                for turn in range(math.ceil(len(batches) / ranks)):
                    if turn < len(mine):
                        batch = next(loaded).to(self.device)
                        logits = self._logits(method, batch, mine[turn], boxes)
                        losses += functional.cross_entropy(logits, batch.label, reduction="none").tolist()
                        right += int((logits.argmax(1) == batch.label).sum())
                    advance(min(ranks, len(batches) - turn * ranks))
                    if any(distributed.from_all(self.stop.requested)):
                        return None
        finally:
            method.train(was_training)
        told = distributed.from_all((right, losses))
        # Exactly rounded, so that no digit depends on the order of the images.
        total = math.fsum(loss for _, some in told for loss in some)
        found = {"accuracy": sum(some for some, _ in told) / len(self.indices), "loss": total / len(self.indices)}
        if boxes is not None:
            if ranks > 1:
                boxes.all_reduce()
            found["gt_known_loc"] = boxes.compute()["gt_known_loc"]
        return found

    def note(self, found: dict[str, float], at: TrainPosition) -> bool:
        """Take in what :meth:`measure` found at a position; return whether the weights are the best so far."""
        value = found[self.spec.select]
        score = -value if self.spec.select == "loss" else value
        score = -math.inf if math.isnan(score) else score
        better = self.state.step is None or score > self.state.score
        if better:
            self.state = ValidationState(at.epoch, score, at.step)
        else:
            self.state.epochs, self.state.waited = at.epoch, self.state.waited + 1
        values = {name: value if math.isfinite(value) else None for name, value in found.items()}
        place = {"stage": self.stage.name, "epoch": at.epoch - 1, "step": at.step}
        self.run.event(**place, validation=values, images=len(self.indices), best=better)
        return better

    def draw(self, method: Method) -> dict[str, Image.Image]:
        """Return maps, or boxes, of the true classes over a few images, by image id: the same images every time."""
        number = min(_SHOWN, len(self.indices))
        chosen = [self.indices[i * len(self.indices) // number] for i in range(number)]
        was_training = method.training
        method.eval()
        with torch.no_grad(), autocast(self.device, self.amp):
            (batch,) = self._load([chosen])
            image, label = batch.image.to(self.device), batch.label.to(self.device)
            found = method.localize(image, label, topk=0)
        method.train(was_training)
        photos = [Image.fromarray(one) for one in batch.image.permute(0, 2, 3, 1).numpy()]
        if found.localization_map is not None:
            maps = found.localization_map[:, 0].float().cpu()
            drawn = [overlay(*pair) for pair in zip(photos, maps, strict=True)]
        else:
            assert found.boxes is not None
            drawn = [draw_boxes(*pair) for pair in zip(photos, found.boxes.float().cpu().numpy(), strict=True)]
        return dict(zip(batch.image_id, drawn, strict=True))

    def _load(self, batches: Sequence[Sequence[int]]) -> Any:
        workers = count_workers(self.run.recipe.runtime.workers)
        pin_memory = self.device.type == "cuda"
        return load_batches(self.dataset, batches, data.collate, workers=workers, pin_memory=pin_memory)

    def _logits(self, method: Method, batch: Batch, indices: Sequence[int], boxes: BoxAccuracy | None) -> Tensor:
        layout = memory_format(self.run.recipe.runtime.channels_last, self.device)
        image = batch.image.contiguous(memory_format=layout)
        with autocast(self.device, self.amp):
            if boxes is None:
                return method.classify(image).float()
            found = method.localize(image, batch.label, topk=0)
            logits = method.classify(image).float() if found.logits is None else found.logits.float()
        notes = [self.dataset.annotations(index) for index in indices]
        sizes = torch.tensor([note.size for note in notes], dtype=torch.int64)
        truths = [note.boxes for note in notes]
        if found.localization_map is not None:
            boxes.update(found.localization_map[:, 0].float().cpu(), sizes, truths)
        else:
            assert found.boxes is not None
            shown = torch.tensor([batch.image.shape[:1:-1]]).expand_as(sizes)
            boxes.update_given_boxes(GivenBoxes(found.boxes[:, 0].cpu(), shown, sizes), truths)
        return logits


def in_words(found: dict[str, float], spec: ValidateSpec, *, best: bool) -> str:
    """Return the line that is logged about a validation."""
    boxes = f"  GT-known Loc {found['gt_known_loc']:.2f} % (looks at boxes)" if "gt_known_loc" in found else ""
    said = f"validation  accuracy {100 * found['accuracy']:.2f} %  loss {found['loss']:.4f}{boxes}"
    return said + (f"  best {spec.select} so far" if best else "")
