"""One XML file of boxes per image, as Pascal VOC, ImageNet and most programs for annotation write it."""

from pathlib import Path

from wsolfast.data.errors import DataError

_EDGES = ("xmin", "ymin", "xmax", "ymax")


# (width, height) of an image, and the class and xyxy box of each object.
Annotated = tuple[tuple[int, int], list[tuple[str, list[float]]]]


def read_xml(file: Path, *, one_based: bool = False, empty_ok: bool = False) -> Annotated:
    """Read (width, height) and (class, half-open xyxy box) of each object.

    Args:
        file: the annotation.
        one_based: corners are the first and the last pixel of the object, counted from 1, as Pascal VOC defines them;
            otherwise they are taken as half-open edges.
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
    flat = next(
        (box for _, box in objects if not (-1e9 < box[0] < box[2] < 1e9 and -1e9 < box[1] < box[3] < 1e9)), None
    )
    if flat is not None or min(size) < 1:
        raise DataError(f"{file}: size {size} or box {flat} has no area")
    return size, objects
