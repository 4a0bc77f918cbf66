"""The two losses of CSoA: confident segmentation (ConfSeg) and co-supervised augmentation (CoAug)."""

import torch
from torch import Tensor

from wsolfast import ops
from wsolfast.methods._across_ranks import of_every_process

REDUCTIONS = ("mean", "sum")


def confidence_mask(maps: Tensor) -> Tensor:
    r"""Where a map clearly shows the object or clearly does not.

    .. math:: \hat M_{ij} = [\, |S_{ij} - \mu_1| > \mu_2 \,],\quad \mu_1 = \bar S,\ \mu_2 = \overline{|S - \mu_1|}

    Source: Eqs 2-4. The mask stays the same under S -> a S + b, a ≠ 0; that of a constant map is empty.

    Args:
        maps (Tensor[..., h, w]): class maps as they are, not normalised.

    Returns:
        Tensor[..., h, w]: 0 or 1, the dtype of ``maps`` but at least float32, no gradient.
    """
    maps = maps.detach().to(torch.promote_types(maps.dtype, torch.float32))
    deviation = (maps - maps.mean((-2, -1), keepdim=True)).abs()
    return (deviation > deviation.mean((-2, -1), keepdim=True)).to(maps.dtype)


def confident_segmentation_loss(
    late: Tensor, early: Tensor, mask: Tensor, *, detach_teacher: bool = True, reduction: str = "sum"
) -> Tensor:
    """L1 distance of the early branch's maps to the late branch's where the late ones are confident, mean of the batch.

    Source: Eq 5, a sum over positions; whether a gradient reaches the late branch is not said there.

    Args:
        late (Tensor[N, h, w]): maps of the labels from the late stage, the teacher.
        early (Tensor[N, h, w]): those from the early stage.
        mask (Tensor[N, h, w]): :func:`confidence_mask` of ``late``.
        detach_teacher: no gradient to ``late``.
        reduction: ``"sum"`` or ``"mean"`` over all h·w positions, confident or not.

    Returns:
        Scalar; 0 for an empty batch.
    """
    teacher = late.detach() if detach_teacher else late
    loss = ((early - teacher).abs() * mask).sum()
    return loss / max(1, mask.numel() if reduction == "mean" else len(mask))


def co_supervised_loss(vectors: Tensor, label: Tensor, **options) -> Tensor:
    """:func:`wsolfast.ops.co_supervised_loss` of the images of all processes, the same on every one.

    Its gradient is that of one process, as :func:`~wsolfast.methods._across_ranks.of_every_process` says.
    """
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return ops.co_supervised_loss(of_every_process(vectors), of_every_process(label), **options)
