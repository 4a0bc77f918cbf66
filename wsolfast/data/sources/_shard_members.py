"""Members of a tar file of images, as the data set ``shards`` reads them."""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wsolfast.data._files import relative_path
from wsolfast.data._packed import check_boxes
from wsolfast.data.errors import DataError, Faults

_IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"}
_MASK = "mask.png"
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
# Of the small members; anything larger is not what it says.
_MAX_NOTE_BYTES = 1 << 20


@dataclass
class ShardImage:
    """Members of one key."""

    name: str = ""
    place: int = 0
    bytes: int = 0
    label: int | None = None
    note: dict = field(default_factory=dict)
    mask_place: int = 0
    mask_bytes: int = 0
    labelled_by: str = ""  # the member that has the label

    def set_label(self, label: int, member: str, where: str) -> None:
        """Take the label that a member says.

        Raises:
            DataError: if another member says another one.
        """
        if self.label not in (None, label):
            raise DataError(f"{where}: the label is {label} here and {self.label} in {self.labelled_by!r}; correct one")
        self.label, self.labelled_by = label, self.labelled_by or member


def scan_shard(file: Path, with_boxes: bool) -> list[ShardImage]:
    """Find the images of a shard, with where their bytes lie and what is annotated.

    Args:
        file: the shard.
        with_boxes: False leaves boxes unread.

    Raises:
        DataError: if it is damaged, or a member is none of an image's, contradicts another one, or is missing.
    """
    images: dict[str, ShardImage] = {}
    faults, faulty = Faults(), set()
    whole = False
    with faults.taken():
        for where, tar, member in _members(file):
            try:
                _add(images, tar, member, where, with_boxes)
            except DataError as error:
                faults.add(error)
                faulty.add(_key(member.name))
        whole = True
    # What a shard lacks can be told if all of it is there.
    for key, image in images.items() if whole else ():
        if key not in faulty and not image.bytes:
            faults.add(f"{file}, {key}: no image, or an empty one, beside its label")
        if key not in faulty and image.label is None:
            faults.add(f"{file}, {key}: no label; it is the text of {key}.cls, or 'label' in {key}.json")
    faults.raise_any()
    return list(images.values())


def _members(file: Path) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    """Yield every member, and where it stands.

    Raises:
        DataError: if the file is damaged or cut off.
    """
    size, end = file.stat().st_size, 0
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                where = f"{file}, member {member.name!r}"
                if not 0 <= member.size <= size - member.offset_data:
                    raise DataError(f"{where}: is cut off; get the shard again")
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                yield where, tar, member
            # The block of zeros that ends an archive: without it, members may be missing.
            tar.fileobj.seek(end)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise DataError(f"{file}: is cut off; get the shard again")
    except (tarfile.TarError, EOFError, ValueError) as error:
        advice = (
            "compressed shards cannot be read in any order: unpack them" if file.suffix != ".tar" else "get it again"
        )
        raise DataError(f"{file}: damaged, or not a plain tar file ({error}); {advice}") from error


def _key(name: str) -> str:
    """Return what the members of an image share."""
    split = _NAME.fullmatch(name)
    return name if split is None else split[1]


def _add(images: dict[str, ShardImage], tar: tarfile.TarFile, member: tarfile.TarInfo, where: str, boxes: bool) -> None:
    relative_path(member.name, where)
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        raise DataError(f"{where}: is a link, a device or a pipe; only files are taken")
    split = _NAME.fullmatch(member.name)
    if split is None:
        return
    key, suffix = split[1], split[2].lower()
    if suffix in _IMAGE_SUFFIXES:
        image = images.setdefault(key, ShardImage())
        if image.bytes:
            raise DataError(f"{where}: {key} has two images")
        image.place, image.bytes = member.offset_data, member.size
        image.name = image.name or member.name
        image.note.setdefault("boxes", [])
        image.note.setdefault("size", (0, 0))
    elif suffix == _MASK:
        image = images.setdefault(key, ShardImage())
        image.mask_place, image.mask_bytes = member.offset_data, member.size
    elif suffix == "cls":
        label = _label(_note(tar, member, where).strip(), where)
        images.setdefault(key, ShardImage()).set_label(label, member.name, where)
    elif suffix == "json":
        _read_json(images.setdefault(key, ShardImage()), _note(tar, member, where), member.name, where, boxes)


def _note(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> str:
    if member.size > _MAX_NOTE_BYTES:
        raise DataError(f"{where}: {member.size} bytes are no label and no annotation")
    content = tar.extractfile(member)
    assert content is not None  # it is a file
    try:
        return content.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not text ({error})") from None


def _label(value: object, where: str) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or len(text) > 9:
        raise DataError(f"{where}: a label is a whole number from 0, got {text[:40]!r}")
    return int(text)


def _read_json(image: ShardImage, text: str, name: str, where: str, with_boxes: bool) -> None:
    try:
        note = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({type(error).__name__})") from None
    if not isinstance(note, dict):
        raise DataError(f"{where}: expected an object with label, boxes, width, height")
    if "label" in note:
        image.set_label(_label(note["label"], where), name, where)
    image_id = note.get("image_id")
    if image_id is not None:
        if not isinstance(image_id, str) or not image_id.isprintable() or not image_id:
            raise DataError(f"{where}: image_id is a text, got {str(image_id)[:40]!r}")
        image.name = image_id
    image.note = {
        "boxes": check_boxes(note.get("boxes") or [], where) if with_boxes else [],
        "size": _size(note, where),
    }


def _size(note: dict, where: str) -> tuple[int, int]:
    if "width" not in note or "height" not in note:
        return (0, 0)
    size = note["width"], note["height"]
    if not all(type(side) is int and 0 < side < 1 << 24 for side in size):
        raise DataError(f"{where}: width and height are positive whole numbers, got {str(size)[:80]}")
    return size
