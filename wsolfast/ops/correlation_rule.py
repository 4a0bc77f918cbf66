"""The record of switches and thresholds that tells one self-correlation map (SCG) from another."""

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints


@dataclass(frozen=True)
class CorrelationRule:
    """How positions correlate, and how that refines a coarse map. The defaults are SPA's released code on CUB.

    Attributes:
        variant: "head" (released code), "v0" (its first upload) or "paper" (Eqs 6-11 to the letter).
        relu_first: cut negative cosines before the second order too ("paper" only; the others always do).
        fo_th: smallest first-order similarity kept ("head" and "v0" only).
        so_th: smallest second-order value kept, relative to 1/(h·w) in "head", absolute in "v0", unused in "paper".
        so_weight: weight of the second order in the maximum ("head" and "v0" only).
        mode: the "max" of both orders, or the "first" or "second" alone, unweighted and without the scaling after the
            maximum.
        delta_h: map values at or above mark the object; above, where ``post`` is "paper".
        delta_l: map values at or below mark the background; below, where ``post`` is "paper".
        post: "released": each position's map is min-max scaled, sets are summed, every sum and the result are min-max
            scaled (1e-10 in each denominator). "paper": means (Eqs 12-14).
        eps: added to the range of each row of the paper's second order; with 0 a constant row becomes zero.

    Raises:
        ValueError: if a field is not among its choices, or a number is not finite.

    Example:
        >>> features = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]]])  # [1, 2, 1, 4]
        >>> cam = torch.tensor([[[[1.0, 0.08, 0.0, 0.0]]]])
        >>> self_correlation_map(features, cam, CorrelationRule(mode="first"))
        tensor([[[[1., 1., 0., 0.]]]])
        >>> self_correlation_map(features, cam, CorrelationRule(mode="second"))
        tensor([[[[1., 0., 0., 0.]]]])
    """

    variant: Literal["head", "v0", "paper"] = "head"
    relu_first: bool = False
    fo_th: float = 0.1
    so_th: float = 0.5
    so_weight: float = 2.0
    mode: Literal["max", "first", "second"] = "max"
    delta_h: float = 0.1
    delta_l: float = 0.05
    post: Literal["released", "paper"] = "released"
    eps: float = 0.0

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(CorrelationRule).items():
            value = getattr(self, name)
            if hint is float:
                fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
                expected = "a finite number"
            else:
                choices = (True, False) if hint is bool else get_args(hint)
                fits, expected = value in choices, f"one of {', '.join(map(repr, choices))}"
            if not fits:
                raise ValueError(f"CorrelationRule: {name} must be {expected}, got {value!r}")

    def codes(self) -> tuple[str, bool, float, float, float, str, float, float, str, float]:
        """Return the fields as ``self_correlation_map``'s schema takes them."""
        return (
            self.variant,
            self.relu_first,
            self.fo_th,
            self.so_th,
            self.so_weight,
            self.mode,
            self.delta_h,
            self.delta_l,
            self.post,
            self.eps,
        )
