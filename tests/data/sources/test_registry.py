"""A data set is one file of the folder ``sources``, wherever that file lies."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wsolfast.data import DataError, check, index, open_dataset, sources

DOTS = '''"""``dots``: images of one colour, whose class is the colour."""

from pathlib import Path

from wsolfast.data._source import BoxTable
from wsolfast.data._files import FileSource
from wsolfast.data._spec import SourceSpec
from wsolfast.data.errors import SplitMissingError


def open_source(root: Path, split: str, *, suffix: str = "png") -> FileSource:
    files = sorted(file.name for file in root.glob(f"*.{suffix}"))
    if split == "train_fullsup" or not files:
        raise SplitMissingError(f"{root}: no *.{suffix} in it")
    boxes = BoxTable.from_lists([[[0, 0, 4, 3]] for _ in files])
    return FileSource(root, files, [index % 2 for index in range(len(files))], ["red", "blue"], boxes=boxes)


SPEC = SourceSpec(open_source, layout="a.png", required=("test",))
'''


@pytest.fixture
def dots(tmp_path, monkeypatch, write_text, write_image):
    """The data set ``dots``, whose file lies outside the package, and its folder."""
    write_text("more/dots.py", DOTS)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "more")])
    write_image("images/a.png")
    write_image("images/b.png")
    yield tmp_path / "images"
    sys.modules.pop("wsolfast.data.sources.dots", None)


def test_one_file_makes_a_data_set(dots):
    assert "dots" in sources.list_names()
    dataset = open_dataset("dots", dots, "test", resize=16)
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.class_names == ("red", "blue")
    assert dataset.annotations(1).boxes.tolist() == [[0, 0, 4, 3]]
    report = check("dots", dots)
    assert report.ok, str(report)
    assert report.counts["test"].boxes == 2
    with pytest.raises(ValueError, match=r"has no option 'sufix'; did you mean 'suffix'\?"):
        open_dataset("dots", dots, "test", sufix="jpg")
    with pytest.raises(DataError, match=r"no \*\.jpg in it"):
        open_dataset("dots", dots, "test", suffix="jpg")
    with pytest.raises(ValueError, match="opens as fast from its files"):
        index("dots", dots)
    with pytest.raises(ValueError, match=r"no data set named 'dot'; did you mean 'dots'\?"):
        open_dataset("dot", dots, "test")


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("synthetic", "size", "abc", "size: expected a whole number, got 'abc'"),
        ("synthetic", "size", 48.5, "size: expected a whole number, got 48.5"),
        ("synthetic", "num_train", True, "num_train: expected a whole number, got True"),
        ("synthetic", "body_cue", "much", "body_cue: expected a number, got 'much'"),
        ("cub", "val_per_class", None, "val_per_class: expected a whole number, got None"),
        ("cub", "metadata", 7, "metadata: expected a path, got 7"),
        ("folder", "annotations", ["a.csv"], "annotations: expected text, got ['a.csv']"),
        ("folder", "orient", "no", "orient: expected true or false, got 'no'"),
        ("folder", "bits", 12.0, "bits: expected one of 10, 12, 14, 16, got 12.0"),
        ("parquet", "box_format", "yxyx", "box_format: expected one of xyxy, xywh, got 'yxyx'"),
    ],
)
def test_values_that_an_option_does_not_take_are_refused(tmp_path, name, option, value, message):
    root = None if name == "synthetic" else tmp_path
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_dataset(name, root, "test", **{option: value})


def test_numbers_of_numpy_and_paths_are_as_good_as_pythons():
    assert len(open_dataset("synthetic", None, "test", num_test=np.int64(3), body_cue=np.float32(1), size=32)) == 3
    sources.check_options("cub", {"metadata": Path("a"), "val_images": "b", "val_per_class": np.int32(2)})
    sources.check_options("cub", {"metadata": None, "bits": None})


def test_names_are_told_without_importing_a_data_set():
    code = (
        "import sys, wsolfast.data as data\n"
        "assert {'cub', 'parquet', 'synthetic'} <= set(data.NAMES), data.NAMES\n"
        "print([name for name in data.NAMES if f'wsolfast.data.sources.{name}' in sys.modules])\n"
        "print('wsolfast.data.tools' in sys.modules, 'pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\nFalse False\n"
