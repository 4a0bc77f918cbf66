"""One forward pass of evaluation and of ``localize``: maps or boxes, classes and probabilities of a batch of images."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from wsolfast import data
from wsolfast.backbones import Backbone
from wsolfast.engine.assembly.build import check_float64, memory_format
from wsolfast.engine.assembly.cuda_graph import Capture, GraphedStep
from wsolfast.engine.assembly.precision import autocast
from wsolfast.methods import Method


class Predictor:
    """Both networks of an evaluation: classes and localization maps, or boxes, of batches of images.

    Both methods are put into eval mode, moved to ``device``, and the batch norms of their backbones are folded in
    place: they cannot be trained afterwards.

    Args:
        method: gives the maps, or the boxes.
        classifier: ranks the classes by the second view, which the data set must deliver; the method itself if None.
        device: where both run.
        crop: side of the ten crops of the second view whose mean probabilities rank the classes; None ranks by the
            second view itself, or by the localisation forward if the data set delivers none.
        topk: how many classes are kept.
        amp: "bf16" or "fp16" runs the networks in bfloat16 or float16; maps are kept as float32 all the same.
        channels_last: the memory layout that the networks read.
        compiled: the backbones go through torch.compile; they then want batches of one size.
        singly: every image goes through the networks alone, so that its outputs do not depend on the size of batches,
            by which convolutions choose their order of summation.
        graphs: "on" or "auto" replays all of it as a CUDA graph, for batches with labels and of one size; "auto" does
            not where the methods wait for the device.
        log: is given one line where "auto" does not.
        capture: records the graph.
    """

    def __init__(
        self,
        method: Method,
        classifier: Method | None = None,
        *,
        device: torch.device,
        crop: int | None = None,
        topk: int = 5,
        amp: str = "none",
        channels_last: bool = False,
        compiled: bool = False,
        singly: bool = False,
        graphs: str = "off",
        log: Callable[[str], None] = lambda text: None,
        capture: Capture | None = None,
    ):
        # Gradients, where a refinement takes them, are those of features.
        for network in (method, classifier or method):
            check_float64(network, device, type(network).__name__)
        self.method = method.eval().requires_grad_(False).to(device)
        self.classifier = method if classifier is None else classifier.eval().requires_grad_(False).to(device)
        self.device, self.crop, self.topk, self.amp = device, crop, topk, amp
        self.compiled, self.singly = compiled, singly
        self.layout = memory_format(channels_last, device)
        for backbone in self.backbones:
            backbone.fold_batch_norms()
            if compiled:
                # Not the module's own compile(): hooks, which read the clock, stay outside.
                backbone.forward = torch.compile(backbone.forward, dynamic=False)  # type: ignore[method-assign]
        self._graph: GraphedStep | None = None
        if graphs != "off":
            self._graph = GraphedStep(self._run, device, required=graphs == "on", log=log, capture=capture)

    @property
    def wants_one_size(self) -> bool:
        """True if batches are to have as many images as the first one."""
        return self.compiled or self._graph is not None

    @property
    def backbones(self) -> list[Backbone]:
        """Backbones of both networks, one if they share it."""
        networks = (self.method, self.classifier)
        return list({id(network): network.backbone for network in networks if hasattr(network, "backbone")}.values())

    def __call__(
        self, image: Tensor, wide: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps or boxes, classes and scores of images.

        Args:
            image (Tensor[N, 3, H, W]): uint8, the view that is localised.
            wide (Tensor[N, 3, H', W']): uint8, the second view.
            label (Tensor[N]): int64, classes whose maps are wanted; None takes each image's most likely class.

        Returns:
            Maps, float32 [N, h, w] in [0, 1], or boxes, float32 [N, 4] in pixels of ``image``, where the method gives
            boxes; the most likely classes, int64 [N, k]; their probabilities, float32 [N, k]. Of a graph they are
            overwritten by the next call.
        """
        # Without labels the host has to look at the most likely classes.
        return (
            self._run(image, wide, label) if self._graph is None or label is None else self._replay(image, wide, label)
        )

    def _replay(self, image: Tensor, wide: Tensor | None, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert self._graph is not None
        places, classes, scores = self._graph(image, wide, label)
        return places, classes, scores

    def _run(self, image: Tensor, wide: Tensor | None, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if not self.singly:
            return self._predict(image, wide, label)
        absent = [None] * len(image)
        wides, labels = (absent if one is None else one.split(1) for one in (wide, label))
        parts = [self._predict(*views) for views in zip(image.split(1), wides, labels, strict=True)]
        places, classes, scores = (torch.cat(found) for found in zip(*parts, strict=True))
        return places, classes, scores

    def _predict(self, image: Tensor, wide: Tensor | None, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        with torch.inference_mode(), autocast(self.device, self.amp):
            image = self._laid_out(image)
            probability = None if wide is None else self._probability(wide)
            if label is None and probability is not None:
                label = self._best(probability)[0][:, 0]
            topk = 1 if label is None else 0
            found = self.method.localize(image, label=label, topk=topk, ranking=probability)
            if probability is None:
                assert found.logits is not None  # a method that ranks no classes comes with a classifier
                probability = found.logits.float().softmax(1)
            classes, scores = self._best(probability)
            if label is None and not torch.equal(found.classes[:, 0], classes[:, 0]):
                # Equally likely classes, of which the method took another one.
                found = self.method.localize(image, label=classes[:, 0], topk=0)
            places = found.localization_map if found.boxes is None else found.boxes
            assert places is not None  # Localization has one of them
            return places[:, 0].float(), classes, scores

    def _probability(self, wide: Tensor) -> Tensor:
        """Return the mean probabilities [N, K] of the crops of the second view."""
        crops = [wide] if self.crop is None else data.ten_crop(wide, self.crop).unbind(1)
        views = (self.classifier.classify(self._laid_out(view)).float().softmax(1) for view in crops)
        return functools.reduce(torch.add, views) / len(crops)

    def _best(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Return the most likely classes [N, k] and their probabilities."""
        best = probability.topk(min(self.topk, probability.shape[1]), dim=1)
        return best.indices, best.values

    def _laid_out(self, image: Tensor) -> Tensor:
        return image.contiguous(memory_format=self.layout)
