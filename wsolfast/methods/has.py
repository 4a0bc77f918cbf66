"""Hide-and-Seek: Kumar Singh and Lee, "Hide-and-Seek: Forcing a Network to be Meticulous ...", ICCV 2017.

Each image is cut into squares and squares are hidden at random, differently every time it is seen, so that the network
has to find the object by whatever part is left.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast.backbones import Backbone
from wsolfast.methods._across_ranks import place_in_batch
from wsolfast.methods._base import accuracy
from wsolfast.methods._cam_head import HeadKind
from wsolfast.methods._class_activation import ClassActivation
from wsolfast.types import Batch, TrainState


class HaS(ClassActivation):
    """CAM trained on images with hidden squares; nothing is hidden in evaluation.

    Hidden pixels get the data set's mean colour, as in section 3.1 of the paper: there a first convolution answers to
    them as to an average pixel.

    Args:
        backbone, num_classes, head, hidden_channels, dropout, cam_relu: as
            :class:`~wsolfast.methods._class_activation.ClassActivation`.
        patch_sizes: sides of the squares in pixels, one drawn per image; 0 leaves the image whole. The paper tries 16,
            32, 44 and 56 at 224, and all of them and 0 mixed.
        drop_rate: probability that a square is hidden.

    Raises:
        ValueError: if a side is negative, there is none, or the rate is no probability.
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
        patch_sizes: Sequence[int] = (56,),
        drop_rate: float = 0.5,
    ):
        super().__init__(
            backbone, num_classes, head=head, hidden_channels=hidden_channels, dropout=dropout, cam_relu=cam_relu
        )
        if not patch_sizes or min(patch_sizes) < 0:
            raise ValueError(f"has: patch_sizes: expected sides in pixels, 0 for none, got {list(patch_sizes)}")
        if not 0 <= drop_rate <= 1:
            raise ValueError(f"has: drop_rate: expected a probability, got {drop_rate}")
        self.patch_sizes, self.drop_rate = tuple(patch_sizes), drop_rate

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        # The mean colour is zero once the image is normalised.
        normalized = self.backbone.normalize(batch.image)
        mine, total = place_in_batch(batch.image)
        shape = torch.Size((total, *batch.image.shape[1:]))
        seen = visible(shape, self.patch_sizes, self.drop_rate, state.generator(), mine)
        features = self.backbone.extract(normalized * seen.to(normalized))
        logits = self.head.logits(features[self.backbone.stages[-1].name])
        return {"loss": functional.cross_entropy(logits, batch.label), "accuracy": accuracy(logits, batch.label)}


def visible(
    shape: torch.Size,
    patch_sizes: Sequence[int],
    drop_rate: float,
    generator: torch.Generator,
    rows: slice = slice(None),
) -> Tensor:
    """Return the pixels that stay visible, bool [N, 1, H, W]; squares begin in the upper left.

    Args:
        shape: [N, C, H, W] of the whole batch.
        patch_sizes: sides of the squares, one drawn per image.
        drop_rate: probability that a square is hidden.
        generator: draws for the whole batch.
        rows: of the batch, whose images are returned.
    """
    count, _, height, width = shape
    drawn = torch.randint(len(patch_sizes), (count,), generator=generator)
    sides = [patch_sizes[index] for index in drawn.tolist()]
    grids = [
        torch.rand(-(-height // side), -(-width // side), generator=generator) >= drop_rate if side else None
        for side in sides
    ]
    seen = torch.ones(len(sides[rows]), 1, height, width, dtype=torch.bool)
    for image, side, grid in zip(seen, sides[rows], grids[rows], strict=True):
        if grid is not None:
            image[0] = grid.repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width]
    return seen


NAME = "HaS"
STAGES = {"localizer": HaS}
