"""Loading of batches in a given order, and the errors of the processes that load."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch.utils.data import DataLoader, Dataset

from wsolfast.data import DataError
from wsolfast.engine.run.errors import RunError
from wsolfast.engine.training.order import BatchParts
from wsolfast.types import Batch


def load_batches(
    dataset: Dataset, batches: Sequence[Sequence[int]], collate: Callable, *, workers: int, pin_memory: bool
) -> Iterator:
    """Load one collated batch for each list of indices in ``batches``.

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


def load_parts(
    dataset: Dataset, batches: Sequence[BatchParts], collate: Callable, *, workers: int, pin_memory: bool
) -> Iterator[tuple[list[int], list[Batch]]]:
    """Load batches in parts: the indices of each batch, and its loaded parts.

    Raises:
        DataError: an image cannot be read; one line, wherever it was read.
        RunError: a loader process died.
    """
    each = [part for _, parts in batches for part in parts]
    loader = load_batches(dataset, each, collate, workers=workers, pin_memory=pin_memory)
    for indices, parts in batches:
        yield indices, list(islice(loader, len(parts)))
