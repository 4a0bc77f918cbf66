"""CutMix: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers ...", ICCV 2019.

A rectangle of each image is replaced by that of another one, and labels are mixed by area.
"""

import math
import random

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast.backbones import Backbone
from wsolfast.methods._across_ranks import of_every_process, place_in_batch
from wsolfast.methods._base import accuracy
from wsolfast.methods._cam_head import HeadKind
from wsolfast.methods._class_activation import ClassActivation
from wsolfast.types import Batch, TrainState


class CutMix(ClassActivation):
    r"""CAM trained on mixed images; nothing is mixed in evaluation.

    .. math:: \mathcal{L} = \lambda\, CE(\hat y, y) + (1 - \lambda)\, CE(\hat y, y_{\pi})

    With :math:`\lambda_0 \sim Beta(\alpha, \alpha)` the rectangle has the sides :math:`\sqrt{1 - \lambda_0}` of the
    image and a centre that is drawn uniformly; what lies outside is cut off and :math:`\lambda` is the share of the
    image that is left. One rectangle and one permutation :math:`\pi` per batch, as released.

    Args:
        backbone, num_classes, head, hidden_channels, dropout, cam_relu: as
            :class:`~wsolfast.methods._class_activation.ClassActivation`.
        beta: α; 1 (published) draws λ uniformly.
        probability: that a batch is mixed.

    Raises:
        ValueError: if ``beta`` is not positive or ``probability`` is none.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: HeadKind = "linear",
        hidden_channels: int = 1024,
        dropout: float = 0.0,
        cam_relu: bool = False,
        beta: float = 1.0,
        probability: float = 1.0,
    ):
        super().__init__(
            backbone, num_classes, head=head, hidden_channels=hidden_channels, dropout=dropout, cam_relu=cam_relu
        )
        if beta <= 0:
            raise ValueError(f"cutmix: beta: expected a positive number, got {beta}")
        if not 0 <= probability <= 1:
            raise ValueError(f"cutmix: probability: expected a probability, got {probability}")
        self.beta, self.probability = beta, probability

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        draw = random.Random(state.generator().initial_seed())
        if draw.random() >= self.probability:
            logits = self.classify(batch.image)
            return {"loss": functional.cross_entropy(logits, batch.label), "accuracy": accuracy(logits, batch.label)}
        share = draw.betavariate(self.beta, self.beta)
        height, width = batch.image.shape[-2:]
        box = rectangle(height, width, share, (draw.randrange(height), draw.randrange(width)))
        y0, y1, x0, x1 = box
        mine, total = place_in_batch(batch.label)
        # The other image may be another process's: rectangles travel, not images.
        other = torch.randperm(total, generator=state.generator())[mine].to(batch.label.device)
        other_label = of_every_process(batch.label)[other]
        mixed, share = paste(batch.image, of_every_process(batch.image[:, :, y0:y1, x0:x1])[other], box)
        logits = self.classify(mixed)
        own = functional.cross_entropy(logits, batch.label)
        pasted = functional.cross_entropy(logits, other_label)
        # Of the label with the larger share of the image.
        larger = batch.label if share >= 0.5 else other_label
        return {"loss": share * own + (1 - share) * pasted, "accuracy": accuracy(logits, larger)}


def rectangle(height: int, width: int, share: float, center: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return rows y0, y1 and columns x0, x1 (half-open) to replace, so that ``share`` of the image stays."""

    def kept(size: int, middle: int) -> tuple[int, int]:
        half = int(size * math.sqrt(1 - share)) // 2
        return max(0, middle - half), min(size, middle + half)

    return *kept(height, center[0]), *kept(width, center[1])


def paste(image: Tensor, patch: Tensor, box: tuple[int, int, int, int]) -> tuple[Tensor, float]:
    """Return ``image`` [N, 3, H, W] with ``patch`` [N, 3, y1 - y0, x1 - x0] in ``box``, and its own share of pixels."""
    y0, y1, x0, x1 = box
    mixed = image.clone()
    mixed[:, :, y0:y1, x0:x1] = patch
    return mixed, 1 - (y1 - y0) * (x1 - x0) / (image.shape[-2] * image.shape[-1])


NAME = "CutMix"
STAGES = {"localizer": CutMix}
