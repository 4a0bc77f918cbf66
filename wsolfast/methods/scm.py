"""SCM: Bai et al., "Weakly Supervised Object Localization via Transformer with Implicit Spatial ...", ECCV 2022.

TS-CAM with four layers that exist in training only. Each lets the class token's attention and the patch tokens flow
between like neighbours, so that both learn to follow the object's extent; without the layers they keep what they
learned.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsolfast import ops
from wsolfast.backbones import Backbone
from wsolfast.methods._base import accuracy
from wsolfast.methods._coupled_maps import CoupledMaps, Layers
from wsolfast.types import Batch, TrainState

# Share of the transpose that Newton-Schulz steps start from, as released.
_START = 0.002
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
    down, across = (_path(side).to(tokens) for side in (height, width))
    joined = torch.kron(down, torch.eye(width).to(tokens)) + torch.kron(torch.eye(height).to(tokens), across)
    laplacian = joined.sum(1).diag() - joined
    rows = functional.normalize(tokens.flatten(2), dim=1, eps=_EPS)
    return laplacian * (similarity * (rows.mT @ rows) - 1)


def _path(length: int) -> Tensor:
    """Return which of ``length`` places in a row are neighbours, [length, length]."""
    beside = torch.ones(length - 1).diag(1)
    return beside + beside.T


def diffuse(matrix: Tensor, values: Tensor, steps: int) -> Tensor:
    r"""Return :math:`(T^+)^\top` times ``values``; T⁺ is what Newton-Schulz steps from :math:`0.002\,T^\top` reach.

    The released steps :math:`Y \leftarrow Y (2I - T Y)` multiply matrices twice. With :math:`R = I - T Y_0` they are
    :math:`Y_k = Y_0 \prod_{i<k} (I + R^{2^i})`, because T is symmetric and all of these commute. A step is therefore
    the square of one matrix, and one product with ``values``.

    Args:
        matrix (Tensor[N, P, P]): T.
        values (Tensor[N, P, V]): columns that are multiplied.
        steps: how many.
    """
    found = _START * (matrix @ values)
    residual = torch.eye(matrix.shape[1], device=matrix.device, dtype=matrix.dtype) - _START * (matrix @ matrix)
    for step in range(steps):
        if step:
            residual = residual @ residual
        found = found + residual @ found
    return found


NAME = "SCM"
STAGES = {"localizer": SCM}
