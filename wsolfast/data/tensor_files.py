"""Files of tensors with what these depend on and a digest of their content, so that damage and change are noticed."""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor


def pack(tensors: dict[str, Tensor], identity: str) -> bytes:
    """Return the content of a safetensors file; ``identity`` names what the tensors depend on."""
    import safetensors.torch

    return safetensors.torch.save(tensors, {"identity": identity, "sha256": _digest(tensors)})


def read(file: Path, identity: str | None = None) -> dict[str, Tensor] | None:
    """Read what :func:`pack` packed; None if it is absent, damaged, or of another identity than the one given."""
    import safetensors

    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):
        return None
    intact = about.get("sha256") == _digest(tensors)
    return tensors if intact and identity in (None, about.get("identity")) else None


def fingerprint(*parts: object) -> str:
    """Return a digest of values that JSON can hold, and of files by their content."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
