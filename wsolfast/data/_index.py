"""The file of an index: what the files of a split tell slowly, as arrays with a header."""

import json
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
