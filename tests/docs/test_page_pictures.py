"""docs/make_pictures.py draws what concepts.md shows."""

import re
import subprocess
import sys

import pytest
from pages import DOCS, needs_kernels
from PIL import Image


@pytest.mark.slow
@needs_kernels
def test_pictures_of_the_page_are_drawn_and_are_the_same_again(tmp_path):
    small = ["stage.epochs=1", "stage.batch_size=8", "data.options={size=48,num_train=16,num_val=4,num_test=12}"]
    for folder in ("one", "two"):
        where = ["--runs", tmp_path / "runs", "--output", tmp_path / folder]
        subprocess.run([sys.executable, DOCS / "make_pictures.py", *where, *small, "data.resize=48"], check=True)
    shown = set(re.findall(r"\]\(pictures/([\w-]+\.png)\)", (DOCS / "concepts.md").read_text(encoding="utf-8")))
    # README localises it.
    shown.add("bird.jpg")
    assert shown == {path.name for path in (tmp_path / "one").iterdir()}
    for name in shown:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        with Image.open(tmp_path / "one" / name) as drawn, Image.open(DOCS / "pictures" / name) as published:
            assert drawn.width == published.width
