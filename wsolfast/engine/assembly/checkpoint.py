"""Files of checkpoints and weights, and the seeds of random numbers: a resumed run continues as if never stopped."""

import os
import pickle
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wsolfast.engine.run.distributed import is_first
from wsolfast.engine.run.errors import MissingError
from wsolfast.engine.run.run_folder import RunFolder, write_bytes
from wsolfast.methods import Method
from wsolfast.recipe import StageSpec

LAST, PREVIOUS, NEXT = "last.ckpt", "previous.ckpt", "next.ckpt"


def save_checkpoint(folder: Path, state: dict) -> None:
    """Write ``state`` to ``folder/last.ckpt``; the one before it stays as ``previous.ckpt``.

    Until the new one is whole on disk, both others stay what they are.
    """
    if not is_first():
        return
    write_bytes(folder / NEXT, lambda stream: torch.save(state, stream))
    if (folder / LAST).exists():
        os.replace(folder / LAST, folder / PREVIOUS)
    os.replace(folder / NEXT, folder / LAST)


def load_checkpoint(folder: Path, log: Callable[[str], None] = lambda text: None) -> dict | None:
    """Read the newest readable checkpoint in ``folder``; None if none was written yet.

    Nothing in a checkpoint is executed: one that holds more than tensors and plain values counts as unreadable.

    Args:
        folder: where :func:`save_checkpoint` wrote.
        log: is given what could not be read, and what is read instead.

    Raises:
        MissingError: if there are checkpoints and none can be read.
    """
    complaint = None
    for file in (folder / LAST, folder / PREVIOUS):
        if not file.exists():
            continue
        try:
            _check_sums(file)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            complaint = complaint or f"{file}: refused, it holds something other than tensors and plain values"
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
            complaint = complaint or f"{file}: cannot be read ({str(error).splitlines()[0]})"
        else:
            if complaint:
                log(f"{complaint}; continuing from {file.name}")
            return state
    if complaint:
        raise MissingError(f"{complaint}; nor can the one before it: start the run over with --exist-ok")
    return None


def _check_sums(file: Path) -> None:
    """Check the sums that torch writes into its archives and does not look at."""
    with zipfile.ZipFile(file) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")


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
    _load(file, _read(file), method)


def load_start(run: RunFolder, stage: StageSpec, method: Method) -> None:
    """Load what an earlier stage of the run ended with, the backbone and :attr:`Method.starts_with`, if asked to.

    Raises:
        MissingError: if the weights are missing, unreadable, or those of another backbone or head.
    """
    source = stage.backbone.from_stage
    if source is not None:
        (earlier,) = (one for one in run.recipe.stage if one.name == source)
        file = run.weights_path(source, best=earlier.takes_best)
        tensors = _read(file)
        for part in method.starts_with:
            _load(file, part_of(tensors, part), method.get_submodule(part))


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of a submodule, by their names in it."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def misfits(tensors: Mapping[str, Tensor], module: nn.Module) -> list[str]:
    """Return the names of the tensors that only one side has, or else of those whose shapes differ."""
    wanted = module.state_dict()
    return sorted(wanted.keys() ^ tensors.keys()) or [
        name for name, tensor in tensors.items() if tensor.shape != wanted[name].shape
    ]


def _read(file: Path) -> dict[str, Tensor]:
    import safetensors.torch

    try:
        return safetensors.torch.load_file(file)
    except FileNotFoundError:
        raise MissingError(f"{file}: no such weights") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise MissingError(f"{file}: not readable as safetensors ({error})") from None


def _load(file: Path, tensors: Mapping[str, Tensor], module: nn.Module) -> None:
    wrong = misfits(tensors, module)
    if wrong:
        raise MissingError(f"{file}: does not fit this recipe's model at {len(wrong)} tensors, first {wrong[0]!r}")
    module.load_state_dict(tensors)
