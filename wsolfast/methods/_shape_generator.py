"""GC-Net's learned generator: a small network that draws the mask of a shape from its parameters.

A stage of its own trains it on drawn shapes, before the detector: ``method =
"wsolfast.methods._shape_generator:ShapeGenerator"``. The images of its batches only say how many shapes a step draws.
"""

import torch
from torch import Tensor, nn

from wsolfast.backbones import Backbone
from wsolfast.methods._base import Method
from wsolfast.methods._shapes import PARAMETERS, Shape, shape_level, with_full_extents
from wsolfast.types import Batch, TrainState, derive_seed

SIDE = 224


class ShapeGenerator(Method):
    r"""Parameters of a shape to its mask, trained alone with the Dice loss over a whole batch.

    .. math:: \mathcal{L} = 1 - \frac{2 \sum m t + 1}{\sum m^2 + \sum t^2 + 1}

    with m the masks that are drawn and t those of the true shapes, 1 inside. Parameters are uniform in [0, 1], ours:
    how the released ones are drawn is not known.

    Args:
        backbone: every stage has one; this method has no use for it and freezes it.
        num_classes: no use for it either.
        shape: ``"rectangle"``, ``"rotated_rectangle"`` or ``"ellipse"``. A rectangle's extents are halves: its corners
            lie at centre ± extents, as released.
    """

    classifies = False

    def __init__(self, backbone: Backbone, num_classes: int, *, shape: Shape = "rectangle"):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.shape = shape
        self.seed_map = nn.Sequential(nn.Linear(PARAMETERS[shape], 144), nn.ReLU(), nn.Unflatten(1, (1, 12, 12)))
        self.layers = nn.Sequential(
            *_upscale(1, 256, 3, stride=1, padding=0),  # 14x14
            *_upscale(256, 128, 4, stride=2, padding=1),  # 28x28
            *_upscale(128, 64, 4, stride=2, padding=1),  # 56x56
            nn.Upsample(scale_factor=2),
            nn.ConvTranspose2d(64, 1, 4, stride=2, padding=1),  # 224x224
        )

    def draw(self, parameters: Tensor) -> Tensor:
        """Return masks [N, 224, 224] in (0, 1) of ``parameters`` [N, 4 or 5] in [0, 1]."""
        logits = self.layers(self.seed_map(parameters))[:, 0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        count = PARAMETERS[self.shape]
        # By image, so that a shape does not depend on who else is in the batch or part of it.
        seeds = [derive_seed(f"{state.seed}/{state.step}/{image_id}") for image_id in batch.image_id]
        drawn = [torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        parameters = torch.stack(drawn).to(next(self.parameters()))
        full = with_full_extents(parameters) if self.shape == "rectangle" else parameters
        truth = shape_level(full, self.shape, (SIDE, SIDE)) < 1
        return {"loss": squared_dice_loss(self.draw(parameters), truth)}


def squared_dice_loss(mask: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - (2 Σmt + 1) / (Σm² + Σt² + 1) over all positions of all masks, a scalar.

    Args:
        mask (Tensor[N, H, W]): in [0, 1].
        truth (Tensor[N, H, W]): bool.
    """
    t = truth.to(mask.dtype)
    return 1 - (2 * (mask * t).sum() + 1) / (mask.square().sum() + t.sum() + 1)


def _upscale(inputs: int, outputs: int, kernel: int, *, stride: int, padding: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU()]
