"""SPOL's pseudo labels: object, background and ignored pixels from a class map and the Gaussian fitted to it."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from wsolfast.ops._checks import as_number, as_size, as_tensor, check_type
from wsolfast.ops._registry import backends, define_op
from wsolfast.reference import gaussian_prior_labels as reference

_CHOICES = {
    "norm": ("peak", "grid_max"),
    "source": ("both", "cam", "gaussian"),
    "empty": ("ignore", "background"),
}


@dataclass(frozen=True)
class GaussianPrior:
    """How a class map becomes pseudo labels. The defaults are the paper's; :data:`GAUSSIAN_PRIORS` has both presets.

    Attributes:
        weight_low: pixels below it have no weight in the fit.
        weight_high: nor have pixels above it.
        per_contour: fit one Gaussian to every contour of the weighted pixels (holes' contours included, 8-connected,
            each with all that it encloses) instead of one to the whole map.
        min_area: contours whose polygon through the pixel centres is smaller are left out.
        covariance_scale: factor on the fitted covariance.
        norm: a Gaussian's "peak" is one, or its largest value on the pixels is ("grid_max"), which lie beside the peak.
        gate: the Gaussian, scaled so, makes object what exceeds the gate. None: the map is replaced by the
            maximum of itself and the Gaussian.
        object_threshold: object above it.
        background_threshold: background below it, unless it is object.
        source: label by "both", by the "cam" alone, or by the "gaussian" alone (object above the gate, background
            elsewhere).
        quantize: compare map and Gaussian as bytes, ``floor(255 x)``, as the released code reads them from its files;
            these are besides resized to the size of the image and back, which is not done here.
        empty: label of a map without a positive value.

    Raises:
        ValueError: if a field is out of range.

    Example:
        >>> prior = GaussianPrior(source="cam", object_threshold=0.6, background_threshold=0.2)
        >>> gaussian_prior_labels(torch.tensor([[[0.1, 0.5, 1.0]]]), (1, 3), prior=prior)
        tensor([[[  0, 255,   1]]], dtype=torch.uint8)
    """

    weight_low: float = 0.0
    weight_high: float = math.inf
    per_contour: bool = False
    min_area: float = 20.0
    covariance_scale: float = 1.0
    norm: Literal["peak", "grid_max"] = "peak"
    gate: float | None = 0.7
    object_threshold: float = 0.5
    background_threshold: float = 0.004
    source: Literal["both", "cam", "gaussian"] = "both"
    quantize: bool = False
    empty: Literal["ignore", "background"] = "ignore"

    def __post_init__(self) -> None:
        for name in ("weight_low", "weight_high", "min_area", "object_threshold", "background_threshold"):
            if not as_number("GaussianPrior", name, getattr(self, name)) >= 0:
                raise ValueError(f"GaussianPrior: {name} must not be negative, got {getattr(self, name)}")
        if not 0 < as_number("GaussianPrior", "covariance_scale", self.covariance_scale) < math.inf:
            raise ValueError(f"GaussianPrior: covariance_scale must be positive, got {self.covariance_scale}")
        if self.gate is not None and not 0 < as_number("GaussianPrior", "gate", self.gate) <= 1:
            raise ValueError(f"GaussianPrior: gate must be in (0, 1] or None, got {self.gate}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"GaussianPrior: {name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.source == "gaussian" and self.gate is None:
            raise ValueError('GaussianPrior: source="gaussian" needs a gate')

    def codes(self) -> tuple[float, float, bool, float, float, bool, float, float, float, float, bool]:
        """Return the fields as the schema takes them: four thresholds say when a pixel is object or background."""
        above, below = self.object_threshold, self.background_threshold
        if self.source == "cam":
            above_fit, below_fit = math.inf, math.inf
        elif self.gate is None:
            above_fit, below_fit = above, below
        elif self.source == "gaussian":
            above, above_fit, below, below_fit = math.inf, self.gate, math.inf, math.inf
        else:
            above_fit, below_fit = self.gate, math.inf
        band = (float(self.weight_low), float(self.weight_high))
        fit = (self.per_contour, float(self.min_area), float(self.covariance_scale), self.norm == "grid_max")
        if self.quantize:
            above, above_fit, below, below_fit = (
                _above_byte(above),
                _above_byte(above_fit),
                _below_byte(below),
                _below_byte(below_fit),
            )
        return *band, *fit, float(above), float(above_fit), float(below), float(below_fit), self.empty == "background"


def _above_byte(threshold: float) -> float:
    """Return the number that x exceeds exactly if ``floor(255 x) > 255 threshold``."""
    return threshold if math.isinf(threshold) else math.nextafter((math.floor(255 * threshold) + 1) / 255, 0.0)


def _below_byte(threshold: float) -> float:
    """Return the number that x is below exactly if ``floor(255 x) < 255 threshold``."""
    return threshold if math.isinf(threshold) else math.ceil(255 * threshold) / 255


GAUSSIAN_PRIORS = {
    "paper": GaussianPrior(),
    "released": GaussianPrior(
        weight_low=0.1,
        weight_high=0.5,
        per_contour=True,
        covariance_scale=0.1,
        gate=0.25,
        object_threshold=0.25,
        background_threshold=0.01,
    ),
}


def _check(cam: Tensor, size: tuple[int, int]) -> None:
    if cam.dim() != 3 or not cam.is_floating_point() or 0 in cam.shape[1:]:
        raise ValueError(
            f"gaussian_prior_labels: expected floating-point maps of shape [N, h, w] with h, w > 0, "
            f"got {cam.dtype} {list(cam.shape)}"
        )
    if min(size) < 1:
        raise ValueError(f"gaussian_prior_labels: expected a positive size (H, W), got {tuple(size)}")


def _check_finite(cam: Tensor) -> None:
    if not cam.isfinite().all():
        bad = (~cam.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(f"gaussian_prior_labels: expected finite maps, maps {bad} are not; check the model's outputs")


def _fake(cam: Tensor, height: int, width: int, *options: Any) -> Tensor:
    return cam.new_empty((cam.shape[0], height, width), dtype=torch.uint8)


_LABELS = define_op(
    "gaussian_prior_labels",
    reference=reference.gaussian_prior_labels,
    fake=_fake,
)
_HAS_CUDA_KERNEL = backends()["gaussian_prior_labels"]["cuda"] == "csrc"


def gaussian_prior_labels(
    cam: Tensor, size: tuple[int, int] = (256, 256), *, prior: GaussianPrior | str = "paper"
) -> Tensor:
    r"""Make pseudo labels of segmentation from the class map of the true class.

    The map, negatives cut to zero, is divided by its maximum plus 1e-6 and resized bilinearly (pixel centres) to
    ``size``. The values in the prior's band weigh the pixel positions, whose mean and covariance give the Gaussian

    .. math:: G(p) = \exp\left(-\tfrac12 (p - \mu)^\top (\kappa \Sigma)^{-1} (p - \mu)\right)

    with the peak one; of several the largest counts. Eigenvalues of the covariance below 1/12, the variance of one
    pixel, are raised to it.

    Source: SPOL (Wei et al., CVPR 2021), Eqs 3-6. The paper's density has a peak far below its own gate of 0.7; the
    released code leaves the factor out, and so does this. The released code writes its maps as images of bytes; see
    :attr:`GaussianPrior.quantize`.

    Args:
        cam (Tensor[N, h, w]): floating point, any stride, finite.
        size: (H, W) of the labels in pixels, or the side of a square.
        prior: ``"paper"``, ``"released"`` or a :class:`GaussianPrior`.

    Returns:
        Tensor[N, H, W]: uint8, 0 background, 1 object, 255 ignored.

    Raises:
        ValueError: if shape, dtype or size do not fit or the preset is unknown; if a map is not finite, where the
            labels are made on the host. On a GPU such a map is ignored as a whole, since to tell would be to wait.

    Backends: CPU (C++, in float64), CUDA (C++, the same bytes, without waiting for the device), elsewhere the reference
    on the host. Not differentiable. Deterministic.

    Example:
        >>> gaussian_prior_labels(torch.tensor([[[0.0, 0.3, 1.0, 0.3, 0.0]]]), (1, 5))
        tensor([[[  0, 255,   1, 255,   0]]], dtype=torch.uint8)
    """
    cam, size = as_tensor("gaussian_prior_labels", "maps", cam), as_size("gaussian_prior_labels", "size", size)
    _check(cam, size)
    if isinstance(prior, str):
        if prior not in GAUSSIAN_PRIORS:
            raise ValueError(f"gaussian_prior_labels: expected prior in {tuple(GAUSSIAN_PRIORS)}, got {prior!r}")
        prior = GAUSSIAN_PRIORS[prior]
    check_type("gaussian_prior_labels", "prior", prior, GaussianPrior)
    if cam.element_size() < 4:
        cam = cam.float()
    if cam.is_cuda and _HAS_CUDA_KERNEL:
        return _LABELS(cam.detach(), *size, *prior.codes())
    _check_finite(cam)
    return _LABELS(cam.detach().cpu(), *size, *prior.codes()).to(cam.device)
