"""Checkpoints: everything that the next step depends on, so that a resumed run continues as if it had never stopped."""

import os
import pickle
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wsolfast.engine.errors import MissingError
from wsolfast.engine.run_folder import write_bytes

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


def save_checkpoint(folder: Path, state: dict) -> None:
    """Write ``state`` to ``folder/last.ckpt``; the one before it stays as ``previous.ckpt``."""
    last = folder / LAST
    if last.exists():
        os.replace(last, folder / PREVIOUS)
    write_bytes(last, lambda stream: torch.save(state, stream))


def load_checkpoint(folder: Path) -> dict | None:
    """The newest readable checkpoint in ``folder``; None if none was written yet.

    Raises:
        MissingError: if there are checkpoints and none can be read.
    """
    complaint = None
    for file in (folder / LAST, folder / PREVIOUS):
        if not file.exists():
            continue
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            complaint = complaint or f"{file}: cannot be read ({str(error).splitlines()[0]})"
    if complaint:
        raise MissingError(complaint)
    return None


def random_state() -> dict:
    """State of every random number generator, as plain values and tensors."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict) -> None:
    """Put the generators back to :func:`random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def save_weights(file: Path, state: Mapping[str, Tensor], about: dict[str, str]) -> None:
    """Write a state dict as safetensors, with ``about`` as its header's metadata."""
    import safetensors.torch

    # Tensors that share memory are refused by the format; a clone each costs no more than the file.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    content = safetensors.torch.save(tensors, about)
    write_bytes(file, lambda stream: stream.write(content))


def load_weights(file: Path, method: nn.Module) -> None:
    """Load what :func:`save_weights` wrote; every tensor must match.

    Raises:
        MissingError: if the file is missing, unreadable, or belongs to another model.
    """
    import safetensors.torch

    try:
        tensors = safetensors.torch.load_file(file)
    except FileNotFoundError:
        raise MissingError(f"{file}: no such weights") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise MissingError(f"{file}: not readable as safetensors ({error})") from None
    wanted = method.state_dict()
    wrong = sorted(wanted.keys() ^ tensors.keys()) or [
        name for name, tensor in tensors.items() if tensor.shape != wanted[name].shape
    ]
    if wrong:
        raise MissingError(f"{file}: does not fit this recipe's model at {len(wrong)} tensors, first {wrong[0]!r}")
    method.load_state_dict(tensors)
