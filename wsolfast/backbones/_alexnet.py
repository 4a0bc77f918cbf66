"""AlexNet (Krizhevsky et al., NIPS 2012) from torchvision, as a frozen map from images to vectors."""

import torch
from torch import Tensor, nn

from wsolfast._compat import import_torchvision
from wsolfast.backbones._base import IMAGENET_MEAN, IMAGENET_STD, BackboneError
from wsolfast.backbones._realize import allocate
from wsolfast.backbones._weights import WeightsError, find_weights, read_state

_LAYERS = ("fc7", "conv5", "conv5_flat")


class AlexNetEmbedding(nn.Module):
    """Frozen AlexNet that gives one vector per image: no parameter takes a gradient, dropout never runs.

    Args:
        layer: ``"fc7"`` (4096 values after the ReLU), ``"conv5"`` (256, the mean over all positions) or
            ``"conv5_flat"`` (9216, the 6×6 positions after the pool).
        weights: a torchvision enum or a file, as for :func:`wsolfast.backbones.build`; ``"none"`` gives the same random
            weights every time.

    Raises:
        BackboneError: if there is no such layer or form of weights.
        WeightsError: if the weights are absent, unreadable or of another network.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, layer: str = "fc7", weights: str = "AlexNet_Weights.IMAGENET1K_V1"):
        super().__init__()
        if layer not in _LAYERS:
            raise BackboneError(f"alexnet: no layer {layer!r} to embed by; there are {', '.join(_LAYERS)}")
        with torch.device("meta"):
            net = import_torchvision().models.alexnet(weights=None)
        self.layer = layer
        # relu5 is the eleventh layer, pool5 the twelfth.
        self.features = net.features[:12] if layer == "conv5" else net.features
        self.classifier = net.classifier[:6] if layer == "fc7" else nn.Sequential()
        allocate(self, torch.device("cpu"))
        self._fill(weights)
        for name, values in (("input_mean", IMAGENET_MEAN), ("input_std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values)[None, :, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return the vectors [N, D] of an ``image`` batch [N, 3, H, W], RGB in [0, 1]."""
        features = self.features((image - self.input_mean) / self.input_std)
        if self.layer == "conv5":
            return features.mean((2, 3))
        return self.classifier(nn.functional.adaptive_avg_pool2d(features, 6).flatten(1))

    def train(self, mode: bool = True) -> "AlexNetEmbedding":
        """Stay in evaluation mode, whatever ``mode`` says."""
        return super().train(False)

    def _fill(self, weights: str) -> None:
        if weights == "none":
            generator = torch.Generator().manual_seed(0)
            for name, value in self.state_dict().items():
                if name.endswith("weight"):
                    nn.init.kaiming_normal_(value, nonlinearity="relu", generator=generator)
                else:
                    nn.init.zeros_(value)
            return
        found, wanted = read_state(find_weights(weights)), self.state_dict()
        misfits = [name for name, value in wanted.items() if name not in found or found[name].shape != value.shape]
        if misfits:
            raise WeightsError(f"{weights} does not fit AlexNet: {', '.join(misfits[:3])} absent or of another shape")
        self.load_state_dict({name: found[name] for name in wanted})
