"""The benchmark's annotation files."""

import os
from collections.abc import Iterator, Mapping


class Metadata(dict):
    """The files of one split by name, as items and as attributes."""

    def __getattr__(self, name: str) -> str:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"metadata has no file {name!r}; it has {', '.join(self)}") from None


def configure_metadata(metadata_root: str) -> Metadata:
    """Return the paths of a split's annotation files.

    Args:
        metadata_root: the split's folder, ``metadata/<data set>/<train, val or test>``.

    ``image_ids`` and ``image_ids_proxy`` hold an id per line, ``class_labels`` ``id,class``, ``image_sizes``
    ``id,width,height``, ``localization`` ``id,x0,y0,x1,y1`` (an image with several boxes has several lines) or
    ``id,mask file,ignore file`` (the ignore file on an image's first line only).
    """
    names = ("image_ids", "image_ids_proxy", "class_labels", "image_sizes", "localization")
    return Metadata({name: os.path.join(metadata_root, f"{name}.txt") for name in names})


def _rows(file: str) -> Iterator[list[str]]:
    with open(file, encoding="utf-8") as stream:
        for line in stream:
            yield line.strip("\n").split(",")


def get_image_ids(metadata: Mapping[str, str], proxy: bool = False) -> list[str]:
    """Return the image ids of ``metadata`` in file order; with ``proxy`` those of the smaller training set."""
    with open(metadata["image_ids_proxy" if proxy else "image_ids"], encoding="utf-8") as stream:
        return [line.strip("\n") for line in stream]


def get_class_labels(metadata: Mapping[str, str]) -> dict[str, int]:
    """Return the class of each image of ``metadata``."""
    return {image_id: int(label) for image_id, label in _rows(metadata["class_labels"])}


def get_bounding_boxes(metadata: Mapping[str, str]) -> dict[str, list[tuple[int, int, int, int]]]:
    """Return the true boxes (x0, y0, x1, y1) of each image of ``metadata``, pixels of the original image."""
    boxes: dict[str, list] = {}
    for image_id, x0, y0, x1, y1 in _rows(metadata["localization"]):
        boxes.setdefault(image_id, []).append((int(x0), int(y0), int(x1), int(y1)))
    return boxes


def get_mask_paths(metadata: Mapping[str, str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the mask files of each image of ``metadata``, one per instance, and its ignore file.

    Raises:
        AssertionError: if an ignore file stands on another than an image's first line.
    """
    masks: dict[str, list[str]] = {}
    ignored: dict[str, str] = {}
    for image_id, mask, ignore in _rows(metadata["localization"]):
        if image_id in masks:
            assert not ignore, f"{metadata['localization']}: {image_id} has a second ignore file, {ignore}"
            masks[image_id].append(mask)
        else:
            masks[image_id], ignored[image_id] = [mask], ignore
    return masks, ignored


def get_image_sizes(metadata: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return (width, height) of each image of ``metadata``."""
    return {image_id: (int(width), int(height)) for image_id, width, height in _rows(metadata["image_sizes"])}
