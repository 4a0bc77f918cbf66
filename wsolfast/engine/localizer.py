"""A network that is kept and localises any images, call after call; the way of an image is that of an evaluation."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast, get_args

import torch
from PIL import Image
from torch import Tensor

from wsolfast import data, refinements
from wsolfast._nearest import nearest
from wsolfast.data.images.decode import Bits
from wsolfast.engine.assembly.build import classifier_view, eval_protocol, eval_view
from wsolfast.engine.assembly.decoders import count_decoders
from wsolfast.engine.assembly.network import Network
from wsolfast.engine.assembly.stage_refs import classifier_of, localizer_of, method_class
from wsolfast.engine.evaluation.eval_split import eval_name
from wsolfast.engine.evaluation.pipeline import stream
from wsolfast.engine.given_images import GivenImage, GivenImages, as_list
from wsolfast.engine.report.pictures import draw_boxes, overlay
from wsolfast.engine.run.determinism import deterministic_algorithms
from wsolfast.engine.run.errors import MissingError, UsageError
from wsolfast.engine.run.progress import Progress
from wsolfast.engine.run.results import EvalResults
from wsolfast.engine.run.run_folder import RunFolder
from wsolfast.methods import display_name, method_of
from wsolfast.metrics import GivenBoxes, is_constant
from wsolfast.metrics.functional import predicted_boxes
from wsolfast.recipe import Recipe, dump_recipe, parse_recipe

DEFAULT_THRESHOLD = 0.25
"""Share of a map's range where nothing was measured that would say better; docs/localize.md says where it is from."""

WHOLE_PICTURE = 0.95
"""Share of the picture from which on a box shows no place; docs/localize.md says why it is this."""


@dataclass(frozen=True)
class Located:
    """The places of one or several classes in an image, the most likely class first."""

    name: str  # path of the file, or the position among the given images: "image 3"
    size: tuple[int, int]  # (width, height) of the upright image
    class_ids: list[int]  # classes that are localised
    class_names: list[str | None]  # None if the run knows no names
    scores: list[float]  # probabilities of the classes
    boxes: list[Tensor]  # of each class, float64 [B, 4] xyxy, half-open, pixels; empty where its map is constant
    localized: list[bool]  # of each class: False without a box, and if a box covers the picture
    maps: Tensor | None  # float32 [K, h, w] in [0, 1], of each class; None of a method that gives boxes
    threshold: float | None  # where the maps were cut; None of a method that gives boxes
    read: Callable[[], Image.Image] = field(repr=False, compare=False)  # decodes the image again

    @property
    def image(self) -> Image.Image:
        """The upright image, RGB, at its own size; a file is read again."""
        return self.read()

    def overlay(self, rank: int = 0) -> Image.Image:
        """Draw the map of a class over the image, and its boxes: dashed where they cover the picture.

        Args:
            rank: position of the class in :attr:`class_ids`.

        Returns:
            Image.Image: RGB, of the image's size.
        """
        picture = self.read()
        picture = picture if self.maps is None else overlay(picture, self.maps[rank], fade=True)
        width = max(2, round(max(self.size) / 250))
        return draw_boxes(picture, self.boxes[rank], width=width, dashed=not self.localized[rank])


class Localizer:
    """A trained run's networks, or an adopted one's, kept for any number of calls.

    Args:
        run: a finished run, or what :func:`wsolfast.engine.pretrained.adopt` makes of a network as it is.
        threshold: where maps are cut, in [0, 1]; None takes the one that the run's evaluation chose, else that of its
            recipe's ``evaluate.threshold``, else :data:`DEFAULT_THRESHOLD`.
        device: where the networks run; None does what the run's recipe says.
        post: the refinement of the maps, or ``"none"``; None does what the run's recipe says.
        bits: how many bits the values of 16-bit files have, see :func:`wsolfast.data.images.decode.decode`; None does
            what the run's recipe says of its data, if it does.
        progress: where to show how far it is.

    Raises:
        UsageError: if a threshold is given to a method that gives boxes, or ``bits`` cannot be.
        MissingError: if the run is not finished, or nothing tells its classes.

    Attributes:
        class_names: names of the classes; empty if nobody knows them.
        protocol: how maps are cut.
        threshold: where maps are cut; None of a method that gives boxes.
        threshold_source: ``"given"``, ``"evaluation"``, ``"recipe"``, ``"default"`` or, where nothing is cut,
            ``"none"``.
        map: what the maps are, such as ``"CAM, refined by SCG"``; None of a method that gives boxes.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        threshold: float | None = None,
        device: str | None = None,
        post: str | None = None,
        bits: int | None = None,
        progress: Progress | None = None,
    ):
        self.run, self.progress = run, progress or Progress(quiet=True)
        self._bits = _known_bits(run.recipe.data.options.get("bits") if bits is None else bits)
        self.class_names = run.shown_class_names()
        self._recipe = recipe = _recipe(run, len(self.class_names), device, post)
        self.protocol, self._views = eval_protocol(recipe), (eval_view(recipe), classifier_view(recipe))
        network = Network(run, recipe, len(self.class_names), self.progress.log)
        self.threshold, self.threshold_source = _threshold(run, recipe, network, threshold)
        self.gives_boxes = network.gives_boxes
        self._predictor = network.predictor
        self.map = _name_map(network)

    def __call__(
        self,
        images: GivenImage | Iterable[GivenImage],
        *,
        class_name: str | int | None = None,
        topk: int = 1,
        threshold: float | None = None,
    ) -> list[Located]:
        """Localise the objects in images.

        Args:
            images: one or several: paths, also of folders and patterns; PIL images; uint8 arrays [H, W, 3] or
                [N, H, W, 3]; uint8 tensors [3, H, W] or [N, 3, H, W].
            class_name: name or number of the class to localise; None takes each image's most likely classes.
            topk: how many of these; each costs a pass through the network.
            threshold: where maps are cut, in [0, 1]; None takes :attr:`threshold`.

        Returns:
            list[Located]: one per image, in order.

        Raises:
            DataError: if an image cannot be read.
            UsageError: if the run knows no such class, or the images are of no such type.
            MissingError: if there is no image at a path.
        """
        given = as_list(images)
        found = []
        for one in self.stream(given, class_name=class_name, topk=topk, threshold=threshold):
            if isinstance(one, data.DataError):
                raise one
            found.append(one)
        return found

    def stream(
        self,
        images: Sequence,
        *,
        class_name: str | int | None = None,
        topk: int = 1,
        threshold: float | None = None,
    ) -> Generator[Located | data.DataError]:
        """Localise images batch by batch; the next ones are decoded meanwhile.

        Args:
            images: what :func:`wsolfast.engine.given_images.as_list` returned.
            class_name, topk, threshold: as for a call.

        Returns:
            Generator: a :class:`Located` for each image, in order, or the DataError of one that cannot be read.

        Raises:
            UsageError: as a call, at once.
        """
        label, threshold = self._find_class(class_name), self._checked(threshold)
        if topk < 1 or (label is not None and topk > 1):
            raise UsageError(f"topk: expected 1 or more, and 1 for a class that is given, got {topk}")
        return self._batched(images, label, min(topk, self._recipe.evaluate.topk), threshold)

    def _batched(
        self, images: Sequence, label: int | None, ranks: int, threshold: float | None
    ) -> Generator[Located | data.DataError]:
        if not images:
            return
        orient = bool(self._recipe.data.options.get("orient", True))
        dataset = GivenImages(images, *self._views, orient=orient, bits=self._bits)
        batches = dataset.batches(self._recipe.evaluate.batch_size)
        device, runtime = self._predictor.device, self._recipe.runtime
        wanted = None if label is None else torch.tensor([label], device=device)

        def step(image: Tensor, wide: Tensor | None, _: Tensor) -> tuple[Tensor, ...]:
            labels = None if wanted is None else wanted.expand(len(image))
            places, classes, scores = self._predictor(image, wide, labels)
            if labels is not None:
                # The class that is asked for comes first.
                order = (classes != labels[:, None]).to(torch.uint8).argsort(dim=1, stable=True)
                classes, scores = classes.gather(1, order), scores.gather(1, order)
            others = [self._predictor(image, wide, classes[:, rank])[0] for rank in range(1, ranks)]
            shown = torch.tensor([image.shape[:1:-1]]).expand(len(image), 2)
            return torch.stack([places, *others], dim=1), classes[:, :ranks], scores[:, :ranks], shown

        batched = stream(
            dataset,
            batches,
            step,
            device=device,
            backbones=self._predictor.backbones,
            threads=count_decoders(runtime.workers, device),
        )
        with closing(batched), deterministic_algorithms(runtime.deterministic):
            for batch, found in zip(batches, batched, strict=True):
                for row, index in enumerate(batch):
                    failure = dataset.failures.get(index)
                    yield failure or self._located(dataset, index, threshold, *(one[row] for one in found))

    def _located(
        self,
        dataset: GivenImages,
        index: int,
        threshold: float | None,
        places: Tensor,
        classes: Tensor,
        scores: Tensor,
        shown: Tensor,
    ) -> Located:
        size = dataset.sizes[index]
        sizes = torch.tensor([size]).expand(len(classes), 2)
        if threshold is None:
            given = GivenBoxes(places, shown.expand(len(classes), 2), sizes).in_images(self.protocol)
            boxes = list(given.split(1))
        else:
            boxes = predicted_boxes(places, sizes, self.protocol, threshold)
            constant = is_constant(places)
            boxes = [one[:0] if constant[rank] else one for rank, one in enumerate(boxes)]
        ids = classes.tolist()
        return Located(
            name=dataset.image_ids[index],
            size=size,
            class_ids=ids,
            class_names=[self.class_names[one] if one < len(self.class_names) else None for one in ids],
            scores=scores.tolist(),
            boxes=boxes,
            localized=[is_localized(one, size) for one in boxes],
            maps=None if threshold is None else places,
            threshold=threshold,
            read=partial(dataset.picture, index),
        )

    def _checked(self, threshold: float | None) -> float | None:
        if threshold is None:
            return self.threshold
        if self.gives_boxes:
            raise _nothing_is_cut(self._recipe)
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold: expected a share in [0, 1], got {threshold}")
        return threshold

    def _find_class(self, wanted: str | int | None) -> int | None:
        if wanted is None:
            return None
        names = self.class_names
        if wanted in names:
            return names.index(str(wanted))
        if str(wanted).isdecimal() and int(wanted) < self._recipe.evaluate.topk:
            return int(wanted)
        hint = nearest(str(wanted), names, f"give a name or a number below {self._recipe.evaluate.topk}")
        raise UsageError(f"--class {wanted!r}: the run knows no such class; {hint}")


def is_localized(boxes: Tensor, size: tuple[int, int]) -> bool:
    """Return whether boxes say where an object is: there is one, and none covers the picture.

    Args:
        boxes (Tensor[B, 4]): xyxy, half-open, pixels.
        size: (width, height) of the picture.

    Returns:
        bool: False if a box has at least :data:`WHOLE_PICTURE` of the picture's area.
    """
    if not len(boxes):
        return False
    x0, y0, x1, y1 = boxes.unbind(1)
    inside = (x1.clamp(max=size[0]) - x0.clamp(min=0)) * (y1.clamp(max=size[1]) - y0.clamp(min=0))
    return bool((inside < WHOLE_PICTURE * size[0] * size[1]).all())


def _recipe(run: RunFolder, named_classes: int, device: str | None, post: str | None) -> Recipe:
    """Return the run's recipe for any images, with a probability for every class.

    Raises:
        MissingError: if nothing tells how many classes there are.
    """
    recipe = run.recipe
    if post is not None:
        recipe = parse_recipe(dump_recipe(recipe), recipe.name, [f"evaluate.post={post}"])
    known = (classifier_of(recipe) or localizer_of(recipe)).stage.num_classes or named_classes
    if not known:
        raise MissingError(
            f"{run.path} does not know its classes yet; wsolfast eval {run.path}, or set stage.num_classes"
        )
    # Compiling and recording take longer than the images that are given here, which may differ in size.
    runtime = replace(recipe.runtime, device=device or recipe.runtime.device, compile=False, cuda_graphs=None)
    return replace(recipe, evaluate=replace(recipe.evaluate, topk=known), runtime=runtime)


def _name_map(network: Network) -> str | None:
    """Return what the maps are, such as ``"CAM, refined by SCG"``; None of boxes."""
    stage, post, method = network.localizer.stage, network.recipe.evaluate.post, network.predictor.method
    if network.gives_boxes:
        return None
    refinement = "" if post == "none" else refinements.display_name(post)
    if method_class(stage).gives_maps:
        title = method_of(stage.method) if ":" in stage.method else display_name(stage.method)
        title += f", refined by {refinement}" if refinement else ""
    else:
        title = f"{refinement} at {method.last_stage}"
    return f"{title}: {method.map_note}" if method.map_note else title


def _known_bits(bits: object) -> int | None:
    known = get_args(Bits)
    if bits is not None and bits not in known:
        raise UsageError(f"bits: expected one of {', '.join(map(str, known))}, got {bits!r}")
    return cast("int | None", bits)


def _threshold(run: RunFolder, recipe: Recipe, network: Network, given: float | None) -> tuple[float | None, str]:
    """Return where maps are cut, and who says so."""
    if network.gives_boxes:
        if given is not None:
            raise _nothing_is_cut(recipe)
        return None, "none"
    if given is not None:
        return given, "given"
    file = run.eval_path(eval_name(run, recipe, "test")) / "results.json"
    if file.is_file():
        results = EvalResults.read(file)
        if results.protocol == run.recipe.evaluate.protocol and results.cam_threshold is not None:
            return results.cam_threshold, "evaluation"
    # What was measured for maps of one refinement says nothing of another one's.
    if recipe.evaluate.threshold is not None and recipe.evaluate.post == run.recipe.evaluate.post:
        return recipe.evaluate.threshold, "recipe"
    return DEFAULT_THRESHOLD, "default"


def _nothing_is_cut(recipe: Recipe) -> UsageError:
    method = localizer_of(recipe).stage.method
    return UsageError(f"--threshold: {method} gives boxes and no maps, nothing is cut; leave it out")
