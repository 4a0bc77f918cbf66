"""GC-Net: Lu et al., "Geometry Constrained Weakly Supervised Object Localization", ECCV 2020.

A network looks at an image once and answers with the parameters of a shape: no map, no threshold. It learns them from
another network that tells classes apart and stands still: what the shape covers shall be of the image's class, and
what it leaves uncovered shall be of none. This follows the released code.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method, MethodError
from wsolfast.methods._shape_generator import ShapeGenerator
from wsolfast.methods._shapes import PARAMETERS, Shape, shape_boxes, shape_mask, with_full_extents
from wsolfast.types import Batch, Features, Localization, TrainState


class GCNet(Method):
    r"""A detector of one shape per image, trained by a frozen classifier.

    With m the mask of the shape, x the normalised image, in which 0 is the mean colour, f the classifier,
    :math:`p = \text{softmax} f(x (1 - m))` and extents :math:`\sigma_2, \sigma_3`,

    .. math:: \mathcal{L} = CE(f(x m), y) + \lambda_b \left(\log K + \sum_k p_k \log p_k\right)
        + \lambda_a \overline{\sigma_2 \sigma_3}

    The released code has 5.3 instead of log K, whatever K: no gradient depends on it. The classifier is in evaluation
    mode, where the released code leaves it in training mode: its dropout and its batch norms do not move.

    Args:
        backbone: its last stage feeds a linear layer and sigmoids, which are the parameters of the shape.
        num_classes: K.
        shape: ``"rectangle"``, ``"rotated_rectangle"`` or ``"ellipse"``.
        generator: what draws the mask: the ``"closed_form"``, or a ``"cnn"``, the network ``generator`` of an earlier
            stage, see :class:`~wsolfast.methods._shape_generator.ShapeGenerator`. A rectangle of a ``"cnn"`` is twice
            as wide and high as its extents say, as released; λ_a counts the extents.
        grid: the last stage is averaged to grid × grid positions, which the linear layer reads: 1 for the mean.
        back_weight: λ_b; 0 leaves the background out, at half the cost of the classifier.
        area_weight: λ_a; 0 leaves the area out.

    Raises:
        ValueError: if a weight is negative, or the grid has no position.
    """

    classifies = False
    gives_boxes = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        shape: Shape = "rectangle",
        generator: Literal["closed_form", "cnn"] = "closed_form",
        grid: int = 1,
        back_weight: float = 1.0,
        area_weight: float = 2.5,
    ):
        super().__init__()
        for option, weight in (("back_weight", back_weight), ("area_weight", area_weight)):
            if weight < 0:
                raise ValueError(f"gc_net: {option}: expected at least 0, got {weight}")
        if grid < 1:
            raise ValueError(f"gc_net: grid: expected at least 1, got {grid}")
        self.backbone = backbone
        self.grid = grid
        self.head = nn.Linear(backbone.stages[-1].channels * grid * grid, PARAMETERS[shape])
        self.sharpness = nn.Parameter(torch.tensor(10.0)) if generator == "closed_form" else None
        self.num_classes, self.shape = num_classes, shape
        self.back_weight, self.area_weight = back_weight, area_weight
        # Not a module: what stands still belongs to no checkpoint, and evaluation does without.
        self.frozen: dict[str, Method] = {}

    @property
    def networks(self) -> tuple[str, ...]:
        return ("classifier",) if self.sharpness is not None else ("classifier", "generator")

    def take_network(self, name: str, network: Method) -> None:
        if name == "generator" and (not isinstance(network, ShapeGenerator) or network.shape != self.shape):
            raise ValueError(f"gc_net: expected a ShapeGenerator of shape {self.shape!r}, got {_described(network)}")
        self.frozen[name] = network

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        for name in self.networks:
            if name not in self.frozen:
                raise MethodError(f'gc_net: has no {name} to train with; give it networks = {{{name} = "STAGE"}}')
        parameters = self.detect(self.features(batch.image))
        image = _in_unit_range(batch.image, parameters.dtype)
        colour = self.frozen["classifier"].backbone.input_mean.to(image)
        covered = (image - colour) * self.mask(parameters, image.shape[-2:])[:, None]
        # Either is 0 in the normalised image where the other one shows.
        views = [covered + colour, image - covered] if self.back_weight else [covered + colour]
        # One pass of the classifier over both.
        logits = self._classify(torch.cat(views)).split(len(image))
        losses = {"loss_obj": functional.cross_entropy(logits[0], batch.label)}
        total = losses["loss_obj"]
        if self.back_weight:
            losses["loss_back"] = math.log(self.num_classes) - entropy(logits[1])
            total = total + self.back_weight * losses["loss_back"]
        losses["loss_area"] = (parameters[:, 2] * parameters[:, 3]).mean()
        return {"loss": total + self.area_weight * losses["loss_area"]} | losses

    def detect(self, features: Features) -> Tensor:
        """Return the parameters of a shape [N, 4 or 5] in (0, 1), at least float32, from what ``features`` returned."""
        found = self.head(functional.adaptive_avg_pool2d(features[self.last_stage], self.grid).flatten(1))
        return found.to(torch.promote_types(found.dtype, torch.float32)).sigmoid()

    def mask(self, parameters: Tensor, size: Sequence[int]) -> Tensor:
        """Return the soft masks [N, H, W] in (0, 1) of what :meth:`detect` returned.

        Args:
            parameters (Tensor[N, 4 or 5]): of the shapes.
            size: (H, W).
        """
        if self.sharpness is not None:
            return shape_mask(parameters, self.shape, self.sharpness.to(parameters), size)
        generator = self.frozen["generator"]
        assert isinstance(generator, ShapeGenerator)
        drawn = generator.draw(parameters)[:, None]
        return functional.interpolate(drawn, tuple(size), mode="bilinear", align_corners=False)[:, 0]

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Localise with one box [N, 1, 4] around the shape, whatever the class.

        The released code truncates the corners of turned rectangles to whole pixels, and takes the box of an ellipse
        from its raster; here both are exact.
        """
        parameters = self.detect(features)
        if self.sharpness is None and self.shape == "rectangle":
            parameters = with_full_extents(parameters)
        boxes = shape_boxes(parameters, self.shape, size)[:, None]
        classes = boxes.new_full(boxes.shape[:1], -1, dtype=torch.int64) if label is None else label
        return Localization(None, classes[:, None], boxes=boxes)

    def evidence(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return the soft mask, of which the box is the outside; nothing where another network draws it."""
        if self.sharpness is None:
            return {}
        return {"mask": self.mask(self.detect(self.features(image)), image.shape[-2:])}

    def _classify(self, image: Tensor) -> Tensor:
        logits = self.frozen["classifier"].classify(image)
        if logits.shape[1] != self.num_classes:
            raise MethodError(f"gc_net: classifier: it knows {logits.shape[1]} classes, expected {self.num_classes}")
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy in nats, a scalar, of the probabilities behind ``logits`` [N, K]."""
    log_probability = logits.log_softmax(1)
    return -(log_probability.exp() * log_probability).sum(1).mean()


def _described(network: Method) -> str:
    return f"shape {network.shape!r}" if isinstance(network, ShapeGenerator) else type(network).__name__


def _in_unit_range(image: Tensor, dtype: torch.dtype) -> Tensor:
    scaled = image.to(dtype)
    return scaled / 255 if image.dtype == torch.uint8 else scaled


NAME = "GC-Net"
STAGES = {"detector": GCNet}
