"""Data sets by name. ``open_dataset(...)[i]`` is a sample; boxes are asked for apart, and never for training."""

import difflib
import importlib
import inspect
from pathlib import Path
from types import ModuleType

from wsolfast.data._base import SPLITS, Annotation, Dataset, Sample, Source, collate
from wsolfast.data._check import CheckReport, check_sources
from wsolfast.data.errors import DataError
from wsolfast.data.transforms import Placement, View, resize, ten_crop

__all__ = [
    "NAMES",
    "SPLITS",
    "Annotation",
    "CheckReport",
    "DataError",
    "Dataset",
    "Placement",
    "Sample",
    "Source",
    "View",
    "check",
    "collate",
    "open_dataset",
    "resize",
    "ten_crop",
]

NAMES = ("cub", "folder", "ilsvrc", "synthetic")


def open_dataset(
    name: str,
    root: str | Path | None,
    split: str,
    *,
    resize: int | tuple[int, int] | None = None,
    crop: int | None = None,
    train: bool = False,
    seed: int = 0,
    skip_bad: bool = False,
    keep_aspect: bool = False,
    wide: View | None = None,
    **options,
) -> Dataset:
    """Open one split of a data set. No image is decoded, unless ``skip_bad`` asks for it.

    Args:
        name: one of ``NAMES``.
        root: the data set's folder; None for ``synthetic``.
        split: ``train_weaksup``, ``train_fullsup`` or ``test``.
        resize: one side or (height, width) that images are warped to; None keeps their size.
        crop: side of the square crop, random in training and central otherwise.
        train: random crop and horizontal flip, which depend on ``(seed, epoch, index)`` only.
        seed: of the augmentation.
        skip_bad: decode every image once and leave the unreadable ones out; ``Dataset.skipped`` lists them.
        keep_aspect: ``resize`` is the shorter side instead of a warp.
        wide: also deliver this view of the image as ``Sample.wide``, for classification without decoding twice: a
            larger warp, of which :func:`ten_crop` takes crops, or a central crop.
        options: the data set's own, see ``wsolfast.data.<name>.open_source``.

    Raises:
        DataError: if the folder, an annotation file or the split is missing, empty or malformed.
        ValueError: for an unknown name, split or option.
    """
    view = View(resize, crop, train, keep_aspect)
    source = open_source(name, root, split, **options)
    return Dataset(source, split, view, seed=seed, wide=wide, skip_bad=skip_bad)


def open_source(name: str, root: str | Path | None, split: str, **options) -> Source:
    """What :func:`open_dataset` looks at: ids, labels, annotations and pixels of one split."""
    module = _module(name)
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}{_nearest(split, SPLITS)}")
    parameters = inspect.signature(module.open_source).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            hint = _nearest(option, known)
            raise ValueError(f"data set {name!r} has no option {option!r}; it has {', '.join(known)}{hint}")
    if name != "synthetic":
        if root is None:
            raise DataError(f"data set {name!r} needs its folder: give root (data.root=DIR)")
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; {name!r} data is read from it")
    return module.open_source(root, split, **options)


def check(name: str, root: str | Path | None, *, decode: bool = False, **options) -> CheckReport:
    """Look through every split of a data set: what is there, what is missing, what a right tree looks like.

    Counts images, classes, boxes and masks; finds missing files, images without a label or box, sizes that disagree,
    boxes outside their image, and, with ``decode``, images that cannot be read.

    Args:
        name: one of ``NAMES``.
        root: the data set's folder; None for ``synthetic``.
        decode: decode every image and not only its header.
        options: the data set's own, as for :func:`open_dataset`.

    Returns:
        CheckReport: ``ok`` says whether the tree can be used; ``str()`` renders it.

    Raises:
        ValueError: for an unknown name or option.
    """
    module = _module(name)
    report = CheckReport(name, None if root is None else Path(root), module.LAYOUT)
    check_sources(report, lambda split: open_source(name, root, split, **options), module.REQUIRED_SPLITS, decode)
    return report


def _module(name: str) -> ModuleType:
    if name not in NAMES:
        raise ValueError(f"data set: expected one of {', '.join(NAMES)}, got {name!r}{_nearest(name, NAMES)}")
    return importlib.import_module(f"wsolfast.data.{name}")


def _nearest(word: str, words) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
