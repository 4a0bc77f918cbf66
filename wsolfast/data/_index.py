"""The file of an index: what the files of a split tell slowly, as arrays with a header."""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from wsolfast.data import tensor_files
from wsolfast.data.atomic import write_bytes

FOLDER = ".wsolfast"  # below that of the data set
_FORMAT = "wsolfast index 3"  # rises with what an index was checked for
_HEADER = "header"


class Unusable(Exception):
    """Reason to leave an index aside."""


def write_index(path: Path, header: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write a JSON header and arrays in one step."""
    # Among the arrays, so that one digest covers all.
    arrays = arrays | {_HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8)}
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    write_bytes(path, lambda stream: stream.write(tensor_files.pack(tensors, _FORMAT)))


def read_index(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Read header and arrays of an index.

    Raises:
        Unusable: if the file is damaged or of another version.
    """
    tensors = tensor_files.read(path, _FORMAT)
    if tensors is None:
        raise Unusable("damaged, or of another version")
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    return json.loads(arrays.pop(_HEADER).tobytes()), arrays


def pack_texts(texts: Iterable[str]) -> np.ndarray:
    """Pack texts that hold no zero into one array of bytes."""
    return np.frombuffer("".join(f"{text}\0" for text in texts).encode(errors="surrogateescape"), np.uint8)


def unpack_texts(packed: np.ndarray) -> list[str]:
    """Return the texts that :func:`pack_texts` packed."""
    return packed.tobytes().decode(errors="surrogateescape").split("\0")[:-1]


def states(root: Path, paths: Iterable[Path]) -> dict[str, str | int | None]:
    """Return the state of each file or folder by its path below the root, so that the tree can move."""
    return {str(path.relative_to(root)): _state(path) for path in paths}


def _state(path: Path) -> str | int | None:
    """Return the SHA-256 of a file, the time of the last change of a folder in ns, None for neither."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except IsADirectoryError:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


def first_changed(root: Path, fingerprint: dict[str, str | int | None], since: float = math.inf) -> Path | None:
    """Return the first file or folder that is not as it was, or folder that changed at ``since`` (ns) or later."""
    for path, state in fingerprint.items():
        if _state(root / path) != state or (isinstance(state, int) and state >= since):
            return root / path
    return None
