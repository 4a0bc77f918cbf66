"""Splits for images that nobody has split: a share of each class, the same images every time."""

import hashlib
from collections.abc import Sequence

from wsolfast.data.errors import DataError

_OF_ALL = {"train_fullsup": "val_share", "test": "test_share"}


def assign_splits(
    image_ids: Sequence[str], labels: Sequence[int], val_share: float, test_share: float, where: str
) -> list[str]:
    """Return the split of each image: of every class the images whose ids have the smallest SHA-1 are not trained on.

    A split with a share above 0 gets at least one image of each class, as long as one is left for training.

    Args:
        image_ids: of all images.
        labels: class of each image.
        val_share: share of each class in ``train_fullsup``.
        test_share: share of each class in ``test``.
        where: what errors call the data.

    Raises:
        DataError: if a share is not in [0, 1), or nothing is left for training.
    """
    shares = {"train_fullsup": val_share, "test": test_share}
    for split, share in shares.items():
        if not 0 <= share < 1:
            raise DataError(f"{where}: {_OF_ALL[split]} is a share from 0 up to, but not, 1; got {share:g}")
    if val_share + test_share >= 1:
        raise DataError(f"{where}: val_share and test_share are {val_share + test_share:g} together; expected below 1")
    members: dict[int, list[int]] = {}
    for index in sorted(range(len(image_ids)), key=lambda index: _sha1(image_ids[index])):
        members.setdefault(labels[index], []).append(index)
    found = ["train_weaksup"] * len(image_ids)
    for indices in members.values():
        start = 0
        # The test split first: of two images one is trained on and one measured.
        for split in ("test", "train_fullsup"):
            count = max(1, round(shares[split] * len(indices))) if shares[split] else 0
            count = min(count, len(indices) - 1 - start)
            for index in indices[start : start + count]:
                found[index] = split
            start += count
    return found


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(errors="surrogateescape"), usedforsecurity=False).hexdigest()
