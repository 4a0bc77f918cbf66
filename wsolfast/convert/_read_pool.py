"""CI-CAM's context pool: a tensor in a file of its own, written by plain ``pickle``."""

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsolfast.backbones import WeightsError


def read_pool(path: Path) -> Tensor:
    """Return the pool [K, h, w] in ``path``, float32 on the CPU; no code of the file is run.

    Raises:
        WeightsError: if the file is absent, damaged, asks for code, or holds something else.
    """
    if not path.is_file():
        raise WeightsError(f"no context pool at {path}; give --pool FILE, or --pool none to start from an empty one")
    try:
        with path.open("rb") as stream:
            found = _TensorUnpickler(stream).load()
    except WeightsError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{path} cannot be read as a context pool: {reason}") from error
    if not isinstance(found, Tensor) or found.dim() != 3 or not found.is_floating_point():
        said = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise WeightsError(f"{path} holds {said}, expected a context pool [classes, height, width]")
    return found.detach().float()


class _TensorUnpickler(pickle.Unpickler):
    """An unpickler of torch's tensors and of nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
            "torch.storage._load_from_bytes": _storage,
            "collections.OrderedDict": OrderedDict,
        }
        if f"{module}.{name}" not in known:
            raise WeightsError(f"the context pool asks for {module}.{name}, which is not loaded: it could run anything")
        return known[f"{module}.{name}"]


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
