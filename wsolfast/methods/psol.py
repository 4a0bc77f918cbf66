"""PSOL: Zhang et al., "Rethinking the Route Towards Weakly Supervised Object Localization", CVPR 2020.

An object's box is learnt as in supervised detection of one object, of whatever class, from the boxes that DDT finds in
the training images. Classes are told by a network of its own (``psol.box``), or by a second head on the same trunk
(``psol.joint``). There is no map. This follows the released code, which trains ``psol.box`` on ImageNet.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method, accuracy, scale_box, wanted_classes
from wsolfast.methods._cam_head import CamHead, HeadKind
from wsolfast.methods._shapes import to_pixels
from wsolfast.types import Batch, Features, Localization, TrainState

# Of the squared error of shares, which is small.
BOX_WEIGHT = 50.0


class BoxRegressor(nn.Module):
    """Mean of the features, one hidden layer, four sigmoids: x, y, width and height as shares of the image.

    Args:
        channels: of the features.
        hidden_channels: width of the hidden layer.

    Raises:
        ValueError: if the hidden layer has no channel.
    """

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        if hidden_channels < 1:
            raise ValueError(f"psol: hidden_channels: expected at least 1, got {hidden_channels}")
        hidden, last = nn.Linear(channels, hidden_channels), nn.Linear(hidden_channels, 4)
        self.layers = nn.Sequential(hidden, nn.ReLU(inplace=True), last)

    def forward(self, features: Tensor) -> Tensor:
        """Return shares [N, 4] of features [N, C, h, w]; at least float32."""
        logits = self.layers(features.mean((2, 3)))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()


class PSOLBox(Method):
    r"""The box regressor alone; ``evaluate.classifier`` names the network that tells classes.

    .. math:: \mathcal{L} = 50 \cdot \frac{1}{4N} \sum_n \lVert b_n - t_n \rVert^2

    with :math:`b` the four shares that are found and :math:`t` those of the pseudo box in the crop. An image whose crop
    shows nothing of its box adds 0.

    Args:
        backbone: its last stage is pooled.
        num_classes: of the data set; the network has no use for it.
        hidden_channels: width of the hidden layer between the pooled features and the box.

    Raises:
        ValueError: if the hidden layer has no channel.
    """

    classifies = False
    gives_boxes = True

    def __init__(self, backbone: Backbone, num_classes: int, *, hidden_channels: int = 512):
        super().__init__()
        self.backbone = backbone
        self.regressor = BoxRegressor(backbone.stages[-1].channels, hidden_channels)

    def box_maker(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        """Return the function from shares of an image to pixels of it, each corner rounded up as in the release."""
        return ceil_box

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        return {"loss": box_loss(self.regressor(self.features(batch.image)[self.last_stage]), batch, "psol.box")}

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Localise with one box [N, 1, 4], whatever the class; it is not clipped to the image."""
        boxes = boxes_of(self.regressor(features[self.last_stage]), size)
        classes = label if label is not None else boxes.new_full(boxes.shape[:1], -1, dtype=torch.int64)
        return Localization(None, classes[:, None], boxes=boxes[:, None])


class PSOLJoint(Method):
    """The box regressor and a classifier on one trunk, trained together on both losses.

    Args:
        backbone: its last stage feeds both heads.
        num_classes: K.
        head: the classifier: ``"linear"``, or ``"pretrained"`` for the one that came with the backbone's weights.
        loss_weight: weight of the classifier's cross-entropy beside the box loss; the paper does not give it.
        hidden_channels: width of the hidden layer between the pooled features and the box.

    Raises:
        ValueError: if ``loss_weight`` is negative, the hidden layer has no channel, or the head does not fit.
    """

    gives_boxes = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: HeadKind = "linear",
        loss_weight: float = 1.0,
        hidden_channels: int = 512,
    ):
        super().__init__()
        if loss_weight < 0:
            raise ValueError(f"psol.joint: loss_weight: expected at least 0, got {loss_weight}")
        self.backbone = backbone
        self.regressor = BoxRegressor(backbone.stages[-1].channels, hidden_channels)
        self.classifier = CamHead(backbone, num_classes, head)
        self.loss_weight = loss_weight

    def box_maker(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        """Return that of :class:`PSOLBox`."""
        return ceil_box

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        features = self.features(batch.image)[self.last_stage]
        logits = self.classifier.logits(features)
        loss_box = box_loss(self.regressor(features), batch, "psol.joint")
        loss_cls = functional.cross_entropy(logits, batch.label)
        return {
            "loss": loss_box + self.loss_weight * loss_cls,
            "loss_box": loss_box,
            "loss_cls": loss_cls,
            "accuracy": accuracy(logits, batch.label),
        }

    def classify_features(self, features: Features) -> Tensor:
        return self.classifier.logits(features[self.last_stage])

    def localize_features(
        self, features: Features, size: Sequence[int], label: Tensor | None, topk: int, *, ranking: Tensor | None = None
    ) -> Localization:
        """Localise every class with the same box."""
        logits = self.classify_features(features)
        classes = wanted_classes(logits if ranking is None else ranking, label, topk)
        boxes = boxes_of(self.regressor(features[self.last_stage]), size)
        return Localization(logits, classes, boxes=boxes[:, None].expand(-1, classes.shape[1], -1))


def ceil_box(exported: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a box [4] xyxy, given as shares of an image, in whole pixels of its (width, height), rounded up."""
    return scale_box(exported, size).ceil()


def box_loss(found: Tensor, batch: Batch, stage: str) -> Tensor:
    """Return 50 times the mean squared error of ``found`` shares [N, 4] and those of the batch's pseudo boxes.

    Raises:
        ValueError: if the batch has no pseudo boxes.
    """
    if batch.pseudo_box is None:
        raise ValueError(f'{stage}: trains on the boxes of an earlier stage; give it uses = {{pseudo_box = "STAGE"}}')
    height, width = batch.image.shape[-2:]
    wanted = shares_of(batch.pseudo_box, (width, height)).to(found)
    # The release would train on boxes that end before they begin.
    shown = (wanted[:, 2:] > 0).all(1, keepdim=True)
    return BOX_WEIGHT * ((found - wanted).square() * shown).mean()


def shares_of(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Return boxes [N, 4], xyxy in pixels of an image of (width, height), as x, y, width, height in shares of it."""
    shares = boxes / boxes.new_tensor([*size, *size])
    return torch.cat([shares[:, :2], shares[:, 2:] - shares[:, :2]], 1)


def boxes_of(shares: Tensor, size: Sequence[int]) -> Tensor:
    """Return x, y, width, height [N, 4] in shares of an image of (H, W) as xyxy in pixels of it."""
    corners = torch.cat([shares[:, :2], shares[:, :2] + shares[:, 2:]], 1)
    return to_pixels(corners, size)


NAME = "PSOL"
STAGES = {"box": PSOLBox, "joint": PSOLJoint}
