"""Fit of a stage without a loss: one pass over the training images, class by class, resumable at any batch."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from wsolfast import data
from wsolfast.engine.assembly.build import count_workers, memory_format
from wsolfast.engine.assembly.precision import autocast
from wsolfast.engine.run import distributed
from wsolfast.engine.run.errors import Interrupted
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.signals import StopRequest
from wsolfast.engine.run.words import count
from wsolfast.engine.training.loading import load_batches
from wsolfast.engine.training.stage import StageWork
from wsolfast.types import Batch

_NAMED = 3  # classes in a line about many


@dataclass
class ClassSums:
    """Sums of a class that is being worked through."""

    look: int = 0
    images: int = 0  # that this look has seen
    sums: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class FittedClass:
    """A class that is fitted: the outcome of :meth:`wsolfast.methods.Method.fit_class`."""

    label: int
    found: dict[str, Tensor]
    remarks: list[str]


@dataclass(frozen=True)
class _Piece:
    label: int
    look: int
    images: list[int]


class StageFit(StageWork):
    """Fit of one stage: a class after the other, its images in the order of their ids.

    Processes take whole classes in turn, so that every class is summed in one process and in one order; they exchange
    what was fitted, and no sums. Each holds the sums of one class at a time, however many classes there are.

    Args and errors are those of :class:`StageWork`.
    """

    def __init__(
        self, run: RunFolder, index: int, device: torch.device, amp: str, progress: Progress, stop: StopRequest
    ):
        super().__init__(run, index, device, amp, progress, stop)
        labels, ids = self.dataset.labels.tolist(), self.dataset.image_ids
        self.members: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
        # By their ids, so that a data set that lists them in another order gives the same bits.
        for image in sorted(range(len(ids)), key=ids.__getitem__):
            self.members[labels[image]].append(image)
        self.done: list[int] = []
        self.running: dict[int, ClassSums] = {}
        self.remarks: dict[str, list[int]] = {}
        if self.saved is not None:
            self.method.load_state_dict(self.saved["method"])
            self.done, self.remarks = self.saved["done"], self.saved["remarks"]
            for label, at in self.saved["running"].items():
                sums = {name: value.to(device) for name, value in at["sums"].items()}
                self.running[label] = ClassSums(at["look"], at["images"], sums)
        whole = sum(len(self.members[label]) for label in self.done) * self.method.looks
        begun = sum(one.look * len(self.members[label]) + one.images for label, one in self.running.items())
        # Of all processes, counted once in every look.
        self.images_seen = whole + begun
        self.method.class_names = self.dataset.class_names

    def train(self) -> None:
        """Fit all classes and leave the weights.

        Raises:
            Interrupted: a signal asked for a stop; the checkpoint is written.
            MethodError: the method cannot use an image; the message names it.
        """
        looks, resumed = self.method.looks, self.images_seen
        amount = "one pass" if looks == 1 else f"{count(looks, 'look')} at each class"
        self._log_start(amount, count(resumed, "image") if resumed else "")
        left = [label for label in self.members if label not in self.done]
        pieces = [piece for label in left[distributed.rank() :: distributed.world_size()] for piece in self._cut(label)]
        self.running = {label: sums for label, sums in self.running.items() if label in {one.label for one in pieces}}
        turns = max(distributed.from_all(len(pieces)))
        batches = load_batches(
            self.dataset,
            [piece.images for piece in pieces],
            data.collate,
            workers=count_workers(self.run.recipe.runtime.workers),
            pin_memory=self.device.type == "cuda",
        )
        self.method.eval()
        started = time.monotonic()
        with torch.no_grad(), self.progress.task(self.stage.name, len(self.dataset) * looks, resumed) as advance:
            for turn in range(turns):
                mine = pieces[turn] if turn < len(pieces) else None
                fitted = None if mine is None else self.step(mine, next(batches))
                images = self._share(fitted, 0 if mine is None else len(mine.images), turn + 1)
                speed = f"{(self.images_seen - resumed) / (time.monotonic() - started):.1f} images/s"
                advance(images, f"{count(len(self.done), 'class', 'classes')}  {speed}")
        if turns:
            self._log(f"{count(len(self.done), 'class', 'classes')} fitted, {speed}")
        for remark, labels in self.remarks.items():
            self._log(f"{self.stage.name}: {remark}: {self._name(labels)}")
        self._leave_weights()

    def step(self, piece: _Piece, batch: Batch) -> FittedClass | None:
        """Add a batch to the sums of its class; fit the class if that was the last one."""
        sums = self.running.setdefault(piece.label, ClassSums())
        batch = batch.to(self.device)
        layout = memory_format(self.run.recipe.runtime.channels_last, self.device)
        image = batch.image.contiguous(memory_format=layout)
        with autocast(self.device, self.amp):
            batch = Batch(image, batch.label, batch.image_id)
            sums.sums = self.method.fit_batch(batch, sums.sums, piece.look)
        sums.images += len(piece.images)
        if sums.images < len(self.members[piece.label]):
            return None
        sums.look, sums.images = sums.look + 1, 0
        if sums.look < self.method.looks:
            return None
        del self.running[piece.label]
        return FittedClass(piece.label, *self.method.fit_class(sums.sums))

    def _share(self, fitted: FittedClass | None, images: int, turn: int) -> int:
        """Keep what all processes have fitted in a turn; write a checkpoint if one is due or a signal asks for a stop.

        Returns:
            The images that they have seen in it.
        """
        told = distributed.from_all((fitted, images, self.stop.requested, self.checkpoints.is_due(turn)))
        for one in sorted((one for one, *_ in told if one is not None), key=lambda one: one.label):
            self.method.keep_class(one.label, one.found)
            self.done.append(one.label)
            for remark in one.remarks:
                self.remarks.setdefault(remark, []).append(one.label)
        self.images_seen += (seen := sum(images for _, images, *_ in told))
        if turn == 1:
            self.run.keep()
        stopped = any(stop for *_, stop, _ in told)
        if stopped or any(due for *_, due in told):
            self._save()
        if stopped:
            done = count(self.images_seen, "image")
            raise Interrupted(f"stopped after {done}; continue with: wsolfast train --resume {self.run.path}")
        return seen

    def _save(self) -> None:
        running: dict[int, ClassSums] = {}
        for mine in distributed.from_all(self.running):
            running |= mine
        self.checkpoints.write(
            {
                "done": self.done,
                "running": {label: asdict(sums) for label, sums in running.items()},
                "remarks": self.remarks,
                "method": self.method.state_dict(),
            }
        )

    def _cut(self, label: int) -> Iterator[_Piece]:
        """Cut what is left of a class into batches."""
        at = self.running.get(label, ClassSums())
        for look in range(at.look, self.method.looks):
            images = self.members[label][at.images if look == at.look else 0 :]
            for start in range(0, len(images), self.stage.batch_size):
                yield _Piece(label, look, images[start : start + self.stage.batch_size])

    def _name(self, labels: list[int]) -> str:
        names = [repr(self.dataset.class_names[label]) for label in sorted(labels)]
        listed = ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)
        return f"{len(names)} of {count(len(self.members), 'class', 'classes')} ({listed})"
