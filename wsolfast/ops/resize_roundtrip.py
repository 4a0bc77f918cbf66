"""The detour of SPA's coarse map: up to the image and down again, evaluated without the image-sized map."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wsolfast.ops._checks import as_size, as_tensor


def resize_roundtrip(cam: Tensor, image_size: Sequence[int]) -> Tensor:
    """Resize maps bilinearly to the image and back to their own size.

    The two resizes are linear and separable, so they are one h x h and one w x w matrix. The round trip is not the
    identity: values move by up to about 0.05.

    Source: SPA's released inference, which keeps its coarse map at image size and shrinks it again before the
    correlation. Both resizes are bilinear without corner alignment or antialiasing, as in OpenCV.

    Args:
        cam (Tensor[..., h, w]): floating point.
        image_size: (H, W) of the image in pixels, or the side of a square.

    Returns:
        Tensor[..., h, w]: same dtype.

    Raises:
        ValueError: if ``cam`` has fewer than two dimensions or is not floating point, or a side is not positive.

    Composed of PyTorch operators: every device, differentiable.

    Example:
        >>> resize_roundtrip(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), (4, 4))
        tensor([[[0.1250, 0.8750],
                 [0.1250, 0.8750]]])
    """
    cam = as_tensor("resize_roundtrip", "maps", cam)
    image_size = as_size("resize_roundtrip", "image_size", image_size)
    if cam.dim() < 2 or not cam.is_floating_point():
        raise ValueError(
            f"resize_roundtrip: expected floating-point maps of shape [..., h, w], got {cam.dtype} {list(cam.shape)}"
        )
    if min(image_size) < 1:
        raise ValueError(f"resize_roundtrip: expected a positive image size (H, W), got {tuple(image_size)}")
    if cam.element_size() < 4:
        return resize_roundtrip(cam.float(), image_size).to(cam.dtype)
    down = _one_axis(cam, cam.shape[-2], image_size[0])
    across = _one_axis(cam, cam.shape[-1], image_size[1])
    return down @ cam @ across.mT


def _one_axis(like: Tensor, size: int, image_size: int) -> Tensor:
    if size == 0:
        return like.new_empty(0, 0)
    impulses = torch.eye(size, dtype=like.dtype, device=like.device).unsqueeze(0)
    there = interpolate(impulses, size=image_size, mode="linear", align_corners=False)
    return interpolate(there, size=size, mode="linear", align_corners=False)[0].mT
