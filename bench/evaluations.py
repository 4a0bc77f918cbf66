"""Contenders of the evaluation in ``wsolfast bench e2e``: the engine, the networks alone, and the published way."""

import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from wsolfast import data
from wsolfast.bench.end_to_end_cases import EndToEnd, enliven, recipe_of
from wsolfast.bench.published_training import network_logits
from wsolfast.engine.assembly.build import eval_protocol
from wsolfast.engine.assembly.checkpoint import save_weights
from wsolfast.engine.assembly.network import Network, load_method
from wsolfast.engine.assembly.stage_refs import classifier_of, localizer_of
from wsolfast.engine.evaluation.eval_pass import EvalPass
from wsolfast.engine.evaluation.eval_split import EvalSplit
from wsolfast.engine.evaluation.measure import GroundTruth, SplitMetrics
from wsolfast.engine.evaluation.per_image import ImageRows, write_table
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.methods import Method
from wsolfast.metrics.functional import box_hits
from wsolfast.recipe import Recipe

QUIET = Progress(quiet=True)
# Share of thresholds at which the published boxes are as right or wrong as ours.
AGREEMENT = 0.98
# Room for all images of a case.
CACHE_GB = 8


class Remembered:
    """A data set whose images are decoded once, at the start; more of them than there are is round and round."""

    def __init__(self, dataset: data.Dataset):
        self.dataset = dataset
        self.samples = [dataset[index] for index in range(len(dataset))]

    def __getitem__(self, index: int) -> data.Sample:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def __getattr__(self, name: str):
        return getattr(self.dataset, name)


class Evaluation:
    """The contenders of one recipe's evaluation; all run networks of the same weights."""

    def __init__(self, case: EndToEnd, root: Path, device: str, folder: Path):
        self.case, self.device = case, torch.device(device)
        self.recipe = recipe_of(case, root, device, None)
        self.run = RunFolder.create(folder / "evaluate", self.recipe)
        self.protocol = eval_protocol(self.recipe)
        self.cache = folder / "cache"
        self.splits = {source: self._open(source) for source in dict.fromkeys(("memory", "jpeg", *case.sources))}
        self.run.keep_class_names(self.splits["jpeg"].dataset.class_names)
        self.method, self.classifier = self._networks()
        self.network = Network(self.run, self.recipe, len(self.splits["jpeg"].dataset.class_names))

    def _networks(self) -> tuple[Method, Method]:
        """Return the localiser and the classifier as their packages run them; the engine reads their weights."""
        classes = len(self.splits["jpeg"].dataset.class_names)
        image = torch.stack([sample.image for sample in self.splits["memory"].dataset.samples[: self.case.batch]])
        networks = []
        for ref in (localizer_of(self.recipe), classifier_of(self.recipe)):
            if ref is not None:
                network = load_method(self.run, ref, classes).eval().to(self.device)
                enliven(network.backbone, image.to(self.device))
                save_weights(self.run.weights_path(ref.stage.name), network.state_dict(), {})
                if self.recipe.runtime.compile:
                    network.backbone.forward = torch.compile(network.backbone.forward, dynamic=False)
                networks.append(network)
        return networks[0], networks[-1]

    def _open(self, source: str) -> EvalSplit:
        split = EvalSplit(self.run, self._recipe_for(source), "test", None)
        if source == "memory":
            split.dataset = Remembered(split.dataset)
        split.indices = [index % len(split.dataset) for index in range(self.case.images)]
        return split

    def _recipe_for(self, source: str) -> Recipe:
        """Return the recipe whose images come from ``source``; on a GPU, or out of a cache, as they do for users."""
        data, runtime = self.recipe.data, self.recipe.runtime
        if self.case.alone:
            runtime = replace(runtime, workers=-1)
        if source == "cache":
            runtime = replace(runtime, cache_gb=CACHE_GB, cache_dir=str(self.cache))
        if source == "cuda":
            data = replace(data, decoder="cuda")
        return replace(self.recipe, data=data, runtime=runtime)

    def check(self) -> None:
        """Check that the hits of the published way are the engine's, of the label's map in float32.

        Raises:
            AssertionError: if more than a few differ, which rounding may move across a threshold.
        """
        published = self._published("memory")
        if published is None:
            return
        dataset = self.splits["memory"].dataset
        agreed = []
        for index in range(min(8, len(dataset))):
            sample, note = dataset[index], dataset.annotations(index)
            with torch.inference_mode():
                found = self.network.predictor.method.localize(sample.image[None], torch.tensor([sample.label]), topk=0)
            maps = found.localization_map[:, 0]
            ours = box_hits(maps, torch.tensor([note.size]), [note.boxes], self.protocol)[0]
            agreed.append(round(float((ours.numpy() == published.hits(index)).mean()), 3))
        assert statistics.fmean(agreed) >= AGREEMENT, f"hits as published at {agreed} of the thresholds"

    def _published(self, source: str):
        """Return an :class:`published_evaluation.ImageByImage`, on a CPU and where the method and protocol have one."""
        if self.device.type != "cpu":
            return None
        from wsolfast.bench.published_evaluation import ImageByImage

        known = ImageByImage.knows(self.method, self.protocol)
        return ImageByImage(self.method, self.splits[source].dataset, self.protocol) if known else None

    def calls(self, source: str) -> dict[str, Callable[[], int]]:
        """Return one evaluation by each contender, images from ``source``."""
        split = self.splits[source]
        calls = {
            "ours": lambda: self._evaluate(split, split.indices),
            # What an evaluation costs once, whatever it sees, is told from what every image costs.
            "start": lambda: self._evaluate(split, split.indices[: self.case.batch]),
        }
        if self.case.alone:
            return calls
        calls |= {
            "network": lambda: self._forward(split, self._network_step),
            "backbone": lambda: self._forward(split, self._backbone_step),
        }
        published = self._published(source)
        if published is not None:
            # Each image costs the same, so a batch of them is enough.
            some = split.indices[: self.case.batch]
            calls["published"] = lambda: len([published.hits(index) for index in some])
        return calls

    def _evaluate(self, split: EvalSplit, indices: list[int]) -> int:
        shutil.rmtree(split.folder, ignore_errors=True)
        split.indices, every = indices, split.indices
        split.ground_truth = GroundTruth(split.dataset, indices)
        split.plan(self.network)
        metrics = SplitMetrics(split.ground_truth, self.protocol, given_boxes=self.network.gives_boxes)
        images = EvalPass(split, self.network, QUIET)
        images.count(metrics)
        rows = ImageRows(metrics, metrics.measure().cam_threshold)
        write_table(split.folder / "per_image.json", images.reload(), rows.describe, split.dataset.class_names)
        split.indices = every
        return len(indices)

    def _forward(self, split: EvalSplit, step: Callable) -> int:
        """Send all images in batches through ``step``, decoded here and now, without anything that overlaps."""
        runtime = self.recipe.runtime
        layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=runtime.amp == "bf16"):
            for start in range(0, len(split.indices), self.case.batch):
                samples = [split.dataset[index] for index in split.indices[start : start + self.case.batch]]
                views = [torch.stack([sample.image for sample in samples])]
                if samples[0].wide is not None:
                    views.append(torch.stack([sample.wide for sample in samples]))
                step(*(view.to(self.device).contiguous(memory_format=layout) for view in views))
        return len(split.indices)

    def _network_step(self, image: Tensor, wide: Tensor | None = None) -> None:
        network_logits(self.method, image)
        if wide is not None:
            self.classifier.classify(wide)

    def _backbone_step(self, image: Tensor, wide: Tensor | None = None) -> None:
        self.method.backbone(image)
        if wide is not None:
            self.classifier.backbone(wide)
