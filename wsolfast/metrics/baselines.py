"""Baselines that do not look at the image; every method has to beat them."""

import torch
from torch import Tensor

from wsolfast.ops._checks import as_number, as_size, as_tensor, holds_reals


def center_box(image_sizes: Tensor, fraction: float = 0.8) -> Tensor:
    """Return the central box that spans ``fraction`` of each side.

    Args:
        image_sizes (Tensor[N, 2]): (w, h), pixels.
        fraction: share of the width and of the height, in (0, 1].

    Returns:
        Tensor[N, 4]: float64, xyxy, half-open; for :meth:`BoxAccuracy.update_boxes`.

    Raises:
        ValueError: if ``fraction`` is outside (0, 1], or the sizes are no pairs.

    Example:
        >>> center_box(torch.tensor([[100, 50]]), fraction=0.5).tolist()
        [[25.0, 12.5, 75.0, 37.5]]
    """
    if not 0 < as_number("center_box", "fraction", fraction) <= 1:
        raise ValueError(f"center_box: fraction must be in (0, 1], got {fraction}")
    sizes = as_tensor("center_box", "image_sizes", image_sizes)
    if sizes.dim() != 2 or sizes.shape[1] != 2 or not holds_reals(sizes):
        raise ValueError(
            f"center_box: expected image_sizes as pairs (w, h) [N, 2], got {sizes.dtype} {list(sizes.shape)}"
        )
    sizes = sizes.to(torch.float64)
    margin = sizes * (1 - fraction) / 2
    return torch.cat([margin, sizes - margin], 1)


def center_gaussian(size: tuple[int, int], sigma: float = 0.25) -> Tensor:
    """Return an isotropic Gaussian around the central pixel (W // 2, H // 2), a score map for any image.

    Source: the "centre Gaussian" row of wsolevaluation (Choe et al., CVPR 2020). Its boxes are the central squares of
    all sizes whatever ``sigma`` is, as long as the outer ones keep a level above zero after quantisation.

    Args:
        size: (H, W), or the side of a square.
        sigma: standard deviation as a share of the shorter side.

    Returns:
        Tensor[H, W]: float64 in (0, 1], 1 at the centre.

    Raises:
        ValueError: if ``size`` or ``sigma`` is not positive.

    Example:
        >>> score_map = center_gaussian((3, 5))
        >>> score_map.argmax().item(), score_map[1, 2].item()
        (7, 1.0)
    """
    height, width = size = as_size("center_gaussian", "size", size)
    sigma = as_number("center_gaussian", "sigma", sigma)
    if height < 1 or width < 1 or not sigma > 0:
        raise ValueError(f"center_gaussian: size and sigma must be positive, got {size} and {sigma}")
    y = torch.arange(height, dtype=torch.float64) - height // 2
    x = torch.arange(width, dtype=torch.float64) - width // 2
    return torch.exp(-(y[:, None] ** 2 + x**2) / (2 * (sigma * min(size)) ** 2))
