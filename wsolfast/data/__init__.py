"""Data sets by name. ``open_dataset(...)[i]`` is a sample; boxes are asked for apart, and never for training."""

import functools
import hashlib
import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsolfast.data._dataset import Dataset, Sample, collate
from wsolfast.data._source import SPLITS, Annotation, Source
from wsolfast.data.errors import DataError, DecoderError, FetchError, SplitMissingError
from wsolfast.data.images.cache import CacheSpec, ImageCache, open_cache
from wsolfast.data.images.decode import Decoder
from wsolfast.data.images.decode import chosen as chosen_decoder
from wsolfast.data.images.on_device import LOSSY, ON_DEVICE, DeviceDecoder, open_on_device
from wsolfast.data.images.transforms import Placement, View, resize, ten_crop
from wsolfast.data.sources import get_spec, list_names, open_source, own_options

if TYPE_CHECKING:
    from wsolfast.data.tools.check import CheckReport, check
    from wsolfast.data.tools.fetch import ARCHIVES, Archive, fetch
    from wsolfast.data.tools.index import IndexSummary, index
    from wsolfast.data.tools.look import FoundLayout, look
    from wsolfast.data.tools.pack import PackSummary, pack
    from wsolfast.data.tools.render_images import ImageLayout, render_images
    from wsolfast.data.tools.subset import SUBSETS, SubsetSummary, subset
    from wsolfast.data.tools.synth_imagenet import TreeSummary, synth_imagenet
    from wsolfast.data.tools.to_csv import CsvSummary, to_csv

__all__ = [
    "ARCHIVES",
    "LOSSY",
    "NAMES",
    "ON_DEVICE",
    "SPLITS",
    "SUBSETS",
    "Annotation",
    "Archive",
    "CacheSpec",
    "CheckReport",
    "CsvSummary",
    "DataError",
    "Dataset",
    "DecoderError",
    "DeviceDecoder",
    "FetchError",
    "FoundLayout",
    "ImageLayout",
    "IndexSummary",
    "PackSummary",
    "Placement",
    "Sample",
    "Source",
    "SplitMissingError",
    "SubsetSummary",
    "TreeSummary",
    "View",
    "check",
    "chosen_decoder",
    "collate",
    "fetch",
    "get_spec",
    "index",
    "look",
    "open_dataset",
    "open_on_device",
    "pack",
    "render_images",
    "resize",
    "subset",
    "synth_imagenet",
    "ten_crop",
    "to_csv",
]

NAMES = list_names()
_log = logging.getLogger(__name__)
# Imported on first use: whoever opens a data set needs none of them.
_TOOLS = {
    "check": ("CheckReport", "check"),
    "fetch": ("ARCHIVES", "Archive", "fetch"),
    "index": ("IndexSummary", "index"),
    "look": ("FoundLayout", "look"),
    "pack": ("PackSummary", "pack"),
    "render_images": ("ImageLayout", "render_images"),
    "subset": ("SUBSETS", "SubsetSummary", "subset"),
    "synth_imagenet": ("TreeSummary", "synth_imagenet"),
    "to_csv": ("CsvSummary", "to_csv"),
}


def __getattr__(name: str) -> Any:
    for tool, names in _TOOLS.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.tools.{tool}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    crop_area: tuple[float, float] | None = None,
    rand_augment: tuple[int, int] | None = None,
    wide: View | None = None,
    decoder: Decoder | None = None,
    cache: CacheSpec | None = None,
    **options: Any,
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
        crop_area: shares of the area that training crops lie between, see :class:`View`.
        rand_augment: number and magnitude of distortions in training, see :class:`View`.
        wide: also deliver this view of the image as ``Sample.wide``, for classification without decoding twice: a
            larger warp, of which :func:`ten_crop` takes crops, or a central crop.
        decoder: what decodes JPEG files, see :func:`wsolfast.data.images.decode.decode`; all give the same bits.
        cache: keep resized images on disk, before any crop or flip, so that they are decoded once.
        options: the data set's own, see ``wsolfast.data.sources.<name>.open_source``, and ``hierarchy``, the levels
            above its classes: a shipped table (``"cub"``) or a CSV file below ``root``.

    Returns:
        Dataset: its length is the number of images, item i a :class:`Sample`.

    Raises:
        DataError: if the folder, an annotation file or the split is missing, empty or malformed.
        ValueError: for an unknown name, split or option.
    """
    view = View(resize, crop, train, keep_aspect, crop_area, rand_augment)
    if "decoder" in get_spec(name).options:
        options.setdefault("decoder", decoder or "auto")
        # Said here if it cannot be, and not at the first image in every loading process.
        chosen_decoder(options["decoder"])
    source = open_source(name, root, split, **options)
    for remark in source.remarks:
        _log.warning("%s", remark)
    identity = {
        "data": [name, None if root is None else str(Path(root).resolve()), split],
        # Every decoder gives the same pixels, and a hierarchy says nothing of them.
        "options": {key: value for key, value in own_options(options).items() if key != "decoder"},
        "images": hashlib.sha256("\0".join(source.image_ids).encode(errors="surrogateescape")).hexdigest(),
    }

    def cache_of(spec: CacheSpec, view: View) -> ImageCache:
        return open_cache(spec, f"{name}-{split}", identity | {"size": view.size}, len(source.image_ids))

    opener = None if cache is None else functools.partial(cache_of, cache)
    return Dataset(source, split, view, seed=seed, wide=wide, skip_bad=skip_bad, cache=opener)
