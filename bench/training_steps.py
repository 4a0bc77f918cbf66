"""Training steps that ``wsolfast bench e2e`` compares: the engine's, bare loops, and the published way."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast import data, methods
from wsolfast.backbones import call_as_constant
from wsolfast.bench.end_to_end_cases import TURNS, EndToEnd, enliven, recipe_of
from wsolfast.bench.published_training import LOSSES, label_maker, network_logits
from wsolfast.engine.assembly.build import build_method
from wsolfast.engine.assembly.optimizer import build_optimizer
from wsolfast.engine.assembly.stage_refs import fits
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.engine.run.signals import StopRequest
from wsolfast.engine.training import artefacts
from wsolfast.engine.training.fit import StageFit
from wsolfast.engine.training.loading import load_batches
from wsolfast.engine.training.train import StageTraining
from wsolfast.methods.bas import BAS
from wsolfast.methods.gc_net import GCNet
from wsolfast.recipe import Recipe, StageSpec
from wsolfast.testing import assert_close
from wsolfast.types import Batch, TrainState

Work = TypeVar("Work", StageFit, StageTraining)


class BareLoop:
    """Training step without an engine, as anybody would write it."""

    def __init__(self, recipe: Recipe, stage: StageSpec, loss: Callable[[methods.Method, Batch], Tensor], device: str):
        runtime = recipe.runtime
        self.layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
        self.device, self.amp, self.loss = torch.device(device), runtime.amp == "bf16", loss
        torch.manual_seed(recipe.seed)
        method = build_method(recipe, stage, stage.num_classes, pretrained=False)
        self.method = method.to(self.device, memory_format=self.layout).train()
        if runtime.compile:
            self.method.backbone.compile()
        self.optimizer = build_optimizer(self.method, stage.optim, "optim", fused=runtime.fused_optimizer)

    def step(self, batch: Batch) -> Tensor:
        batch = batch.to(self.device)
        batch = replace(batch, image=batch.image.to(memory_format=self.layout))
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            loss = self.loss(self.method, batch)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def plain_loss(method: methods.Method, batch: Batch) -> Tensor:
    """Return the cross-entropy of the network's logits; one without classes learns that its map, or box, is zero.

    BAS consists of its network and of the layers above the generator, which see features again.
    """
    if isinstance(method, BAS):
        features = method.features(batch.image)
        half = (features[method.generator_stage].detach() / 2).requires_grad_()
        again = method.backbone.extract_from(method.generator_stage, half, constant=True)[method.last_stage]
        hidden = call_as_constant(method.head.hidden, again)
        background = method.head.maps_of(hidden, batch.label[:, None], constant=True).mean()
        return functional.cross_entropy(method.classify_features(features), batch.label) + background
    logits = network_logits(method, batch.image)
    if method.classifies:
        return functional.cross_entropy(logits, batch.label.repeat(len(logits) // len(batch.label)))
    if method.gives_boxes:
        return logits.square().mean()
    mean = logits.float().mean((1, 2, 3))
    return functional.binary_cross_entropy_with_logits(mean, torch.zeros_like(mean))


class TaughtLoss:
    """Cross-entropy of a frozen classifier on both halves of images that a detector has scaled by its mean output.

    No shape and no loss of the method; what remains is the detector, and two passes of the classifier with the
    gradient of their images.
    """

    def __init__(self, classifier: methods.Method):
        self.classifier = classifier

    def __call__(self, method: methods.Method, batch: Batch) -> Tensor:
        assert isinstance(method, GCNet)
        found = method.detect(method.features(batch.image)).mean(1)[:, None, None, None]
        image = batch.image / 255
        views = torch.cat([image * found, image - image * found])
        return functional.cross_entropy(self.classifier.classify(views), batch.label.repeat(2))


def classifier_of(stage: StageSpec) -> StageSpec:
    """Return the stage with a method that has pooled features and a linear layer alone."""
    factors = {name: rate for name, rate in stage.optim.lr_factors.items() if name.startswith(("backbone", "head"))}
    optim = replace(stage.optim, lr_factors=factors)
    return replace(stage, method="cam", model={"head": "linear"}, uses={}, optim=optim)


class Training:
    """Contenders of one stage's training, each with weights of its own."""

    def __init__(self, case: EndToEnd, root: Path, device: str, folder: Path):
        recipe = recipe_of(case, root, device, case.stage)
        self.run = RunFolder.create(folder / "train", recipe)
        names = [stage.name for stage in recipe.stage]
        index = names.index(case.stage)
        self.device, self.steps = torch.device(device), case.steps
        for earlier in range(index):
            self._open(earlier, StageFit if fits(recipe.stage[earlier]) else StageTraining).train()
        self.ours = self._open(index, StageTraining)
        self.ours.method.train()
        _, (example, *_) = next(self.ours.remaining())
        stage = recipe.stage[index]
        if isinstance(self.ours.method, GCNet):
            taught = TaughtLoss(self.ours.method.frozen["classifier"])
            self.loops = {"networks": BareLoop(recipe, stage, taught, device)}
        else:
            self.loops = {
                "network": BareLoop(recipe, stage, plain_loss, device),
                "classifier": BareLoop(recipe, classifier_of(stage), plain_loss, device),
            }
        if stage.method in LOSSES:
            self.loops["published"] = BareLoop(recipe, stage, LOSSES[stage.method], device)
        for method in (self.ours.method, *(loop.method for loop in self.loops.values())):
            enliven(method.backbone, example.image.to(self.device))
        self.collate = dict.fromkeys(self.loops, data.collate)
        if stage.uses and "published" in self.loops:
            exported = artefacts.load(self.run, stage)
            self.collate["published"] = artefacts.Collate(exported, label_maker(self.ours.method))

    def _open(self, index: int, kind: type[Work]) -> Work:
        return kind(self.run, index, self.device, self.run.recipe.runtime.amp, Progress(quiet=True), StopRequest())

    def check(self) -> None:
        """Compare the engine's loss of a batch with the published one.

        Raises:
            AssertionError: if they differ.
        """
        if "published" not in self.loops:
            return
        loop = self.loops["published"]
        loop.method.load_state_dict(self.ours.method.state_dict())
        _, (part, *_) = next(self.ours.remaining())
        batch, state = part.to(self.device), TrainState(epoch=0, epochs=1, step=0, steps=1)
        found = []
        for loss in (lambda method, batch: method.training_step(batch, state)["loss"], loop.loss):
            buffers = {name: buffer.clone() for name, buffer in loop.method.named_buffers()}
            torch.manual_seed(0)
            with torch.no_grad():
                found.append(loss(loop.method, batch).float().cpu())
            loop.method.load_state_dict(buffers, strict=False)
        # Single precision; sigmoids are cut off in the published one.
        assert_close(*found, 1e-4)

    def calls(self, source: str) -> dict[str, Callable[[], int]]:
        """Return a call for each contender that takes some steps, with images from ``source``."""
        mine = self._batches(source, self.ours.remaining)
        calls = {"ours": lambda: sum(self._engine_step(*next(mine)) for _ in range(self.steps))}
        for name, loop in self.loops.items():
            theirs = self._batches(source, lambda name=name: self._plain_batches(self.collate[name]))
            calls[name] = lambda loop=loop, theirs=theirs: sum(
                self._bare_step(loop, next(theirs)) for _ in range(self.steps)
            )
        return calls

    def _batches(self, source: str, open_loader: Callable[[], Iterator]) -> Iterator:
        if source == "jpeg":
            return itertools.chain.from_iterable(open_loader() for _ in itertools.count())
        return itertools.cycle(list(itertools.islice(open_loader(), TURNS)))

    def _plain_batches(self, collate: Callable) -> Iterator[Batch]:
        batches = self.ours.order.batches(self.ours.at.epoch)
        return load_batches(self.ours.dataset, batches, collate, workers=0, pin_memory=self.device.type == "cuda")

    def _engine_step(self, indices: Sequence[int], parts: Sequence[Batch]) -> int:
        self.ours.step(indices, parts)
        return len(indices)

    @staticmethod
    def _bare_step(loop: BareLoop, batch: Batch) -> int:
        loop.step(batch)
        return len(batch.label)
