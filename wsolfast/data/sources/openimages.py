"""``openimages``: OpenImages30k, the WSOL benchmark's choice of OpenImages V5 (Choe et al., CVPR 2020), as it is
distributed: 100 classes, ``train_fullsup`` and ``test`` annotated with masks and no boxes.

A mask is the union of the files of an image's objects; pixels of its ignore file do not count, unless they are an
object's. Masks have a size of their own and are compared at the benchmark's 224 x 224.
"""

from pathlib import Path, PurePosixPath

from wsolfast.data._classes import MAX_POSITION
from wsolfast.data._files import FileSource, read_lines
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import DataError
from wsolfast.data.images.decode import Bits, Decoder
from wsolfast.data.images.masks import InstanceMasks
from wsolfast.data.metadata import FOLDERS, read_mask_metadata

LAYOUT = """\
test/0bt_c3/0a51958fcd523ae4.jpg                      (images and masks; train and val likewise, train without masks)
test/0bt_c3/0a51958fcd523ae4_m0bt_c3_41344f12.png
test/0bt_c3/0a51958fcd523ae4_ignore.png
metadata/test/image_ids.txt       test/0bt_c3/0a51958fcd523ae4.jpg
metadata/test/class_labels.txt    test/0bt_c3/0a51958fcd523ae4.jpg,9
metadata/test/localization.txt    IMAGE,MASK,IGNORE     (one row per object; IGNORE on an image's first row only)
metadata may lie elsewhere (metadata=DIR), or where the benchmark's checkout has it: ../../metadata/OpenImages"""

_LABELS = "class_labels.txt"


def open_source(
    root: Path,
    split: str,
    *,
    metadata: str | Path | None = None,
    decoder: Decoder = "auto",
    orient: bool = True,
    bits: Bits | None = None,
) -> FileSource:
    """Open the images of ``split`` in the official tree.

    Args:
        root: the folder of ``train``, ``val`` and ``test``.
        split: which images.
        metadata: the benchmark's ``metadata/OpenImages``; ``root / "metadata"`` or, in the benchmark's own checkout,
            ``root / "../../metadata/OpenImages"`` unless told.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
        bits: the same.
    """
    folders = _metadata_folders(root, metadata)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise DataError(f"{folders[0]}: no such folder; give metadata=DIR, the benchmark's metadata/OpenImages")
    listed = read_mask_metadata(folder, split)
    return FileSource(
        root,
        listed.image_ids,
        listed.labels,
        _class_names(folder),
        masks={
            index: InstanceMasks(tuple(objects), listed.ignored[index]) for index, objects in enumerate(listed.masks)
        },
        decoder=decoder,
        orient=orient,
        bits=bits,
    )


def _metadata_folders(root: Path, metadata: str | Path | None) -> list[Path]:
    if metadata is not None:
        return [Path(metadata)]
    return [root / "metadata", root.absolute().parent.parent / "metadata" / "OpenImages"]


def _class_names(folder: Path) -> list[str]:
    """Return the folder in which the images of each class lie, which names it; a number where they lie in several.

    All splits are asked, because one alone may lack a class.
    """
    places: dict[int, set[str]] = {}
    for short in FOLDERS.values():
        file = folder / short / _LABELS
        for line in read_lines(file, "an image id and a class per line") if file.is_file() else ():
            image_id, _, label = line.rpartition(",")
            if label.isdecimal() and len(label) < len(str(MAX_POSITION)):
                places.setdefault(int(label), set()).add(PurePosixPath(image_id).parent.name)
    found = [places.get(label, set()) for label in range(max(places, default=-1) + 1)]
    return [min(names) if len(names) == 1 and min(names) else f"class {k}" for k, names in enumerate(found)]


SPEC = SourceSpec(open_source, layout=LAYOUT, title="OpenImages30k", required=("train_weaksup", "test"))
