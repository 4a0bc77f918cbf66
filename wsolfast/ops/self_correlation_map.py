"""SPA's self-correlation map generating (SCG): a coarse class map refined by how its positions correlate."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from wsolfast.ops._checks import as_tensor, as_tensors, check_type
from wsolfast.ops._registry import define_op
from wsolfast.ops.correlation_rule import CorrelationRule
from wsolfast.reference import self_correlation_map as reference

_PRECISIONS = ("strict", "fast")
_DEFAULTS = CorrelationRule()


def _check(features: Sequence[Tensor], cam: Tensor, precision: str) -> None:
    if precision not in _PRECISIONS:
        raise ValueError(f"self_correlation_map: expected precision in {_PRECISIONS}, got {precision!r}")
    if cam.dim() != 4 or not cam.is_floating_point():
        raise ValueError(
            f"self_correlation_map: expected a floating-point cam of shape [N, K, h, w], "
            f"got {cam.dtype} {list(cam.shape)}"
        )
    if not features:
        raise ValueError("self_correlation_map: expected at least one layer of features, got none")
    for layer in features:
        if layer.dim() != 4 or not layer.is_floating_point() or layer.shape[1] == 0:
            raise ValueError(
                f"self_correlation_map: expected floating-point features of shape [N, C, h, w] with C > 0, "
                f"got {layer.dtype} {list(layer.shape)}"
            )
        if layer.shape[0] != cam.shape[0] or layer.shape[2:] != cam.shape[2:]:
            raise ValueError(
                f"self_correlation_map: features {list(layer.shape)} and cam {list(cam.shape)} differ in N or h x w; "
                f"resize the cam to the features first"
            )


def _fake(features: list[Tensor], cam: Tensor, *options: Any) -> Tensor:
    return cam.new_empty(cam.shape)


def _backward(ctx: Any, grad: Tensor) -> NoReturn:
    raise RuntimeError(
        "self_correlation_map is not differentiable: it refines maps at inference; call it under torch.no_grad() "
        "or on detached features and cam"
    )


_FORWARD = define_op(
    "self_correlation_map",
    reference=reference.self_correlation_map,
    fake=_fake,
    backward=_backward,
    triton="wsolfast.kernels.self_correlation_map:self_correlation_map",
)


def self_correlation_map(
    features: Tensor | Sequence[Tensor],
    cam: Tensor,
    rule: CorrelationRule = _DEFAULTS,
    *,
    precision: str | None = None,
) -> Tensor:
    r"""Refine a coarse class map by the first- and second-order correlation of its positions.

    With S the cosine similarities of the P = h·w positions and w the ``so_weight`` of the rule, each layer gives a
    correlation matrix

    * ``"paper"``: :math:`\max(\mathrm{ReLU}(S), \hat S^2)` with
      :math:`S^2_{ij} = \frac1P \sum_{k \ne i, j} S_{ik} S_{kj}`, each row min-max scaled;
    * ``"head"`` (released code): A = ReLU(S) cut below ``fo_th``;
      :math:`\max(A D^{-1}, w A_0 D_0^{-1} A_0 D_0^{-1})`, columns summing to one, the second order cut below
      ``so_th``/P; A_0 is A without its diagonal and D, D_0 are the column sums;
    * ``"v0"`` (first release): :math:`\max(A, w \hat H)`, columns summing to one, where :math:`H = A_0 A_0` is
      min-max scaled per column and cut below ``so_th``,

    and layers are added. The map of position j is column j of the released matrices and row j of the paper's. The maps
    of the object's positions (coarse map at least ``delta_h``) minus those of the background (at most ``delta_l``),
    negatives cut to zero, are the result.

    Source: SPA (Pan et al., CVPR 2021), Eqs 6-14, and its released code.

    Args:
        features (Tensor[N, C, h, w] or a sequence of them): floating point, any stride; layers may differ in C.
        cam (Tensor[N, K, h, w]): K coarse maps per image in [0, 1].
        rule: which variant, its thresholds, and what is made of the maps of the object and the background.
        precision: what a GPU multiplies. "strict": the digits of float32, from three TF32 products, or from one where
            :func:`torch.set_float32_matmul_precision` allows it. "fast": float16, summed in float32; maps then differ
            by about 1e-3, more where a value that close to a threshold falls on its other side. ``None``: "fast" if all
            features have 16 bits, else "strict". Float64 stays float64, and the CPU is always strict.

    Returns:
        Tensor[N, K, h, w]: dtype of ``cam``, contiguous, in [0, 1]. An empty set contributes zero. A feature that is
        not finite makes the maps of its image NaN, a coarse map that is not finite its own.

    Raises:
        ValueError: if shapes or dtypes do not fit or the precision is unknown.

    Backends: CPU (C++), CUDA (Triton), elsewhere the reference. Not differentiable: backward raises. float16 and
    bfloat16 are computed in float32 but for the products of "fast". Deterministic for a fixed number of threads. On
    CUDA without a synchronisation, 2 GiB of images at a time; an image needs a P x P matrix per layer, two above 256
    positions, but for the paper's variant and map with P > 2C.

    Example:
        >>> features = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]]])  # [1, 2, 1, 4]
        >>> cam = torch.tensor([[[[1.0, 0.08, 0.0, 0.0]]]])
        >>> self_correlation_map(features, cam)  # the second position looks like the first
        tensor([[[[1.0000, 0.2500, 0.0000, 0.0000]]]])
    """
    layers = as_tensors(
        "self_correlation_map", "features", [features] if isinstance(features, Tensor | np.ndarray) else features
    )
    cam = as_tensor("self_correlation_map", "cam", cam)
    check_type("self_correlation_map", "rule", rule, CorrelationRule)
    if precision is None:
        precision = "fast" if all(layer.element_size() == 2 for layer in layers) else "strict"
    _check(layers, cam, precision)
    double = any(tensor.dtype == torch.float64 for tensor in (cam, *layers))
    compute = torch.float64 if double else torch.float32
    refined = _FORWARD(
        # The GPU kernel reads 16-bit features as they are.
        [layer if layer.is_cuda and layer.element_size() > 1 else layer.to(compute) for layer in layers],
        cam.to(compute),
        *rule.codes(),
        precision,
    )
    return refined.to(cam.dtype)
