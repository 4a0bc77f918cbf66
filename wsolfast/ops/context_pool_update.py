"""Growth of CI-CAM's context pool by a batch."""

from typing import Any

from torch import Tensor

from wsolfast.ops._checks import as_flag, as_number, as_tensor, check_classes
from wsolfast.ops._registry import define_op
from wsolfast.reference import context_pool_update as reference


def _check(maps: Tensor, classes: Tensor, cam: Tensor) -> None:
    if maps.dim() != 3 or not maps.is_floating_point() or maps.element_size() < 4:
        raise ValueError(
            f"context_pool_update: expected float32 or float64 maps of shape [K, h, w], "
            f"got {maps.dtype} {list(maps.shape)}"
        )
    if cam.dtype != maps.dtype or cam.dim() != 3 or cam.shape[1:] != maps.shape[1:]:
        raise ValueError(
            f"context_pool_update: expected {maps.dtype} cam of shape [N, {maps.shape[1]}, {maps.shape[2]}], "
            f"got {cam.dtype} {list(cam.shape)}"
        )
    check_classes("context_pool_update", "classes", classes, cam.shape[0])


def _fake(maps: Tensor, *options: Any) -> Tensor:
    return maps.new_empty(maps.shape)


_FORWARD = define_op(
    "context_pool_update",
    reference=reference.context_pool_update,
    fake=_fake,
    triton="wsolfast.kernels.context_pool_update:context_pool_update",
)


def context_pool_update(
    maps: Tensor, classes: Tensor, cam: Tensor, *, rate: float = 0.01, eps: float = 1e-5, touched_only: bool = False
) -> Tensor:
    r"""Return a pool of class maps after one step, :math:`Q \leftarrow \mathrm{BN}(Q + \lambda\,\mathrm{BN}(M))`.

    M holds, per class, the sum of the batch's maps of that class; BN brings each class to zero mean and unit variance
    over its positions.

    Source: CI-CAM (Shao et al., ACM MM 2021), Eq 7, and the released code.

    Args:
        maps (Tensor[K, h, w]): the pool Q, float32 or float64.
        classes (Tensor[N]): integer class of each map of the batch; one outside [0, K) has no part in it.
        cam (Tensor[N, h, w]): class maps of the batch, in the dtype of ``maps`` or, as autocast leaves it, in 16 bits.
        rate: λ.
        eps: added to the variance.
        touched_only: classes without a map in the batch stay as they are.

    Returns:
        Tensor[K, h, w]: the grown pool, new memory. A NaN in a map that takes part makes every class NaN that changes.

    Raises:
        ValueError: if shapes or dtypes do not fit.

    Backends: CUDA (Triton), elsewhere the reference. Not differentiable. M is summed in double precision, so that the
    order of the batch is not seen. Deterministic. A strided ``maps`` or ``cam`` is copied.

    Example:
        >>> pool, cam = torch.zeros(2, 1, 2), torch.tensor([[[1.0, 3.0]]])
        >>> context_pool_update(pool, torch.tensor([1]), cam, rate=1.0).round().tolist()
        [[[0.0, 0.0]], [[-1.0, 1.0]]]
    """
    op = "context_pool_update"
    maps = as_tensor(op, "maps", maps)
    classes, cam = as_tensor(op, "classes", classes, maps), as_tensor(op, "cam", cam, maps)
    rate, eps = as_number(op, "rate", rate), as_number(op, "eps", eps)
    touched_only = as_flag(op, "touched_only", touched_only)
    if cam.is_floating_point() and cam.element_size() == 2:
        cam = cam.to(maps.dtype)
    _check(maps, classes, cam)
    return _FORWARD(maps, classes.long(), cam, rate, eps, touched_only)
