"""The causal context pool of CI-CAM: one map per class of where that class was seen, grown during training."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast import ops
from wsolfast.methods._across_ranks import of_every_process

Contribution = Literal["correct", "predicted"]
Rows = Literal["all", "touched"]


class ContextPool(nn.Module):
    r"""Maps Q [K, size, size], zero at first; :math:`Q \leftarrow \mathrm{BN}(Q + \lambda\,\mathrm{BN}(M))` per step.

    M holds, per class, the sum of the class maps of the batch's images of that class; BN brings each class to zero mean
    and unit variance over its positions. With several processes the batch is that of all of them: every one sums all
    maps, in double precision, so that all pools have the same bits.

    Args:
        num_classes: K.
        size: side of the maps; maps of another size are resized to it and back.
        contrib: ``"correct"``, images whose prediction is their label (released), or ``"predicted"``, all images.
        rows: standardise ``"all"`` classes at every step (released) or the ``"touched"`` ones (the paper).
        rate: λ.
        eps: added to the variance.
    """

    maps: Tensor

    def __init__(self, num_classes: int, size: int, *, contrib: Contribution, rows: Rows, rate: float, eps: float):
        super().__init__()
        self.contrib, self.rows, self.rate, self.eps = contrib, rows, rate, eps
        self.register_buffer("maps", torch.zeros(num_classes, size, size))

    def lookup(self, classes: Tensor, size: torch.Size) -> Tensor:
        """Return the maps [N, h, w] of ``classes`` [N], a copy that later updates leave alone."""
        return _resized(self.maps[classes], size)

    @torch.no_grad()
    def update(self, predicted: Tensor, label: Tensor, cam: Tensor) -> None:
        """Take in a batch.

        Args:
            predicted (Tensor[N]): most likely classes.
            label (Tensor[N]): true classes.
            cam (Tensor[N, h, w]): raw class maps of ``predicted``.
        """
        classes = predicted if self.contrib == "predicted" else torch.where(predicted == label, predicted, -1)
        classes = of_every_process(classes)
        cam = of_every_process(_resized(cam.to(self.maps.dtype), self.maps.shape[1:]))
        touched_only = self.rows == "touched"
        grown = ops.context_pool_update(
            self.maps, classes, cam, rate=self.rate, eps=self.eps, touched_only=touched_only
        )
        self.maps.copy_(grown)


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[1:] == size:
        return maps
    return functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
