"""One XML file of boxes per image, as Pascal VOC, ImageNet and most programs for annotation write it."""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from wsolfast.data.errors import DataError

_EDGES = ("xmin", "ymin", "xmax", "ymax")


# (width, height) of an image, and the class and xyxy box of each object.
Annotated = tuple[tuple[int, int], list[tuple[str, list[float]]]]


def read_xml(file: Path, *, one_based: bool | None = False, empty_ok: bool = False) -> Annotated:
    """Read (width, height) and (class, half-open xyxy box) of each object.

    Args:
        file: the annotation.
        one_based: corners are the first and the last pixel of the object, counted from 1, as Pascal VOC defines them;
            otherwise they are taken as half-open edges. None takes them as they are, and does not look at them.
        empty_ok: an image may show no object.

    Raises:
        DataError: if the file is missing or malformed, or a box has no area.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, parse

    try:
        tree = parse(file)
    except FileNotFoundError:
        raise DataError(f"{file}: missing; it holds the boxes of an image") from None
    except (OSError, ParseError, DefusedXmlException) as error:
        raise DataError(f"{file}: not a readable annotation ({error})") from error
    try:
        size = int(tree.findtext("size/width")), int(tree.findtext("size/height"))
        objects = [
            (item.findtext("name"), [float(item.findtext(f"bndbox/{edge}")) for edge in _EDGES])
            for item in tree.iterfind("object")
        ]
    except (TypeError, ValueError):
        raise DataError(f"{file}: size or bndbox is missing or not a number") from None
    if not objects and not empty_ok:
        raise DataError(f"{file}: no object in it")
    if one_based:
        if any(min(box[:2]) < 1 for _, box in objects):
            raise DataError(
                f"{file}: a corner at 0, and Pascal VOC counts pixels from 1; set data.options.one_based=false for a "
                "program that counts from 0"
            )
        objects = [(name, [box[0] - 1, box[1] - 1, *box[2:]]) for name, box in objects]
    if one_based is None:
        return size, objects
    flat = next(
        (box for _, box in objects if not (-1e9 < box[0] < box[2] < 1e9 and -1e9 < box[1] < box[3] < 1e9)), None
    )
    if flat is not None or min(size) < 1:
        raise DataError(f"{file}: size {size} or box {flat} has no area")
    return size, objects


def xml_text(path: str, size: tuple[int, int], name: str, box: Sequence[int]) -> str:
    """Return the XML of an image with one object.

    Args:
        path: folder and stem of the image.
        size: (width, height).
        name: the class.
        box: its corners as they are to stand there.
    """
    folder, _, stem = path.rpartition("/")
    return _XML.format(folder=folder, stem=stem, width=size[0], height=size[1], name=escape(name), box=box)


_XML = """\
<annotation>
\t<folder>{folder}</folder>
\t<filename>{stem}</filename>
\t<source>
\t\t<database>rendered by wsolfast</database>
\t</source>
\t<size>
\t\t<width>{width}</width>
\t\t<height>{height}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>{name}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{box[0]}</xmin>
\t\t\t<ymin>{box[1]}</ymin>
\t\t\t<xmax>{box[2]}</xmax>
\t\t\t<ymax>{box[3]}</ymax>
\t\t</bndbox>
\t</object>
</annotation>
"""
