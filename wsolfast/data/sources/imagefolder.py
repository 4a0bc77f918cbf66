"""``imagefolder``: a folder per class, as torchvision's ``ImageFolder`` reads it, in ``train``, ``val`` and ``test``.

A folder of class folders alone is a training split; with ``val_share`` and ``test_share`` a share of each class is the
other splits. A class is the name of its folder, and everything below that folder is of it. Such data has no boxes. It
may have masks, in a tree like that of the images. Without them nothing can be measured but classes.
"""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsolfast._nearest import nearest
from wsolfast.data._files import IMAGE_SUFFIXES, FileSource, is_stray, listed_folders, relative_path
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import DataError, Faults, SplitMissingError
from wsolfast.data.images.decode import Bits, Decoder
from wsolfast.data.sources._shares import assign_splits

LAYOUT = """\
train/ant/a.jpg     (or ant/a.jpg, without a folder of the split)
train/bee/b.png
val/ant/c.jpg       (optional, the same classes; test/ likewise)
masks/val/ant/c.png (optional, with data.options.masks=masks; 0 background, 1 object, 2 or 255 ignored)"""
# The names of the folder of a split; the first is ours.
SPLIT_FOLDERS = {
    "train_weaksup": ("train", "training"),
    "train_fullsup": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_SPLIT_NAMES = {name for names in SPLIT_FOLDERS.values() for name in names}


def open_source(
    root: Path,
    split: str,
    *,
    masks: str = "",
    val_share: float = 0.0,
    test_share: float = 0.0,
    decoder: Decoder = "auto",
    orient: bool = True,
    bits: Bits | None = None,
) -> FileSource:
    """Open the images of ``split``.

    Args:
        root: the folder of ``train``, ``val`` and ``test``, or of the classes.
        split: which images.
        masks: a folder below ``root`` with a PNG file at the path of each image that has a mask.
        val_share: without folders of splits: so much of each class is ``train_fullsup``, and not trained on.
        test_share: the same for ``test``.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
        bits: the same.
    """
    mask_folder = root / relative_path(masks, "masks") if masks else None
    if mask_folder is not None and not mask_folder.is_dir():
        raise DataError(f"{mask_folder}: no such folder; data.options.masks names the folder of the masks")
    # Masks may lie in folders that look like classes.
    kept_out = PurePosixPath(masks).parts[0] if masks else ""
    places = split_folders(root, kept_out)
    if not places:
        found = _read(root, "", kept_out)
        if not found.images:
            raise DataError(f"{root}: no folder of a class with an image in it; expected {root}/CLASS/IMAGE.jpg")
        names = found.class_names
        if all(name.lower() in _SPLIT_NAMES for name in names):
            raise DataError(
                f"{root / names[0]}: holds images and no folders of classes; expected {root / names[0]}/CLASS/IMAGE.jpg"
            )
        listed = found.listed(names)
        splits = assign_splits(*listed, val_share, test_share, str(root))
        chosen = [index for index, its in enumerate(splits) if its == split]
        if not chosen:
            raise SplitMissingError(f"{root}: split {split!r} is empty; val_share and test_share make these splits")
        image_ids, labels = [listed[0][index] for index in chosen], [listed[1][index] for index in chosen]
    else:
        if val_share or test_share:
            raise DataError(f"{root}: has folders of splits, so val_share and test_share have no use; leave them out")
        if split not in places:
            raise SplitMissingError(f"{root}: no folder {' or '.join(SPLIT_FOLDERS[split])}, so no split {split!r}")
        found = _read(places[split], f"{places[split].name}/")
        if not found.images:
            raise SplitMissingError(f"{places[split]}: no folder of a class with an image in it")
        names, training = found.class_names, places.get("train_weaksup", places[split])
        if training != places[split]:
            names = _read(training, "").class_names
            _check_classes(found.class_names, names, places[split], training)
        image_ids, labels = found.listed(names)
    source = FileSource(
        root,
        image_ids,
        labels,
        names,
        masks=None if mask_folder is None or split == "train_weaksup" else _masks(image_ids, mask_folder),
        mask_folder=mask_folder,
        decoder=decoder,
        orient=orient,
        bits=bits,
    )
    source.is_annotated = bool(masks)
    source.remarks = found.remarks
    return source


def split_folders(root: Path, kept_out: str = "") -> dict[str, Path]:
    """Return the folder of each split that has one: it is named so, and holds the folders of classes.

    Args:
        root: the folder of the data set.
        kept_out: the name of a folder that is none.

    Raises:
        DataError: if a split has two.
    """
    found: dict[str, Path] = {}
    faults = Faults()
    for entry in listed_folders(root):
        for split, names in SPLIT_FOLDERS.items():
            # A class may be called train, too.
            if entry.name.lower() in names and entry.name != kept_out and listed_folders(entry):
                other = found.setdefault(split, entry)
                if other != entry:
                    faults.add(f"{entry}: {other} is a folder of split {split!r}, too; join or rename one of them")
    faults.raise_any()
    return found


@dataclass(frozen=True)
class _Classes:
    """Class folders of one folder."""

    images: dict[str, list[str]]  # ids by class
    remarks: list[str]

    @property
    def class_names(self) -> list[str]:
        return sorted(self.images)

    def listed(self, names: list[str]) -> tuple[list[str], list[int]]:
        """Return ids and labels of all images; the labels are positions in ``names``."""
        places = {name: label for label, name in enumerate(names)}
        pairs = [(image_id, places[name]) for name in self.class_names for image_id in self.images[name]]
        return [image_id for image_id, _ in pairs], [label for _, label in pairs]


def _read(folder: Path, prefix: str, kept_out: str = "") -> _Classes:
    images: dict[str, list[str]] = {}
    remarks = []
    faults = Faults()
    for place in listed_folders(folder):
        if place.name == kept_out:
            continue
        if not is_text(place.name):
            faults.add(f"{folder}: the name of the folder {os.fsencode(place.name)!r} is not UTF-8; rename it")
            continue
        found = sorted(f"{prefix}{place.name}/{path}" for path in _below(place))
        if found:
            # Archives of another system may write the letters of the same name in another way.
            images.setdefault(unicodedata.normalize("NFC", place.name), []).extend(found)
        else:
            remarks.append(f"{place}: no image in it, so it is no class")
    faults.raise_any()
    loose = sorted(entry for entry in folder.iterdir() if is_image(entry.name) and entry.is_file())
    if loose and images:
        others = f" and {len(loose) - 1} more" if len(loose) > 1 else ""
        remarks.append(f"{loose[0]}{others}: in no folder of a class, so not used")
    return _Classes(images, remarks)


def _below(place: Path) -> Iterator[str]:
    """Yield the images at any depth below a folder."""
    for parent, folders, files in os.walk(place):
        folders[:] = sorted(name for name in folders if not is_stray(name))
        yield from (Path(parent, name).relative_to(place).as_posix() for name in files if is_image(name))


def is_text(name: str) -> bool:
    """Return True for a name of a file that UTF-8 can write."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def is_image(name: str) -> bool:
    """Return True for a file that is named as an image, and not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_stray(name)


def _check_classes(names: list[str], known: list[str], folder: Path, training: Path) -> None:
    faults = Faults()
    for name in sorted(set(names) - set(known)):
        hint = nearest(name, known, "classes are matched by the names of their folders")
        faults.add(f"{folder / name}: {training} has no such class; {hint}")
    faults.raise_any()


def _masks(image_ids: list[str], folder: Path) -> dict[int, str]:
    files = {index: str(PurePosixPath(image_id).with_suffix(".png")) for index, image_id in enumerate(image_ids)}
    return {index: file for index, file in files.items() if (folder / file).is_file()}


SPEC = SourceSpec(open_source, layout=LAYOUT, title="class folders")
