"""Pretrained weights with batch norms folded into the convolutions, as a file that recipes name."""

from pathlib import Path

import torch

from wsolfast import backbones
from wsolfast.data.atomic import write_bytes
from wsolfast.engine.run.errors import UsageError

_SUFFIXES = (".pt", ".pth", ".safetensors")


def fold_weights(backbone: str, weights: str, file: Path) -> int:
    """Write the weights of a backbone with folded batch norms. A file that is there is not overwritten.

    Args:
        backbone: one of :func:`wsolfast.backbones.list_backbones`.
        weights: torchvision's, such as ``"MobileNet_V2_Weights.IMAGENET1K_V1"``, or a file; downloaded if needed.
        file: where they go, ``.pt``, ``.pth`` or ``.safetensors``.

    Returns:
        Number of tensors.

    Raises:
        UsageError: if the file is there or has another suffix, or the weights are ``"none"``.
        BackboneError: if there is no such backbone, or it has no batch norm that can be folded.
        WeightsError: if the weights are absent, unreadable, or of another network.
    """
    if file.suffix not in _SUFFIXES:
        raise UsageError(f"{file}: expected a name that ends with {', '.join(_SUFFIXES)}")
    if file.exists():
        raise UsageError(f"{file} exists and is not replaced; give another file")
    if weights == "none":
        raise UsageError("weights: expected a file or the name of published weights, got 'none'")
    state = backbones.build(backbone, weights=weights).eval().folded_state()
    if file.suffix == ".safetensors":
        from safetensors.torch import save

        write_bytes(file, lambda stream: stream.write(save(state)))
    else:
        write_bytes(file, lambda stream: torch.save(state, stream))
    return len(state)
