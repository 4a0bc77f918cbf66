"""The two losses of CSoA: confident segmentation (ConfSeg) and co-supervised augmentation (CoAug)."""

import torch
from torch import Tensor

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


def co_supervised_loss(
    vectors: Tensor,
    label: Tensor,
    *,
    gamma: float = 1.0,
    delta: float = 1.0,
    reduction: str = "sum",
    eps: float = 1e-6,
) -> Tensor:
    r"""Objects of one class look alike, and every object differs from its background, which looks alike throughout.

    With :math:`c_m = |F_m - B_m|`, :math:`b_m = |B_m - K_m|` and :math:`D_{mn} = |F_m - F_n|`, over pairs m < n:

    .. math::
        \ell^{same}_{mn} = \frac{\gamma (b_m + b_n) + D_{mn}}{(c_m + c_n)/2 + \epsilon},\quad
        \ell^{diff}_{mn} = \frac{\gamma (b_m + b_n)}{\delta D_{mn} + (c_m + c_n)/2 + \epsilon}

    Under a process group the pairs are those of the batches of all ranks, and the loss is the same on every rank; its
    gradient is that of one process, as :func:`~wsolfast.methods._across_ranks.of_every_process` says.

    Source: Eqs 8-12. The superscripts of Eq 12 are swapped in print; the conditions under its sums are what is followed
    here. The scale of the vectors does not matter but for eps.

    Args:
        vectors (Tensor[N, 3, D]): of each image's foreground F, background B and confident background K.
        label (Tensor[N]): classes.
        gamma: weight of the background distances.
        delta: weight of the distance between classes.
        reduction: ``"sum"`` over all pairs, as printed, or ``"mean"`` over either set of pairs.
        eps: added to the denominators.

    Returns:
        Scalar; a set without pairs adds 0.
    """
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    vectors, label = of_every_process(vectors), of_every_process(label)
    foreground, background, confident = vectors.unbind(1)
    object_apart = torch.linalg.vector_norm(foreground - background, dim=1)
    background_spread = torch.linalg.vector_norm(background - confident, dim=1)
    # The differences themselves: |a|² + |b|² - 2ab has no digits left where two objects nearly agree.
    apart = torch.linalg.vector_norm(foreground[:, None] - foreground[None], dim=2)
    object_apart = (object_apart[:, None] + object_apart[None]) / 2 + eps
    background_spread = gamma * (background_spread[:, None] + background_spread[None])
    once = torch.ones_like(apart, dtype=torch.bool).triu(1)
    equal = label[:, None] == label[None]
    total = vectors.new_zeros(())
    for pairs, loss in (
        (once & equal, (background_spread + apart) / object_apart),
        (once & ~equal, background_spread / (delta * apart + object_apart)),
    ):
        part = loss.where(pairs, 0).sum()
        total = total + (part / pairs.sum().clamp(min=1) if reduction == "mean" else part)
    return total
