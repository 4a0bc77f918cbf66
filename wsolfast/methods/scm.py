"""SCM: Bai et al., "Weakly Supervised Object Localization via Transformer with Implicit Spatial ...", ECCV 2022.

TS-CAM with four layers that exist in training only. Each lets the class token's attention and the patch tokens flow
between like neighbours, so that both learn to follow the object's extent; without the layers they keep what they
learned.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import accuracy
from wsolfast.methods._coupled_maps import CoupledMaps, Layers
from wsolfast.types import Batch, TrainState

# Share of the transpose that Newton-Schulz steps start from, as released.
_START = 0.002
# How many of the last steps are a series: its 15 products with one column cost less than three squares.
_SERIES = 4
_EPS = 1e-8


class SCM(CoupledMaps):
    """TS-CAM trained through spatial calibration; in evaluation the layers are the identity.

    Args:
        backbone, num_classes, layers: as :class:`~wsolfast.methods._coupled_maps.CoupledMaps`.
        steps: Newton-Schulz steps of each layer; one layer for each number.

    Raises:
        BackboneError: if the backbone has no class token's attention.
        ValueError: if a number of steps is negative.
    """

    scaled_attention = True

    def __init__(
        self, backbone: Backbone, num_classes: int, *, layers: Layers = "all", steps: Sequence[int] = (16, 4, 4, 4)
    ):
        super().__init__(backbone, num_classes, layers=layers)
        if any(count < 0 for count in steps):
            raise ValueError(f"scm: steps: expected numbers of Newton-Schulz steps, got {list(steps)}")
        backbone.require_class_attention("always")
        self.calibration = nn.ModuleList(Diffusion(count) for count in steps)

    def training_step(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        features = self.features(batch.image)
        attention = self.attention(features)
        # The recursion multiplies many small numbers.
        with torch.autocast(attention.device.type, enabled=False):
            tokens = self.head(features[self.last_stage].to(self.head.weight.dtype))
            attention = attention.to(tokens.dtype)
            for layer in self.calibration:
                tokens, attention = layer(tokens, attention)
        logits = tokens.mean((2, 3))
        return {"loss": functional.cross_entropy(logits, batch.label), "accuracy": accuracy(logits, batch.label)}


class Diffusion(nn.Module):
    r"""One layer of SCM, on a map X [N, K, h, w] of tokens and a map c [N, h, w] of attention.

    .. math::
        u = (T^+)^\top c, \quad v = \frac{u}{\beta \max c}, \quad
        g = \mathrm{mm}(v - \tanh v), \quad X \leftarrow X + X \odot g, \quad c \leftarrow c + g

    T is that of :func:`transport`, mm scales to [0, 1], and :math:`T^+` is what ``steps`` Newton-Schulz steps reach,
    see :func:`diffuse`.

    Args:
        steps: at least 0.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.similarity = nn.Parameter(torch.tensor(1.0))
        self.threshold = nn.Parameter(torch.tensor(0.5))

    def forward(self, tokens: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Return both maps after the layer."""
        matrix = transport(tokens, self.similarity)
        flown = diffuse(matrix, attention.flatten(1)[..., None], self.steps)[..., 0].view_as(attention)
        scaled = flown / (self.threshold * attention.amax((1, 2), keepdim=True))
        gain = ops.min_max_normalize(scaled - scaled.tanh())
        return tokens + tokens * gain[:, None], attention + gain


def transport(tokens: Tensor, similarity: Tensor) -> Tensor:
    r"""Return :math:`T = (D - A) \odot (\lambda E - 1)`, [N, P, P], of ``tokens`` [N, K, h, w] and λ.

    A joins each position with its four neighbours, D counts them, and E is the cosine of two tokens, 0 for a zero one.
    """
    height, width = tokens.shape[2:]
    rows = functional.normalize(tokens, dim=1, eps=_EPS)
    # Of E only what a token has in common with itself and its neighbours to the right and below is read.
    right = 1 - similarity * (rows[..., :-1] * rows[..., 1:]).sum(1)
    below = 1 - similarity * (rows[:, :, :-1] * rows[:, :, 1:]).sum(1)
    after = functional.pad(right, (0, 1)).flatten(1)[:, :-1].diag_embed(1) + below.flatten(1).diag_embed(width)
    degree = _neighbours(height).to(tokens)[:, None] + _neighbours(width).to(tokens)
    own = degree * (similarity * rows.square().sum(1) - 1)
    return own.flatten(1).diag_embed() + after + after.mT


def _neighbours(length: int) -> Tensor:
    """Return how many neighbours each of ``length`` places in a row has, [length]."""
    places = torch.arange(length)
    return (places > 0).int() + (places < length - 1).int()


def diffuse(matrix: Tensor, values: Tensor, steps: int) -> Tensor:
    r"""Return :math:`(T^+)^\top` times ``values``; T⁺ is what Newton-Schulz steps from :math:`0.002\,T^\top` reach.

    The released steps :math:`Y \leftarrow Y (2I - T Y)` multiply matrices twice. With :math:`R = I - T Y_0` they are
    :math:`Y_k = Y_0 \prod_{i<k} (I + R^{2^i})`, because T is symmetric and all of these commute. A step is therefore
    the square of one matrix, and one product with ``values``. The last steps take no square: with S the power of R that
    they start from, q of them are :math:`\sum_{j < 2^q} S^j`, a product with ``values`` for each term.

    Args:
        matrix (Tensor[N, P, P]): T, symmetric, as its gradient is.
        values (Tensor[N, P, V]): columns that are multiplied.
        steps: how many.
    """
    found: Tensor = _Diffuse.apply(matrix, values, steps)
    return found


class _Diffuse(torch.autograd.Function):
    """Steps of :func:`diffuse`, whose backward pass multiplies matrices once per square.

    The gradient at the square of R is D R + R D, twice the work of the square itself. R is symmetric, and of D only the
    symmetric part changes T, so that one product is the transpose of the other.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, values: Tensor, steps: int) -> Tensor:
        found = _START * (matrix @ values)
        squares = max(0, steps - _SERIES)
        powers, flown = [_residual(matrix)], []
        for _ in range(squares):
            flown.append(found)
            found = torch.baddbmm(found, powers[-1], found)
            powers.append(powers[-1] @ powers[-1])
        terms = [found]
        for _ in range(2 ** (steps - squares) - 1):
            terms.append(powers[-1] @ terms[-1])
        ctx.squares = squares
        ctx.save_for_backward(matrix, values, *powers, *flown, *terms[:-1])
        return torch.stack(terms).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        matrix, values, *kept = ctx.saved_tensors
        powers, rest = kept[: ctx.squares + 1], kept[ctx.squares + 1 :]
        flown, terms = rest[: ctx.squares], rest[ctx.squares :]
        pulls = [gradient]
        for _ in terms:
            pulls.append(torch.baddbmm(gradient, powers[-1], pulls[-1]))
        gradient = pulls.pop()
        # Half of it and of its transpose is the gradient at the power.
        twisted = torch.zeros_like(matrix)
        if terms:
            twisted = torch.cat(pulls[::-1], 2) @ torch.cat(terms, 2).mT
        for power, found in zip(powers[-2::-1], reversed(flown), strict=True):
            twisted = torch.baddbmm((twisted + twisted.mT) @ power, gradient, found.mT)
            gradient = torch.baddbmm(gradient, power, gradient)
        twisted = torch.baddbmm((twisted + twisted.mT) @ matrix, gradient, values.mT, beta=-_START, alpha=_START)
        return (twisted + twisted.mT) / 2, _START * (matrix @ gradient), None


def _residual(matrix: Tensor) -> Tensor:
    """Return :math:`R = I - T Y_0`."""
    eye = torch.eye(matrix.shape[1], device=matrix.device, dtype=matrix.dtype)
    return torch.baddbmm(eye, matrix, matrix, alpha=-_START)


NAME = "SCM"
STAGES = {"localizer": SCM}
