"""Score maps of other programs: ``<folder>/<image id>.npy``, and how far they have been counted."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsolfast._system import count_cores
from wsolfast.data import DataError
from wsolfast.engine.evaluation.measure import SplitMetrics
from wsolfast.engine.evaluation.score_maps import MapBatch
from wsolfast.engine.run.errors import MissingError
from wsolfast.engine.run.outputs import Outputs
from wsolfast.engine.run.progress import Progress

_BATCH = 128
_TYPES = ("float64", "float32", "float16", "uint8")


class MapFiles:
    """Score maps of the images of a split.

    Args:
        folder: holds the files.
        image_ids: of the images.
        counters: where the counters are.
        outputs: of the folder that the counters lie in.

    Raises:
        MissingError: if a file is missing.
    """

    def __init__(self, folder: Path, image_ids: Sequence[str], counters: Path, outputs: Outputs):
        self.counters, self.outputs = counters, outputs
        self.files = [folder / f"{image_id}.npy" for image_id in image_ids]
        missing = [file for file in self.files if not file.is_file()]
        if missing:
            more = f", as are {len(missing) - 1} of the other {len(self.files) - 1} score maps" * (len(missing) > 1)
            raise MissingError(f"{missing[0]}: missing{more}; write the score map of every image of the split")

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, done: int = 0) -> list[range]:
        """Cut the images from the position ``done`` on into batches."""
        return [range(start, min(start + _BATCH, len(self))) for start in range(done, len(self), _BATCH)]

    def load(self, part: range) -> MapBatch:
        """Read a batch, its files beside each other.

        Raises:
            MissingError: if a file cannot be read.
            DataError: if it holds no score map.
        """
        with ThreadPoolExecutor(count_cores()) as pool:
            return MapBatch(part.start, list(pool.map(read_map, self.files[part.start : part.stop])))

    def save_counters(self, metrics: SplitMetrics, done: int, identity: str) -> None:
        """Keep what was counted of the first ``done`` images; ``identity`` says what the counters depend on."""
        state = {"identity": identity, "done": done, "stamp": self._stamp(done), "state": metrics.state_dict()}
        self.outputs.write(self.counters, lambda stream: torch.save(state, stream))

    def resume(self, metrics: SplitMetrics, identity: str, progress: Progress) -> int:
        """Take over the counters that :meth:`save_counters` kept, if they are of the same maps and settings.

        Returns:
            How many images are counted.
        """
        if not self.counters.is_file():
            return 0
        try:
            kept = torch.load(self.counters, weights_only=True)
            fits = kept["identity"] == identity and kept["stamp"] == self._stamp(kept["done"])
        except Exception as error:
            kept_as = ""
            if not self.outputs.may_write(self.counters):
                aside = self.outputs.free(self.counters)
                self.counters.rename(aside)
                kept_as = f", kept as {aside.name}"
            progress.log(f"{self.counters}: cannot be read ({error}){kept_as}; starting over")
            return 0
        if not fits:
            progress.log(f"{self.counters}: counted from other score maps or settings; starting over")
            return 0
        metrics.load_state_dict(kept["state"])
        progress.log(f"{kept['done']} of {len(self)} images are counted already ({self.counters})")
        return kept["done"]

    def _stamp(self, done: int) -> str:
        """Return a digest that changes when one of the first ``done`` files is written again."""
        digest = hashlib.sha256()
        for file in self.files[:done]:
            status = file.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def read_map(file: Path) -> Tensor:
    """Read a score map [h, w] as it is.

    Raises:
        MissingError: if it cannot be read.
        DataError: if it is not [h, w] of float64, float32, float16 or uint8.
    """
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MissingError(f"{file}: no readable score map ({error}); write it again") from None
    if array.ndim != 2 or 0 in array.shape or array.dtype.name not in _TYPES:
        raise DataError(
            f"{file}: expected a score map [h, w] of float64, float32, float16 or uint8, "
            f"got {array.dtype} {list(array.shape)}"
        )
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
