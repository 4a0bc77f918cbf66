"""Data sets by name. ``open_dataset(...)[i]`` is a sample; boxes are asked for apart, and never for training."""

import contextlib
import functools
import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from wsolfast.data._base import SPLITS, Annotation, Dataset, Sample, Source, collate
from wsolfast.data._index import build_index
from wsolfast.data._spec import IndexSummary, Task
from wsolfast.data.errors import DataError, FetchError
from wsolfast.data.images.cache import CacheSpec, ImageCache, open_cache
from wsolfast.data.images.decode import LOSSY
from wsolfast.data.images.decode import chosen as chosen_decoder
from wsolfast.data.images.transforms import Placement, View, resize, ten_crop
from wsolfast.data.sources import (
    check_options,
    existing_folder,
    get_spec,
    list_names,
    nearest,
    open_files,
    open_source,
    synthetic,
)
from wsolfast.data.tools.check import CheckReport, check_sources
from wsolfast.data.tools.fetch import ARCHIVES, Archive, fetch_archive
from wsolfast.data.tools.pack import PackSummary, pack_sources
from wsolfast.data.tools.synth_imagenet import TreeSummary, write_tree

__all__ = [
    "ARCHIVES",
    "LOSSY",
    "NAMES",
    "SPLITS",
    "Annotation",
    "Archive",
    "CacheSpec",
    "CheckReport",
    "DataError",
    "Dataset",
    "FetchError",
    "IndexSummary",
    "PackSummary",
    "Placement",
    "Sample",
    "Source",
    "TreeSummary",
    "View",
    "check",
    "chosen_decoder",
    "collate",
    "fetch",
    "index",
    "open_dataset",
    "pack",
    "resize",
    "synth_imagenet",
    "ten_crop",
]

NAMES = list_names()


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
    decoder: str | None = None,
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
        decoder: who decodes JPEG files, see :func:`wsolfast.data.images.decode.decode`; all but ``"fast"`` give the
            same bits.
        cache: keep resized images on disk, before any crop or flip, so that they are decoded once.
        options: the data set's own, see ``wsolfast.data.sources.<name>.open_source``.

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
    identity = {
        "data": [name, None if root is None else str(Path(root).resolve()), split],
        # All other decoders give the same pixels.
        "options": {key: value for key, value in options.items() if key != "decoder" or value in LOSSY},
        "images": hashlib.sha256("\0".join(source.image_ids).encode(errors="surrogateescape")).hexdigest(),
    }

    def cache_of(spec: CacheSpec, view: View) -> ImageCache:
        return open_cache(spec, f"{name}-{split}", identity | {"size": view.size}, len(source.image_ids))

    opener = None if cache is None else functools.partial(cache_of, cache)
    return Dataset(source, split, view, seed=seed, wide=wide, skip_bad=skip_bad, cache=opener)


def index(
    name: str,
    root: str | Path,
    *,
    task: Task | None = None,
    workers: int | None = None,
    force: bool = False,
    **options: Any,
) -> IndexSummary:
    """Write what a data set's files say into one file, which :func:`open_dataset` then opens instead.

    Args:
        name: of the data set.
        root: the data set's folder; the index lies in ``.wsolfast`` below it.
        task: makes a progress display from a title and a number of images, see ``engine.progress``.
        workers: threads; by the number of cores unless told.
        force: build it even if the one that is there still holds.
        options: the data set's own; other options are another index.

    Returns:
        IndexSummary: where it lies and what it holds.

    Raises:
        DataError: if no split can be opened, or the tree changes while it is read.
        ValueError: for an unknown name or option.
    """
    spec, task = get_spec(name), task or _silent
    if spec.index is None and spec.consulted is None:
        raise ValueError(f"data set {name!r} opens as fast from its files: there is nothing to index")
    check_options(name, options)
    root = existing_folder(name, root)
    if spec.index is not None:
        return spec.index(root, task=task, workers=workers, force=force, **options)
    return build_index(name, spec, root, options, task=task, workers=workers, force=force)


def pack(
    name: str,
    root: str | Path | None,
    output: str | Path,
    *,
    per_shard: int = 1000,
    task: Task | None = None,
    workers: int | None = None,
    **options: Any,
) -> PackSummary:
    """Write every split of a data set as tar files, which ``open_dataset("shards", output, ...)`` and others read.

    Files of images are copied byte for byte, rendered images are PNG. Called again it writes what is missing.

    Args:
        name: one of ``NAMES``.
        root: the data set's folder; None for ``synthetic``.
        output: a new or empty folder, or one of an earlier call with the same settings.
        per_shard: images in a shard.
        task: makes a progress display from a title and a number of images.
        workers: threads; by the number of cores unless told.
        options: the data set's own, as for :func:`open_dataset`.

    Returns:
        PackSummary: how much is there, and how much of it is new.

    Raises:
        DataError: if no split can be opened, an image cannot be read, or ``output`` holds anything else.
        ValueError: for an unknown name or option, or a number out of range.
    """
    if per_shard < 1:
        raise ValueError(f"per_shard: expected at least 1, got {per_shard}")
    sources, refused = {}, []
    for split in SPLITS:
        try:
            sources[split] = open_source(name, root, split, **options)
        except DataError as error:
            refused.append(error)
    if not sources:
        raise refused[0]
    origin = {"data": [name, None if root is None else str(Path(root).resolve())], "options": options}
    return pack_sources(sources, Path(output), origin, per_shard=per_shard, task=task or _silent, workers=workers)


def synth_imagenet(
    root: str | Path,
    *,
    images: int,
    train_images: int = 64,
    classes: int = 32,
    size: int = 96,
    world: int = 0,
    task: Task | None = None,
    workers: int | None = None,
) -> TreeSummary:
    """Write a rendered data set in ImageNet's layout, for ``open_dataset("ilsvrc", root, ...)``.

    Called again it writes what is missing. Settings and number decide an image and its annotation to the byte (JPEG
    data with the same Pillow).

    Args:
        root: a new or empty folder, or one of an earlier call with the same settings.
        images: of the validation set, with boxes.
        train_images: of the training set; 0 for none.
        classes: 2 to 32.
        size: side of the square images, at least 32 px.
        world: seed of the images.
        task: makes a progress display from a title and a number of images.
        workers: threads; unless told two for images of 200 px or more, else one.

    Returns:
        TreeSummary: how much is there, and how much of it is new.

    Raises:
        DataError: if the folder holds anything else.
        ValueError: for a number out of range.
    """
    if images < 1 or train_images < 0:
        raise ValueError(f"images, train_images: expected at least 1 and 0, got {images} and {train_images}")
    settings = {"images": images, "train_images": train_images, "classes": classes, "size": size, "world": world}
    synthetic.open_source(None, "test", num_classes=classes, size=size, num_test=images)
    return write_tree(Path(root), **settings, task=task or _silent, workers=workers)


def fetch(
    name: str,
    output: str | Path,
    *,
    accept_licence: bool,
    url: str | None = None,
    sha256: str | None = None,
    task: Task | None = None,
) -> Path:
    """Download a data set; nothing else in this package connects to anywhere.

    The download goes on where an earlier call stopped. The archive is unpacked when its SHA-256 is right, files and
    folders only, and gets its name when all of it is there.

    Args:
        name: one of ``ARCHIVES``, which hold addresses, checksums and terms.
        output: where the data set's folder is made.
        accept_licence: that you have read the terms and keep to them.
        url: a mirror; its bytes must be the same, unless ``sha256`` says otherwise.
        sha256: of what is at ``url``.
        task: makes a progress display from a title and a number of MiB.

    Returns:
        The folder, to be given as ``root``.

    Raises:
        ValueError: if the terms are not accepted, or for an unknown name or a malformed checksum.
        FetchError: if the server cannot be reached, refuses or breaks off.
        DataError: if the checksum is wrong or the archive is not what it should be.
    """
    if name not in ARCHIVES:
        raise ValueError(f"fetch: expected one of {', '.join(ARCHIVES)}, got {name!r}{nearest(name, ARCHIVES)}")
    archive = ARCHIVES[name]
    if not accept_licence:
        raise ValueError(f"{archive.title}: {archive.terms}; read {archive.page} and add --accept-licence")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256: expected 64 hexadecimal digits, got {sha256!r}")
    return fetch_archive(archive, Path(output), url=url, sha256=sha256, task=task or _silent)


def _silent(what: str, total: int) -> AbstractContextManager[Callable[..., None]]:
    return contextlib.nullcontext(lambda steps=1, note="": None)


def check(name: str, root: str | Path | None, *, decode: bool = False, **options: Any) -> CheckReport:
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
    spec = get_spec(name)
    report = CheckReport(name, None if root is None else Path(root), spec.layout)

    def opener(split: str) -> Source:
        return open_files(name, root, split, **options)

    check_sources(report, opener, spec.required, decode)
    return report
