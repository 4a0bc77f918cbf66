"""A rendered data set that lies on disk as ImageNet does, to try large runs without ImageNet."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from wsolfast.data._spec import Task, silent
from wsolfast.data.atomic import write_bytes
from wsolfast.data.sources import synthetic
from wsolfast.data.sources._voc_xml import read_xml, xml_text
from wsolfast.data.tools._claim import claim

# Tells a tree of ours from somebody's ImageNet.
_SETTINGS = "synth-imagenet.json"
_VERSION = 1
# Smaller images are many short calls of NumPy, between which threads only wait for each other.
_LARGE = 200
_VALIDATION = "ILSVRC2012_val_{:08d}"


@dataclass(frozen=True)
class TreeSummary:
    """Outcome of :func:`wsolfast.data.synth_imagenet`."""

    root: Path  # of the tree
    images: int  # of both splits
    written: int  # by this call; the others were there


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
    root, task, splits = Path(root), task or silent, {}
    for split, count in (("train_weaksup", train_images), ("test", images)):
        if count:
            splits[split] = synthetic.open_source(
                None, split, num_classes=classes, size=size, num_train=count, num_test=count, world=world
            )
    settings = {"version": _VERSION, "images": images, "train_images": train_images, "classes": classes}
    settings |= {"size": size, "world": world}
    claim(root, _SETTINGS, settings)
    workers = workers or (2 if size >= _LARGE else 1)
    jobs = [partial(_write_image, root, source, split, i) for split, source in splits.items() for i in _range(source)]
    with task("render", len(jobs)) as advance, ThreadPoolExecutor(workers) as pool:
        written = sum(pool.map(lambda job: _counted(job, advance), jobs))
    mapping = "".join(f"{_synset(k)} {name.replace('_', ' ')}\n" for k, name in enumerate(splits["test"].class_names))
    _write_text(root / "LOC_synset_mapping.txt", mapping)
    _write_text(root / "LOC_val_solution.csv", "".join(_solution(root, images)))
    return TreeSummary(root, len(jobs), written)


def _range(source: synthetic.SyntheticSource) -> range:
    return range(len(source.image_ids))


def _counted(job: Callable[[], bool], advance: Callable[..., None]) -> bool:
    written = job()
    advance()
    return written


def _write_image(root: Path, source: synthetic.SyntheticSource, split: str, index: int) -> bool:
    """Write an image, and its annotation last. Return True if it was not there."""
    synset = _synset(int(source.labels[index]))
    stem = _VALIDATION.format(index + 1) if split == "test" else f"{synset}_{index}"
    image = root / (f"val/{stem}.JPEG" if split == "test" else f"train/{synset}/{stem}.JPEG")
    note = _annotation_file(root, stem) if split == "test" else image
    if note.exists() and image.exists():
        return False
    pixels, box = source.scene(index)
    # Not waited for on disk, file by file: after a power failure delete the folder and start over.
    write_bytes(image, partial(Image.fromarray(pixels).save, format="JPEG", quality=85), durable=False)
    if note != image:
        height, width = pixels.shape[:2]
        _write_text(note, xml_text(f"val/{stem}", (width, height), synset, box))
    return True


def _annotation_file(root: Path, stem: str) -> Path:
    return root / "Annotations/CLS-LOC/val" / f"{stem}.xml"


def _solution(root: Path, images: int) -> Iterator[str]:
    yield "ImageId,PredictionString\n"
    for index in range(images):
        stem = _VALIDATION.format(index + 1)
        _, objects = read_xml(_annotation_file(root, stem))
        yield f"{stem},{' '.join(f'{name} ' + ' '.join(f'{edge:g}' for edge in box) for name, box in objects)} \n"


def _synset(label: int) -> str:
    return f"n{label + 1:08d}"


def _write_text(file: Path, text: str) -> None:
    write_bytes(file, lambda stream: stream.write(text.encode()), durable=False)
