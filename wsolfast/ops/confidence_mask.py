"""CSoA's mask of the positions where a class map clearly shows the object or clearly does not."""

import torch
from torch import Tensor

from wsolfast.ops._checks import as_tensor
from wsolfast.ops._registry import define_op, widens
from wsolfast.reference import confidence_mask as reference


def _check(maps: Tensor) -> None:
    if maps.dim() < 2 or not maps.is_floating_point() or 0 in maps.shape[-2:]:
        raise ValueError(
            f"confidence_mask: expected floating-point maps of shape [..., h, w] with h, w > 0, "
            f"got {maps.dtype} {list(maps.shape)}"
        )


def _fake(maps: Tensor) -> Tensor:
    return maps.new_empty(maps.shape, dtype=torch.promote_types(maps.dtype, torch.float32))


_MASK = define_op(
    "confidence_mask",
    reference=reference.confidence_mask,
    fake=_fake,
    triton="wsolfast.kernels.confident_segmentation_loss:confidence_mask",
)


def confidence_mask(maps: Tensor) -> Tensor:
    r"""Find the positions where a map clearly shows the object or clearly does not.

    .. math:: \hat M_p = [\, |S_p - \mu_1| > \mu_2 \,],\quad \mu_1 = \bar S,\ \mu_2 = \overline{|S - \mu_1|}

    Source: CSoA (Kou et al., WACV 2021), Eqs 2-4. The mask stays the same under S -> a S + b, a ≠ 0. Sums are taken in
    float64, in a form without divisions: deviations of float32 values that are equal on paper are equal here.

    Args:
        maps (Tensor[..., h, w]): class maps as they are, not normalised; floating point, any stride.

    Returns:
        Tensor[..., h, w]: 0 or 1, the dtype of ``maps`` but at least float32. Empty for a constant map and for one
        that holds a NaN or an infinity.

    Raises:
        ValueError: if ``maps`` is not floating point or has no positions.

    Backends: CPU (C++), CUDA (Triton), elsewhere the reference. Not differentiable. Deterministic.

    Example:
        >>> confidence_mask(torch.tensor([[0.0, 2.0, 2.0, 4.0]]))
        tensor([[1., 0., 0., 1.]])
    """
    maps = as_tensor("confidence_mask", "maps", maps)
    _check(maps)
    return _MASK((maps.float() if widens(maps) else maps).detach())
