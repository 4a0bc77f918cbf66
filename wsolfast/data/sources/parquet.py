"""``parquet``: tables of images as Hugging Face's ``datasets`` stores them.

The column ``image`` holds the file's bytes, alone or as ``{bytes, path}``; ``label`` a whole number from 0, whose names
are taken from the file's own description and matched with those of the training files; ``boxes``, if there, a list of
four numbers for each box. Rows are read by the group in which they were written, so images in order are fast and images
at random are not: for training, write shards (``wsolfast data pack parquet``) or keep decoded images (``--cache-gb``).
"""

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from wsolfast._nearest import nearest
from wsolfast.data._classes import check_positions, occurring, renumber
from wsolfast.data._files import file_state, glob_files, relative_path
from wsolfast.data._packed import PackedSource, check_boxes
from wsolfast.data._source import SPLITS, BoxTable
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import DataError, Faults, SplitMissingError
from wsolfast.data.images.decode import Bits, Decoder, Encoded
from wsolfast.data.metadata import FOLDERS

LAYOUT = """\
data/train-00000-of-00002.parquet         columns image {bytes, path}, label
data/validation-00000-of-00001.parquet    the same and boxes, a list of [x0, y0, x1, y1]; width, height (optional)
data/test-00000-of-00001.parquet"""

BoxFormat = Literal["xyxy", "xywh"]

_NAMES = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}
_KEPT_BYTES = 256 << 20


def open_source(
    root: Path,
    split: str,
    *,
    files: str = "**/{split}-*.parquet",
    image: str = "image",
    label: str = "label",
    boxes: str = "boxes",
    box_format: BoxFormat = "xyxy",
    decoder: Decoder = "auto",
    orient: bool = True,
    bits: Bits | None = None,
) -> "ParquetSource":
    """Open the images of ``split``.

    Args:
        root: the folder of the files.
        split: which images.
        files: pattern of their paths; ``{split}`` becomes train, validation (or val) or test.
        image: column of the images.
        label: column of the labels.
        boxes: column of the boxes; not read for the split that is trained on labels.
        box_format: ``"xyxy"``, x1/y1 exclusive, or ``"xywh"``; pixels of the upright image.
        decoder: see :func:`wsolfast.data.images.decode.decode`.
        orient: the same.
        bits: the same.
    """
    found = _files(root, split, files)
    if not found:
        raise SplitMissingError(f"{root}: no file {files.replace('{split}', FOLDERS[split])}; expected\n{LAYOUT}")
    wanted = None if split == "train_weaksup" else boxes
    tables = [_Table(file, image, label, wanted, box_format) for file in found]
    if not any(len(table.labels) for table in tables):
        raise DataError(f"{found[0]}: split {split!r} is empty; the file has no row")
    names, ids = _classes(root, files, label, tables, split)
    return ParquetSource(tables, names, image, class_ids=ids, decoder=decoder, orient=orient, bits=bits)


class ParquetSource(PackedSource):
    """Rows of parquet files."""

    def __init__(self, tables: Sequence["_Table"], class_names: Sequence[str], image: str, **options: Any):
        labels = np.concatenate([table.labels for table in tables])
        ids = [image_id for table in tables for image_id in table.image_ids]
        if len(set(ids)) < len(ids):
            # Paths are what the writer had; where they do not tell images apart, file and row do.
            ids = [f"{table.file.name}, row {row}" for table in tables for row in range(len(table.labels))]
        super().__init__(
            ids,
            labels,
            class_names,
            boxes=BoxTable.from_lists([boxes for table in tables for boxes in table.boxes]),
            sizes=np.concatenate([table.sizes for table in tables]),
            **options,
        )
        self._column = image
        self._paths = [table.file for table in tables]
        self._states = [table.state for table in tables]
        self._starts = np.cumsum([0, *(len(table.labels) for table in tables)])
        self._group_starts = [table.group_starts for table in tables]
        self._forget()

    def _forget(self) -> None:
        self._process, self._turn = os.getpid(), threading.Lock()
        self._groups: OrderedDict[tuple[int, int], list[bytes | None]] = OrderedDict()

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key not in ("_turn", "_groups", "_process")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()

    def content(self, index: int) -> Encoded:
        file, row = self._place(index)
        group = int(np.searchsorted(self._group_starts[file], row, side="right")) - 1
        content = self._rows(file, group, index)[row - int(self._group_starts[file][group])]
        if not content:
            raise DataError(f"{self.describe(index)}: no bytes; paths to other files are not followed")
        return Encoded(content, self.describe(index))

    def state(self, index: int) -> int:
        file, row = self._place(index)
        return (self._states[file] + row) & 0xFFFFFFFFFFFFFFFF

    def describe(self, index: int) -> str:
        file, row = self._place(index)
        return f"{self._paths[file]}, row {row}"

    def _place(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return file, index - int(self._starts[file])

    def _rows(self, file: int, group: int, index: int) -> list[bytes | None]:
        """Read the images of a row group; those used last are kept, so that reading in order reads each once."""
        if self._process != os.getpid():
            self._forget()
        with self._turn:
            rows = self._groups.pop((file, group), None)
            if rows is None:
                if file_state(self._paths[file]) != self._states[file]:
                    raise DataError(f"{self.describe(index)}: the file has changed since it was opened; start again")
                rows = _read_images(self._paths[file], group, self._column)
            self._groups[file, group] = rows
            while len(self._groups) > 1 and sum(map(_bytes_of, self._groups.values())) > _KEPT_BYTES:
                self._groups.popitem(last=False)
        return rows


def _bytes_of(rows: list[bytes | None]) -> int:
    return sum(len(row or b"") for row in rows)


class _Table:
    """All of one file but its images."""

    def __init__(self, file: Path, image: str, label: str, boxes: str | None, box_format: BoxFormat):
        pyarrow, parquet = _pyarrow()
        self.file, self.state = file, file_state(file)
        with _readable(file), parquet.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            for name in (image, label):
                if name not in schema.names:
                    raise DataError(f"{file}: no column {name!r}; it has {', '.join(schema.names)}")
            columns = [label, *(each for each in (boxes, "width", "height") if each in schema.names)]
            struct = pyarrow.types.is_struct(schema.field(image).type)
            if struct and schema.field(image).type.get_field_index("bytes") < 0:
                raise DataError(f"{file}: the column {image!r} has no bytes; paths to other files are not followed")
            paths = f"{image}.path" if struct and schema.field(image).type.get_field_index("path") >= 0 else None
            table = opened.read(columns=columns + ([paths] if paths else []), use_threads=False)
            sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
        self.group_starts = np.cumsum([0, *sizes])[:-1]
        self.class_names = _class_names(schema, label)
        faults, rows = Faults(), range(table.num_rows)
        with faults.taken():
            self.labels = _labels(table[label].to_pylist(), file)
        names = [row and row["path"] for row in table[image].to_pylist()] if paths else [None] * len(rows)
        self.image_ids = [name or f"{file.name}, row {row}" for row, name in zip(rows, names, strict=True)]
        given = table[boxes].to_pylist() if boxes in table.column_names else [[]] * len(rows)
        self.boxes = []
        for row, each in zip(rows, given, strict=True):
            with faults.taken():
                self.boxes.append(_boxes(each or [], box_format, f"{file}, row {row}"))
        self.sizes = np.zeros((len(rows), 2), np.int64)
        if {"width", "height"} <= set(table.column_names):
            with faults.taken():
                self.sizes = _sizes(table["width"].to_pylist(), table["height"].to_pylist(), file)
        faults.raise_any()


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("data set 'parquet' needs pyarrow: pip install 'wsolfast[parquet]'") from None
    return pyarrow, pyarrow.parquet


def _files(root: Path, split: str, pattern: str) -> list[Path]:
    for name in _NAMES[FOLDERS[split]]:
        found = glob_files(root, relative_path(pattern.replace("{split}", name), "files"))
        if found:
            return found
    return []


def _read_images(file: Path, group: int, image: str) -> list[bytes | None]:
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(file) as opened:
            struct = pyarrow.types.is_struct(opened.schema_arrow.field(image).type)
            column = opened.read_row_group(group, columns=[f"{image}.bytes" if struct else image], use_threads=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from error
    rows = column[image].to_pylist()
    return [row and row["bytes"] for row in rows] if struct else rows


def _classes(
    root: Path, pattern: str, label: str, tables: Sequence["_Table"], split: str
) -> tuple[list[str], list[int] | None]:
    """Return the names of the classes and their ids; labels of ``tables`` become positions among them.

    Names are matched with those of the training split. Without names the classes are the labels that occur in any
    split.
    """
    others = {other: _files(root, other, pattern) for other in SPLITS if other != split}
    names = tables[0].class_names
    odd = next((table.file for table in tables if table.class_names != names), None)
    if odd is not None:
        raise DataError(f"{odd}: its classes have other names or another order than in {tables[0].file}")
    for table in tables if names else ():
        check_positions(table.labels, table.image_ids, names, table.file)
    training = next(iter(others.get("train_weaksup", [])), None)
    if training in {table.file for table in tables}:
        training = None
    if names:
        known = names if training is None else _names_in(training, label) or names
        places = renumber(names, known)
        for table in tables:
            table.labels = _as_in_training(table, places, known, training)
        return known, None
    labels = [_labels_in(file, label) for files in others.values() for file in files]
    ids = occurring([*(table.labels for table in tables), *labels])
    for table in tables:
        table.labels = np.searchsorted(ids, table.labels)
    return [f"class {each}" for each in ids], ids


def _as_in_training(table: "_Table", places: np.ndarray, known: list[str], training: Path | None) -> np.ndarray:
    labels = places[table.labels]
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        name = table.class_names[table.labels[unknown[0]]]
        hint = nearest(name, known, "classes are matched by name")
        raise DataError(f"{table.file}, row {unknown[0]}: its class {name!r} is not among those of {training}; {hint}")
    return labels


def _names_in(file: Path, label: str) -> list[str]:
    _, parquet = _pyarrow()
    with _readable(file):
        return _class_names(parquet.read_schema(file), label)


def _labels_in(file: Path, label: str) -> np.ndarray:
    _, parquet = _pyarrow()
    with _readable(file), parquet.ParquetFile(file) as opened:
        if label not in opened.schema_arrow.names:
            raise DataError(f"{file}: no column {label!r}; it has {', '.join(opened.schema_arrow.names)}")
        return _labels(opened.read(columns=[label], use_threads=False)[label].to_pylist(), file)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    pyarrow, _ = _pyarrow()
    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file}: not a readable parquet file ({str(error).splitlines()[0]})") from error


def _class_names(schema: Any, label: str) -> list[str]:
    """Return the names that ``datasets`` keeps of a ClassLabel; empty without."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, ValueError, TypeError, RecursionError):
        return []


def _labels(values: list, file: Path) -> np.ndarray:
    faults = Faults()
    for row, value in enumerate(values):
        if not isinstance(value, int) or not 0 <= value < 1 << 31:
            faults.add(f"{file}, row {row}: a label is a whole number from 0, got {str(value)[:40]!r}")
    faults.raise_any()
    return np.array(values, np.int64)


def _sizes(widths: list, heights: list, file: Path) -> np.ndarray:
    """Return (width, height) of each row; 0 where it is not told."""
    sizes, faults = np.zeros((len(widths), 2), np.int64), Faults()
    for row, size in enumerate(zip(widths, heights, strict=True)):
        if size in ((None, None), (0, 0)):
            continue
        if all(isinstance(side, int | float) and 0 < side < 1 << 31 and side == int(side) for side in size):
            sizes[row] = size
        else:
            faults.add(f"{file}, row {row}: width and height are positive whole numbers, got {size}")
    faults.raise_any()
    return sizes


def _boxes(boxes: list, box_format: BoxFormat, where: str) -> list[list[float]]:
    numbers = isinstance(boxes, list) and all(isinstance(box, list) and len(box) == 4 for box in boxes)
    numbers = numbers and all(type(side) in (int, float) for box in boxes for side in box)
    if box_format == "xywh" and numbers:
        boxes = [[x, y, x + width, y + height] for x, y, width, height in boxes]
    return check_boxes(boxes, where)


SPEC = SourceSpec(open_source, layout=LAYOUT)
