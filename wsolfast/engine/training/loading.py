"""Batches from loader processes, in a given order, and what is said when those processes fail."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from wsolfast.data import DataError
from wsolfast.engine.run.errors import RunError


def load_batches(
    dataset: Dataset, batches: Sequence[Sequence[int]], collate: Callable, *, workers: int, pin_memory: bool
) -> Iterator:
    """One collated batch per list of indices in ``batches``.

    Raises:
        DataError: an image cannot be read; one line, wherever it was read.
        RunError: a loader process died.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=[list(batch) for batch in batches],
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        # Its own generator: drawing the workers' seed from the global one would depend on how often we resumed.
        generator=torch.Generator().manual_seed(0),
    )
    try:
        yield from loader
    except DataError as error:
        # torch hands an error of a loader process on with that process's traceback as its text.
        raise DataError(str(error).rstrip().rpartition("DataError: ")[2]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            f"an image loading process died ({str(error).splitlines()[0]}); memory or /dev/shm may be full: "
            f"use fewer with --workers, 0 for none"
        ) from error
